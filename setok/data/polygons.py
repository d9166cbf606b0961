"""COCO polygons to masks, pixel for pixel as cocoapi draws them (``rleFrPoly`` in ``maskApi.c``, Lin et al. 2014).

The outline is walked on a grid five times as fine as the pixels. Wherever the walk passes from one column of pixel centres to
the next, the mask changes at that height between outside and inside, downwards from there. A rasteriser that asks for
each pixel's centre differs along the outline, and then areas and IoU differ from everybody else's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from setok.data import rle
from setok.errors import DataError

_FINENESS = 5.0
_REMEDY = "correct the annotation, or leave the record out"


def annotation_counts(
    segmentation: Sequence[Sequence[float]] | Mapping[str, Any], height: int, width: int
) -> list[int]:
    """Run lengths of an annotation's ``segmentation``: polygons, or run lengths as a list or a compressed string.

    Raises:
        DataError: it is damaged, has the size of another picture, or has no pixel in the picture.
    """
    if isinstance(segmentation, Mapping):
        size = list(segmentation["size"])
        if size != [height, width]:
            raise DataError(
                f"mask outside the picture: it has {size[0]} × {size[-1]} pixels, the picture {height} × {width}",
                _REMEDY,
            )
        counts = rle.counts_of(segmentation)
        pixels = int(rle.decode(counts, height, width).sum())
    else:
        mask = fill(segmentation, height, width)
        counts, pixels = rle.encode(mask), int(mask.sum())
    if not pixels:
        raise DataError(f"mask outside the picture: none of its pixels is in {height} × {width}", _REMEDY)
    return counts


def fill(polygons: Sequence[Sequence[float]], height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """The union of polygons, each a list x0, y0, x1, y1, … in pixels from the upper left corner.

    Raises:
        DataError: a polygon has fewer than three corners, or one that is no number or farther outside than the
            picture is large.
    """
    mask = np.zeros((height, width), bool)
    for polygon in polygons:
        mask |= _fill_one(_corners(polygon, height, width), height, width)
    return mask


def _corners(polygon: Sequence[float], height: int, width: int) -> Float[np.ndarray, "corners 2"]:
    values = np.asarray(polygon, np.float64)
    if values.ndim != 1 or len(values) < 6 or len(values) % 2:
        raise DataError(f"broken mask: a polygon of {values.size} coordinates, it needs three corners or more", _REMEDY)
    corners = values.reshape(-1, 2)
    size = np.array([width, height])
    inside = (corners >= -size) & (corners <= 2 * size)
    if not inside.all():  # false for NaN too
        x, y = corners[~inside.all(axis=1)][0].tolist()
        raise DataError(f"mask outside the picture: a corner at ({x:g}, {y:g}) of {width} × {height} pixels", _REMEDY)
    return corners


def _fill_one(corners: Float[np.ndarray, "corners 2"], height: int, width: int) -> Bool[np.ndarray, "height width"]:
    x, y = _walk(np.trunc(_FINENESS * corners + 0.5).astype(np.int64))
    step = np.flatnonzero(x[1:] != x[:-1])
    column = (x[step + 1] - (x[step + 1] > x[step]) + 0.5) / _FINENESS - 0.5
    row = np.ceil(np.clip((np.minimum(y[step + 1], y[step]) + 0.5) / _FINENESS - 0.5, 0, height))
    kept = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    changes = (column[kept] * height + row[kept]).astype(np.int64)
    flips = np.bincount(changes, minlength=height * width + 1)[: height * width]
    return (np.cumsum(flips) % 2 == 1).reshape(width, height).T


def _walk(
    corners: Int[np.ndarray, "corners 2"],
) -> tuple[Int[np.ndarray, " points"], Int[np.ndarray, " points"]]:
    """Points along the closed outline, one for every step of the longer side of each edge, both ends included."""
    start, end = corners, np.roll(corners, -1, axis=0)
    across, down = np.abs(end - start).T
    flat = across >= down
    # An edge is computed from its left (or upper) end, so that it has the same points in both directions.
    flip = np.where(flat, start[:, 0] > end[:, 0], start[:, 1] > end[:, 1])
    first, last = np.where(flip[:, None], end, start), np.where(flip[:, None], start, end)
    length = np.maximum(across, down)
    rise = np.where(flat, last[:, 1] - first[:, 1], last[:, 0] - first[:, 0]) / np.maximum(length, 1)

    edge = np.repeat(np.arange(len(corners)), length + 1)
    offset = np.arange(len(edge)) - np.repeat(np.cumsum(length + 1) - (length + 1), length + 1)
    offset = np.where(flip[edge], length[edge] - offset, offset)
    base = np.where(flat, first[:, 1], first[:, 0])[edge]
    other = np.trunc(base + rise[edge] * offset + 0.5).astype(np.int64)
    along = np.where(flat, first[:, 0], first[:, 1])[edge] + offset
    return np.where(flat[edge], along, other), np.where(flat[edge], other, along)
