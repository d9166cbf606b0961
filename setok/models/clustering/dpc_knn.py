"""Clusters around density peaks: DPC-KNN."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from setok.config import ClusteringConfig


def dpc_knn(
    distances: Float[Tensor, "batch n n"],
    scores: Float[Tensor, "batch n"],
    config: ClusteringConfig,
    patch_mask: Bool[Tensor, "batch n"] | None = None,
) -> Int[Tensor, "batch n"]:
    """Density-peak centres, every patch to its nearest one (DPC-KNN, Du et al. 2016; as used by TCFormer and Chat-UniVi).

    Centres are the patches that score above the threshold (of the image's best score where ``relative_threshold``),
    never fewer than ``min_tokens`` nor more than ``max_tokens``, or just the ``num_clusters`` best. A centre belongs
    to itself. Clusters are numbered by falling score. Patches outside ``patch_mask`` belong to none (-1).
    """
    n = distances.shape[-1]
    most = min(config.max_tokens, n)
    if patch_mask is not None:
        scores = scores.masked_fill(~patch_mask, -1.0)
    best, centers = scores.sort(dim=-1, descending=True, stable=True)
    best, centers = best[:, :most], centers[:, :most]
    rank = torch.arange(most, device=scores.device)
    if config.num_clusters is not None:
        chosen = (rank < config.num_clusters).expand_as(best)
    else:
        scale = best[:, :1] if config.relative_threshold else 1.0
        chosen = (best > config.score_threshold * scale) | (rank < config.min_tokens)
    if patch_mask is not None:
        chosen = chosen & (rank < patch_mask.sum(-1, keepdim=True))
    return nearest_center(distances, centers, chosen, patch_mask)


def nearest_center(
    distances: Float[Tensor, "batch n n"],
    centers: Int[Tensor, "batch k"],
    chosen: Bool[Tensor, "batch k"],
    patch_mask: Bool[Tensor, "batch n"] | None,
) -> Int[Tensor, "batch n"]:
    """Every patch to the nearest chosen centre, the first of equals; a centre to itself; padded patches to none (-1)."""
    n = distances.shape[-1]
    to_center = distances.gather(1, centers.unsqueeze(-1).expand(-1, -1, n))
    nearest = to_center.masked_fill(~chosen.unsqueeze(-1), torch.inf).argmin(1)
    index = torch.arange(n, device=distances.device)
    own = (centers.unsqueeze(-1) == index) & chosen.unsqueeze(-1)
    assignment = torch.where(own.any(1), own.to(torch.uint8).argmax(1), nearest)
    return assignment if patch_mask is None else assignment.masked_fill(~patch_mask, -1)
