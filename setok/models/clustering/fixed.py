"""Controls that give every picture the same number of tokens: uniform grid cells and k-means."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from setok.models.clustering.clusters import one_hot


def grid_cells(grid: tuple[int, int], num_tokens: int, real: Bool[Tensor, "batch n"]) -> Int[Tensor, "batch n"]:
    """Cut every picture into exactly ``num_tokens`` near-square cells (one per patch where it has fewer patches).

    The picture is cut into bands of rows, and each band into cells; where the number does not divide evenly some bands get
    one cell more than others. The number of bands is the one whose average cell is closest to a square.

    Args:
        grid: rows and columns of patches.
        num_tokens: cells wanted.
        real: True for real patches. A picture is taken to fill the rectangle around its real patches; if it does not,
            some cells may be left without a patch.

    Returns:
        The cell of every patch, row by row; -1 for padded patches.
    """
    lattice = rearrange(real, "b (h w) -> b h w", h=grid[0])
    has_row, has_column = lattice.any(2), lattice.any(1)
    height, width = has_row.sum(-1, keepdim=True), has_column.sum(-1, keepdim=True)
    cells = (height * width).clamp(max=num_tokens)
    bands = torch.arange(1, grid[0] + 1, device=real.device)
    cost = ((height * cells).double() / (bands * bands * width).clamp_min(1)).log().abs()
    fits = (bands <= height) & (bands <= cells) & (bands * width >= cells)
    num_bands = cost.masked_fill(~fits, torch.inf).argmin(-1, keepdim=True) + 1
    row = has_row.long().cumsum(-1) - 1
    column = has_column.long().cumsum(-1) - 1
    band = row * num_bands // height.clamp_min(1)
    start, end = band * cells // num_bands, (band + 1) * cells // num_bands
    inside = column.unsqueeze(1) * (end - start).unsqueeze(2) // width.clamp_min(1).unsqueeze(2)
    cell = rearrange(start.unsqueeze(2) + inside, "b h w -> b (h w)")
    return cell.masked_fill(~real, -1)


def kmeans(
    features: Float[Tensor, "batch n width"],
    scores: Float[Tensor, "batch n"],
    num_tokens: int,
    num_iterations: int,
    real: Bool[Tensor, "batch n"],
) -> Int[Tensor, "batch n"]:
    """k-means from density-peak seeds, each of which stays in its own cluster (Constrained-KMeans, Basu et al. 2002).

    So no cluster runs empty, and there are exactly ``num_tokens`` (or one per patch where there are fewer patches).

    Args:
        features: of unit length.
        scores: the patches of highest score are the seeds; ties go to the earlier patch.
        num_tokens: clusters wanted.
        num_iterations: how often centres are recomputed; always the same number.
        real: True for real patches.

    Returns:
        The cluster of every patch, numbered by falling score of the seeds; -1 for padded patches.
    """
    n = features.shape[1]
    k = min(num_tokens, n)
    seeds = scores.masked_fill(~real, -1.0).sort(dim=-1, descending=True, stable=True).indices[:, :k]
    index = torch.arange(n, device=features.device)
    used = torch.arange(k, device=features.device) < real.sum(-1, keepdim=True)
    own = (seeds.unsqueeze(-1) == index) & used.unsqueeze(-1)
    is_seed, seed_of = own.any(1), own.to(torch.uint8).argmax(1)
    features = features.masked_fill(~real.unsqueeze(-1), 0.0)
    centers = own.to(features.dtype) @ features
    for step in range(num_iterations + 1):
        to_center = centers.square().sum(-1, keepdim=True) - 2 * centers @ features.transpose(1, 2)
        nearest = to_center.masked_fill(~used.unsqueeze(-1), torch.inf).argmin(1)
        assignment = torch.where(is_seed, seed_of, nearest).masked_fill(~real, -1)
        if step < num_iterations:
            members = one_hot(assignment, k).to(features.dtype)
            centers = members @ features / members.sum(-1, keepdim=True).clamp_min(1)
    return assignment
