"""Clusters of a graph of similar patches: DiVT."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from setok.config import ClusteringConfig
from setok.models.clustering.dpc_knn import nearest_center


def cosine_graph(
    distances: Float[Tensor, "batch n n"],
    config: ClusteringConfig,
    patch_mask: Bool[Tensor, "batch n"] | None = None,
) -> tuple[Int[Tensor, "batch n"], Float[Tensor, "batch n"]]:
    """Greedy cover of the graph that links patches of cosine similarity above θ (DiVT, arXiv 2605.17954).

    Each round takes the unassigned patch of highest degree as a centre, with its unassigned neighbours. In the end every
    patch goes to its most similar centre. Of equal degrees, the patch that is more similar to the whole picture comes
    first, then the earlier one. Rounds end when all patches are taken or there are ``max_tokens``; an image that would
    get fewer than ``min_tokens`` takes more centres, each time the patch least similar to those it has.

    Args:
        distances: squared, between features of unit length: d² = 2 − 2·cos.
        config: ``similarity_threshold`` θ and the bounds on the number of tokens.
        patch_mask: True for real patches; the others belong to no cluster (-1).

    Returns:
        The cluster of every patch, numbered in the order the centres were taken, and the degree of every patch.
    """
    batch, n, _ = distances.shape
    real = torch.ones(batch, n, dtype=torch.bool, device=distances.device) if patch_mask is None else patch_mask
    linked = distances < 2 * (1 - config.similarity_threshold)
    linked.diagonal(dim1=1, dim2=2).fill_(True)
    if patch_mask is not None:
        linked &= patch_mask.unsqueeze(1) & patch_mask.unsqueeze(2)
    degree = linked.sum(-1)
    total = (distances * real.unsqueeze(1)).sum(-1, dtype=torch.float64)
    priority = degree.double() - total / (4 * n + 1)  # d² ≤ 4, so the second term stays under one
    index = torch.arange(n, device=distances.device)
    rows = torch.arange(batch, device=distances.device)
    unassigned, outside = real, real
    to_centers = torch.full_like(distances[:, 0], torch.inf)
    centers, chosen = [], []
    for number in range(min(config.max_tokens, n)):
        open_ = unassigned.any(-1)
        far = torch.where(outside, to_centers, -1.0).argmax(-1)
        center = torch.where(open_, torch.where(unassigned, priority, -torch.inf).argmax(-1), far)
        takes = open_ | (outside.any(-1) & (number < config.min_tokens))
        centers.append(center)
        chosen.append(takes)
        unassigned = unassigned & ~(linked[rows, center] & takes.unsqueeze(1))
        outside = outside & ~((index == center.unsqueeze(1)) & takes.unsqueeze(1))
        to_centers = torch.where(takes.unsqueeze(1), to_centers.minimum(distances[rows, center]), to_centers)
    assignment = nearest_center(distances, torch.stack(centers, 1), torch.stack(chosen, 1), patch_mask)
    return assignment, degree.to(distances.dtype)
