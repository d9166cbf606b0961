"""Soft clusters by breaking a stick: Algorithm 1 of SeTok."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from setok.config import ClusteringConfig


def stick_breaking(
    distances: Float[Tensor, "batch n n"],
    scores: Float[Tensor, "batch n"],
    config: ClusteringConfig,
    patch_mask: Bool[Tensor, "batch n"] | None = None,
) -> tuple[Float[Tensor, "batch k n"], Int[Tensor, "batch n"]]:
    """Algorithm 1 of SeTok (Wu et al. 2025), the stick-breaking of GENESIS-V2 (Engelcke et al. 2021) with density-peak seeds.

    Each round takes the best-scored patch of the remaining scope z as a seed and gives it the share
    α = exp(−d²·c·ln 2) of what is left of every patch; the last mask is the remaining scope, so masks sum to one.
    A round that would explain too little, or finds too little left, ends the image's rounds (not before ``min_tokens``).

    Args:
        distances: squared.
        scores: see ``density_peak_scores``.
        config: sharpness, stop rules, and bounds on the number of tokens.
        patch_mask: True for real patches; the others belong to no cluster.

    Returns:
        The masks, and for every patch the mask that takes most of it (-1 for padded patches). The first ``min_tokens``
        seeds own their patch whatever the masks say, so the lower bound on the number of tokens holds.
    """
    batch, n, _ = distances.shape
    sharpness = config.sharpness if config.sharpness is not None else float(config.max_tokens)
    rows = torch.arange(batch, device=distances.device)
    index = torch.arange(n, device=distances.device)
    free = torch.ones(batch, n, dtype=torch.bool, device=distances.device) if patch_mask is None else patch_mask
    scope = free.to(distances.dtype)
    size = scope.sum(-1)
    live = torch.ones(batch, dtype=torch.bool, device=distances.device)
    masks, seeds, last, lives = [], [], [], []
    owner = torch.full((batch, n), -1, device=distances.device)
    with torch.no_grad():
        for number in range(config.max_tokens):
            candidates = (scores * scope).masked_fill(~free, -1.0)
            seed = candidates.argmax(-1)
            chosen = index == seed.unsqueeze(1)
            forced = chosen & free if number < config.min_tokens else None
            if forced is not None:
                owner = torch.where(forced, number, owner)
            free = free & ~chosen
            share = scope * torch.exp2(-distances[rows, seed] * sharpness)
            ends = (share.sum(-1) <= config.stop_mass) | (scope.sum(-1) <= config.stop_scope * size)
            must_go_on = number + 1 < size.clamp(max=config.min_tokens)
            ends = live & ((ends & ~must_go_on) | (number == config.max_tokens - 1))
            mask = torch.where(ends.unsqueeze(-1), scope, share) * live.unsqueeze(-1)
            seeds.append(seed)
            last.append(ends)
            lives.append(live)
            masks.append(mask)
            live = live & ~ends
            scope = scope - mask
    stacked = torch.stack(masks, dim=1)
    assignment = stacked.argmax(1)
    assignment = torch.where(owner >= 0, owner, assignment)
    if patch_mask is not None:
        assignment = assignment.masked_fill(~patch_mask, -1)
    if distances.requires_grad:
        stacked = _differentiable_masks(distances, torch.stack(seeds, 1), last, lives, sharpness, patch_mask)
    return stacked, assignment


def _differentiable_masks(
    distances: Float[Tensor, "batch n n"],
    seeds: Int[Tensor, "batch k"],
    last: list[Tensor],
    live: list[Tensor],
    sharpness: float,
    patch_mask: Bool[Tensor, "batch n"] | None,
) -> Float[Tensor, "batch k n"]:
    """The masks of known seeds. All rows of distances are taken at once: one backward pass over the pairs, not k."""
    taken = distances.gather(1, seeds.unsqueeze(-1).expand(-1, -1, distances.shape[-1]))
    shares = torch.exp2(-taken * sharpness)
    scope = torch.ones_like(distances[:, 0]) if patch_mask is None else patch_mask.to(distances.dtype)
    masks = []
    for number, (ends, lives) in enumerate(zip(last, live, strict=True)):
        mask = torch.where(ends.unsqueeze(-1), scope, scope * shares[:, number]) * lives.unsqueeze(-1)
        scope = scope - mask
        masks.append(mask)
    return torch.stack(masks, dim=1)
