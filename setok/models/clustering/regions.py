"""Cutting clusters into their connected regions, so that two like things at two places become two tokens."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from setok.models.clustering.clusters import Clusters


def split_regions(clusters: Clusters, grid: tuple[int, int], *, min_patches: int, max_tokens: int) -> Clusters:
    """Give every connected region of a cluster (by shared edges) a cluster of its own.

    Each cluster keeps its largest region and those of fewer than ``min_patches`` patches; the other regions become clusters
    of their own, the largest first, until the image has ``max_tokens``. The image's largest cluster stays whole: that is
    mostly a background, whose regions are parts of one thing that others stand before. A soft mask goes with its patches;
    where a cluster has a share of patches that others own, the nearest of its regions gets it. So masks still sum to one.

    Args:
        clusters: real ones first; the result has room for ``max_tokens``.
        grid: rows and columns of patches.
    """
    with torch.no_grad():
        region = connected_regions(clusters.assignment, grid)
        parent, owner = _new_clusters(clusters, region, min_patches, max_tokens)
        shares = _shares(parent, owner, grid)
    batch, _, n = clusters.masks.shape
    count = parent.shape[1]
    masks = clusters.masks.gather(1, parent.clamp_min(0).unsqueeze(-1).expand(batch, count, n)) * shares
    return Clusters(assignment=owner, masks=masks, mask=parent >= 0, scores=clusters.scores)


def connected_regions(assignment: Int[Tensor, "batch n"], grid: tuple[int, int]) -> Int[Tensor, "batch n"]:
    """The lowest index of a patch in the connected region of every patch; neighbours of one cluster share a region.

    Labels spread to neighbours and jump to their label's label, so that few rounds suffice for any region.
    """
    batch, n = assignment.shape
    rows, columns = grid
    owner = assignment.view(batch, rows, columns)
    down = (owner[:, 1:] == owner[:, :-1]) & (owner[:, 1:] >= 0)
    right = (owner[:, :, 1:] == owner[:, :, :-1]) & (owner[:, :, 1:] >= 0)
    label = torch.arange(n, device=assignment.device).expand(batch, n)
    while True:
        spread = label.reshape(batch, rows, columns).clone()
        least = torch.minimum(spread[:, 1:], spread[:, :-1])
        spread[:, :-1] = torch.where(down, torch.minimum(spread[:, :-1], least), spread[:, :-1])
        spread[:, 1:] = torch.where(down, torch.minimum(spread[:, 1:], least), spread[:, 1:])
        least = torch.minimum(spread[:, :, 1:], spread[:, :, :-1])
        spread[:, :, :-1] = torch.where(right, torch.minimum(spread[:, :, :-1], least), spread[:, :, :-1])
        spread[:, :, 1:] = torch.where(right, torch.minimum(spread[:, :, 1:], least), spread[:, :, 1:])
        new = spread.view(batch, n)
        new = torch.minimum(new, new.gather(1, new))
        if torch.equal(new, label):
            return new
        label = new


def _new_clusters(
    clusters: Clusters, region: Int[Tensor, "batch n"], min_patches: int, max_tokens: int
) -> tuple[Int[Tensor, "batch tokens"], Int[Tensor, "batch n"]]:
    """Old cluster of every new one (-1 for padding), and the new cluster of every patch."""
    batch, n = region.shape
    device = region.device
    owner = clusters.assignment
    size = torch.zeros(batch, n, dtype=torch.long, device=device).scatter_add_(1, region, (owner >= 0).long())
    # By size, then by place: one number to sort by.
    rank = size * n + (n - 1 - torch.arange(n, device=device))
    largest = torch.zeros(batch, clusters.mask.shape[1], dtype=torch.long, device=device)
    largest = largest.scatter_reduce(1, owner.clamp_min(0), torch.where(size > 0, rank, 0), "amax")
    kept = largest.gather(1, owner.clamp_min(0)) == rank  # at the first patch of each cluster's largest region
    whole = torch.zeros_like(largest).scatter_add_(1, owner.clamp_min(0), (owner >= 0).long()).argmax(-1)
    behind = owner == whole.unsqueeze(1)  # what lies behind everything is cut by what stands before it, and stays one
    free = (size >= min_patches) & (size > 0) & ~kept & ~behind
    order = torch.where(free, rank, -1).argsort(dim=-1, descending=True, stable=True)
    place = order.argsort(dim=-1)
    room = max_tokens - clusters.counts.unsqueeze(1)
    taken = free & (place < room)
    number = torch.where(taken, clusters.counts.unsqueeze(1) + place, -1)
    moved = number.gather(1, region)
    new_owner = torch.where((moved >= 0) & (owner >= 0), moved, owner)
    width = max(max_tokens, clusters.mask.shape[1])
    parent = torch.full((batch, width + 1), -1, device=device)
    parent[:, : clusters.mask.shape[1]] = torch.where(
        clusters.mask, torch.arange(clusters.mask.shape[1], device=device), -1
    )
    parent.scatter_(1, torch.where(taken, number, width), torch.where(taken, owner, -1))
    return parent[:, :width], new_owner


def _shares(
    parent: Int[Tensor, "batch tokens"], owner: Int[Tensor, "batch n"], grid: tuple[int, int]
) -> Float[Tensor, "batch tokens n"]:
    """Which part of its old cluster's mask each new cluster takes at every patch: all or nothing, by nearness."""
    batch, count = parent.shape
    n, device = owner.shape[1], owner.device
    y, x = torch.meshgrid(*(torch.arange(side, device=device) for side in grid), indexing="ij")
    places = torch.stack([y.flatten(), x.flatten()], -1)
    apart = (places.unsqueeze(0) - places.unsqueeze(1)).square().sum(-1).float()
    siblings: Bool[Tensor, "batch tokens tokens"] = (parent.unsqueeze(1) == parent.unsqueeze(2)) & (
        parent.unsqueeze(1) >= 0
    )
    split = siblings.sum(-1) > 1
    distance = torch.zeros(batch, count, n, device=device)
    image, token = split.nonzero(as_tuple=True)
    if len(image):
        mine = owner[image] == token.unsqueeze(1)
        distance[image, token] = torch.stack([torch.where(own, apart, torch.inf).amin(-1) for own in mine])
    # The nearest sibling, the first of equally near ones.
    order = distance * count + torch.arange(count, device=device).view(1, -1, 1) * 1e-3
    best = torch.where(siblings.unsqueeze(-1), order.unsqueeze(1), torch.inf).amin(2)
    return ((order <= best) & (parent >= 0).unsqueeze(-1)).float()
