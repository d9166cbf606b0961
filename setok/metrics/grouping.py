"""How well groups of patches agree with the segments of a panoptic annotation.

Segments are integers per pixel, -1 where nothing is annotated: such pixels take no part in anything. A patch has the
label that most of its annotated pixels have. All functions return float64, one value per image, NaN where an image has nothing
to score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Segments = Int[Tensor, "batch height width"]
Labels = Int[Tensor, "batch items"]
PerImage = Float[Tensor, " batch"]

# ---------------------------------------------------------------- patches and pixels


def cell_of_pixel(length: int, cells: int) -> Int[Tensor, " length"]:
    """The cell that each pixel along a side lies in, cell i being [⌊i·length/cells⌋, ⌊(i+1)·length/cells⌋)."""
    starts = torch.arange(1, cells) * length // cells
    return torch.bucketize(torch.arange(length), starts, right=True)


def cell_map(size: tuple[int, int], grid: tuple[int, int]) -> Int[Tensor, "height width"]:
    """The cell, counted row by row, that each pixel lies in."""
    rows, columns = cell_of_pixel(size[0], grid[0]), cell_of_pixel(size[1], grid[1])
    return rows.unsqueeze(1) * grid[1] + columns


def patch_labels(segments: Segments, grid: tuple[int, int]) -> Int[Tensor, "batch patches"]:
    """The segment with most pixels in each patch, of equally many the lowest; -1 where no pixel is annotated.

    The sides need not be multiples of the grid: patches then differ by a pixel (``cell_of_pixel``).
    """
    cells = cell_map((segments.shape[1], segments.shape[2]), grid).to(segments.device).flatten()
    counts = contingency(cells.expand(len(segments), -1), segments.flatten(1), num_rows=grid[0] * grid[1])
    if counts.shape[-1] == 0:
        return torch.full(counts.shape[:2], -1, dtype=torch.long, device=segments.device)
    return torch.where(counts.amax(-1) > 0, counts.argmax(-1), -1)


def spread(assignment: Int[Tensor, "batch patches"], grid: tuple[int, int], size: tuple[int, int]) -> Segments:
    """The map of patches as a map of pixels, ``size`` being (height, width)."""
    return assignment[:, cell_map(size, grid).to(assignment.device)]


def thing_table(is_thing: Sequence[Sequence[bool]]) -> Bool[Tensor, "batch segments"]:
    """Which segments are things, as one table; segments that an image does not have are False."""
    table = torch.zeros(len(is_thing), max((len(row) for row in is_thing), default=0), dtype=torch.bool)
    for i, row in enumerate(is_thing):
        table[i, : len(row)] = torch.tensor(row, dtype=torch.bool)
    return table


# ---------------------------------------------------------------- adjusted Rand index


def contingency(labels: Labels, groups: Labels, *, num_rows: int | None = None) -> Int[Tensor, "batch labels groups"]:
    """How many items have both label i and group j; items where either is negative are left out.

    Args:
        num_rows: number of labels; ``None`` means the largest found plus one.
    """
    batch = len(labels)
    rows = num_rows if num_rows is not None else (int(labels.max()) + 1 if labels.numel() else 0)
    columns = int(groups.max()) + 1 if groups.numel() else 0
    if not (rows > 0 and columns > 0):
        return torch.zeros(batch, max(rows, 0), max(columns, 0), dtype=torch.long, device=labels.device)
    image = torch.arange(batch, device=labels.device).unsqueeze(1)
    cell = ((image * rows + labels) * columns + groups)[(labels >= 0) & (groups >= 0)]
    return torch.bincount(cell, minlength=batch * rows * columns).view(batch, rows, columns)


def adjusted_rand_index(labels: Labels, groups: Labels) -> PerImage:
    """Adjusted Rand index of two partitions of each image's items (Hubert & Arabie 1985).

    Agreement over pairs of items, shifted and scaled so that chance gives 0 in the mean and equality 1:
    (Σ C(n_ij,2) − E) / (½(Σ C(a_i,2) + Σ C(b_j,2)) − E), with E = Σ C(a_i,2)·Σ C(b_j,2) / C(n,2) from the contingency table
    n_ij and its sums a_i, b_j. Where both are trivial (all one group, or all apart) it is 1. Items with a negative label or
    group are left out; an image without items gives NaN.
    """
    table = contingency(labels, groups).double()
    items = table.sum((1, 2))

    def pairs(n: Tensor) -> Tensor:
        return n * (n - 1) / 2

    index = pairs(table).sum((1, 2))
    by_label, by_group = pairs(table.sum(2)).sum(1), pairs(table.sum(1)).sum(1)
    expected = by_label * by_group / pairs(items).clamp_min(1)
    gap = (by_label + by_group) / 2 - expected
    ari = torch.where(gap == 0, 1.0, (index - expected) / torch.where(gap == 0, 1.0, gap))
    return torch.where(items > 0, ari, torch.nan)


def foreground_ari(labels: Labels, groups: Labels, things: Bool[Tensor, "batch segments"]) -> PerImage:
    """Adjusted Rand index over the items whose label is a thing; NaN for images with fewer than two things among them.

    With one object there is no partition to find, so such an image would score 1 whatever the groups are.
    """
    batch, segments = things.shape
    if segments == 0:
        return torch.full((batch,), torch.nan, dtype=torch.float64, device=labels.device)
    known = (labels >= 0) & (labels < segments)
    foreground = known & things.to(labels.device).gather(1, labels.clamp(0, segments - 1))
    kept = torch.where(foreground, labels, -1)
    present = contingency(kept, torch.zeros_like(groups), num_rows=segments).sum(-1) > 0
    return torch.where(present.sum(1) >= 2, adjusted_rand_index(kept, groups), torch.nan)


# ---------------------------------------------------------------- overlap of masks


def overlaps(segments: Segments, groups: Segments) -> Float[Tensor, "batch segments groups"]:
    """Intersection over union of every segment with every group of pixels; unannotated pixels belong to neither."""
    table = contingency(segments.flatten(1), groups.flatten(1)).double()
    union = table.sum(2, keepdim=True) + table.sum(1, keepdim=True) - table
    return table / union.clamp_min(1)


def mean_best_overlap(segments: Segments, groups: Segments, things: Bool[Tensor, "batch segments"]) -> PerImage:
    """Mean over an image's visible things of the best IoU that any one group reaches (mBO; Pont-Tuset et al. 2017, MCG;
    as used for instances by Seitzer et al. 2023, DINOSAUR). NaN where no thing is visible."""
    table = overlaps(segments, groups)
    if table.shape[2] == 0:
        return torch.full((len(segments),), torch.nan, dtype=torch.float64, device=segments.device)
    best = table.amax(2)
    visible = best > 0  # a visible segment overlaps at least one group, as groups cover the picture
    wanted = visible & _fit(things.to(best.device), best.shape[1])
    total = wanted.sum(1)
    return torch.where(total > 0, (best * wanted).sum(1) / total.clamp_min(1), torch.nan)


def mean_iou(segments: Segments, groups: Segments) -> PerImage:
    """Mean IoU of an image's visible segments, things and background alike, each matched to a group of its own.

    The matching is the best one-to-one one (Kuhn 1955); a segment left without a group counts as 0. NaN without segments.
    """
    means = []
    for table in overlaps(segments, groups).cpu().numpy():
        visible = table[table.any(axis=1)] if table.size else table[:0]
        means.append(best_matching(visible) / len(visible) if len(visible) else np.nan)
    return torch.tensor(means, dtype=torch.float64, device=segments.device)


def best_matching(gain: Float[np.ndarray, "rows columns"]) -> float:
    """The largest sum of gains over one-to-one matchings of rows and columns.

    The Hungarian method with potentials and shortest augmenting paths, O(rows² · columns) (Kuhn 1955, Jonker & Volgenant 1987).
    """
    cost = -(gain if gain.shape[0] <= gain.shape[1] else gain.T)
    rows, columns = cost.shape
    row_price, column_price = np.zeros(rows + 1), np.zeros(columns + 1)
    owner = np.full(columns + 1, rows)  # row matched to each column; the extra column holds the row being placed
    for row in range(rows):
        owner[columns], current = row, columns
        slack, before = np.full(columns, np.inf), np.full(columns, columns)
        seen = np.zeros(columns + 1, dtype=bool)
        while owner[current] != rows:
            seen[current] = True
            reduced = cost[owner[current]] - row_price[owner[current]] - column_price[:columns]
            better = ~seen[:columns] & (reduced < slack)
            slack[better], before[better] = reduced[better], current
            following = int(np.where(seen[:columns], np.inf, slack).argmin())
            step = slack[following]
            row_price[owner[seen]] += step
            column_price[seen] -= step
            slack[~seen[:columns]] -= step
            current = following
        while current != columns:
            previous = int(before[current])
            owner[current] = owner[previous]
            current = previous
    matched = np.flatnonzero(owner[:columns] < rows)
    return float(-cost[owner[matched], matched].sum())


def _fit(table: Bool[Tensor, "batch segments"], segments: int) -> Bool[Tensor, "batch segments2"]:
    """Cut or pad with False to a number of columns."""
    fitted = torch.zeros(len(table), segments, dtype=torch.bool, device=table.device)
    shared = min(segments, table.shape[1])
    fitted[:, :shared] = table[:, :shared]
    return fitted
