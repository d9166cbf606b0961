"""Density peaks (Rodriguez & Laio, Science 2014): a good centre is dense and far from anything denser."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from setok.models.device import device_kind


def squared_distances(x: Float[Tensor, "batch n width"]) -> Float[Tensor, "batch n n"]:
    """Squared Euclidean distances between all rows: never negative, zero on the diagonal, and symmetric to the last bit.

    A matrix product alone is not, in a way that depends on its shape; of two patches, equally good, the first would
    then win in one batch and the second in another.
    """
    square = x.pow(2).sum(-1)
    distances = torch.baddbmm(square.unsqueeze(1) + square.unsqueeze(2), x, x.transpose(1, 2), alpha=-2)
    distances.diagonal(dim1=1, dim2=2).zero_()
    distances = distances.relu_()  # in place: these matrices are the largest tensors of the clustering
    return (distances + distances.transpose(1, 2)).mul_(0.5)


def density_peak_scores(
    distances: Float[Tensor, "batch n n"],
    num_neighbors: int,
    *,
    squared: bool = False,
    include_self: bool = False,
    peak: Literal["own", "image", "radius"] = "own",
    patch_mask: Bool[Tensor, "batch n"] | None = None,
) -> Float[Tensor, "batch n"]:
    """Score ρ·δ of every patch.

    ρ_i = exp(−mean of the squared distances to the k nearest), δ_i = distance to the nearest denser patch.

    Args:
        distances: Euclidean.
        squared: the distances are squared; saves a square root of every pair.
        num_neighbors: k; cut down where there are fewer patches.
        include_self: count the patch itself among its neighbours, as TCFormer and Chat-UniVi do.
        peak: δ of a patch that has no denser one: ``own``, its largest distance; ``image``, the largest distance in the
            image (TCFormer, Zeng et al. 2022); ``radius``, the smallest eccentricity of the image, which also caps every
            other δ (what the public SeTok code computes).
        patch_mask: True for real patches; the others take no part and score zero.
    """
    if patch_mask is not None:
        distances = distances.masked_fill(~patch_mask.unsqueeze(1), torch.inf)
    density = _density(distances, num_neighbors, squared=squared, include_self=include_self)
    if patch_mask is not None:
        density = density.masked_fill(~patch_mask, -1.0)
    if peak == "own":  # of two equally dense patches the earlier one counts as denser: a flat region has one peak
        rank = density.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1).to(torch.int32)
        denser = rank.unsqueeze(1) < rank.unsqueeze(2)
    else:  # the peers leave equally dense patches unrelated, and each is a peak
        denser = density.unsqueeze(1) > density.unsqueeze(2)
    nearest_denser = torch.where(denser, distances, torch.inf).amin(-1)
    if patch_mask is not None:
        distances = distances.masked_fill(~patch_mask.unsqueeze(1), 0.0)
    eccentricity = distances.amax(-1)
    if peak == "own":
        delta = torch.where(torch.isinf(nearest_denser), eccentricity, nearest_denser)
    elif peak == "image":
        if patch_mask is not None:
            eccentricity = eccentricity * patch_mask
        delta = nearest_denser.minimum(eccentricity.amax(-1, keepdim=True))
    else:
        if patch_mask is not None:
            eccentricity = eccentricity.masked_fill(~patch_mask, torch.inf)
        delta = nearest_denser.minimum(eccentricity.amin(-1, keepdim=True))
    scores = density * (delta.sqrt() if squared else delta)
    return scores if patch_mask is None else scores.masked_fill(~patch_mask, 0.0)


def _density(
    distances: Float[Tensor, "batch n n"], num_neighbors: int, *, squared: bool, include_self: bool
) -> Float[Tensor, "batch n"]:
    """ρ of every patch; distances to padded patches are infinite, and left out."""
    n = distances.shape[-1]
    first = 0 if include_self else 1
    k = max(1, min(num_neighbors, n - first))
    nearest = smallest(distances, min(k + first, n))[..., first:]
    found = torch.isfinite(nearest)
    nearest = torch.where(found, nearest if squared else nearest.square(), 0.0)
    mean = nearest.sum(-1) / found.sum(-1).clamp_min(1)
    return torch.exp(-mean)


def smallest(x: Float[Tensor, "batch n n"], k: int) -> Float[Tensor, "batch n k"]:
    """The ``k`` smallest values of every row, rising.

    They lie in the ``k`` groups of columns with the smallest minima, so only those are searched: on CPU that takes half the
    time of ``topk``, where rows are shorter than 64·k and it would sort them in part.
    """
    n = x.shape[-1]
    size = next((s for s in (8, 9, 7, 10, 6, 5) if n % s == 0 and n // s >= 2 * k), None)
    if size is None or n >= 64 * k or device_kind(x) != "cpu":
        return x.topk(k, largest=False).values
    groups = x.unflatten(-1, (size, n // size))
    chosen = groups.amin(-2).topk(k, largest=False, sorted=False).indices
    candidates = groups.gather(-1, chosen.unsqueeze(-2).expand(-1, -1, size, -1))
    return candidates.flatten(-2).topk(k, largest=False).values
