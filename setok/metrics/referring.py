"""Referring segmentation: how well a mask fits the one that was meant.

* cIoU (also overall IoU): all intersections over all unions (Yang et al. 2022, LAVT; Lai et al. 2024, LISA).
* gIoU: mean IoU of the samples, where a sample whose union is empty is right and counts 1 (LISA; Liu et al. 2023, gRefCOCO).
* mIoU: the same mean with such a sample counted 0 (LAVT). The two are equal where every sample has a target.
* P@k: share of samples whose IoU is at least k, an empty union having IoU 0 (LAVT).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from setok.errors import DataError

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
Mask = Bool[np.ndarray, "height width"]


class ReferringScores:
    """Intersections and unions in pixels by sample; the same to the bit in whatever order they come and parts are merged."""

    def __init__(self) -> None:
        self._pixels: dict[str, tuple[int, int, bool]] = {}

    def update(self, sample: str, mask: Mask, truth: Bool[np.ndarray, "rows columns"]) -> None:
        """Add a predicted mask and the true one, which is empty where nothing is meant.

        Raises:
            DataError: this sample was added before, or the masks differ in size.
        """
        if mask.shape != truth.shape:
            raise DataError(
                f"sample {sample!r}: a mask of {mask.shape[0]} × {mask.shape[1]} pixels for a picture of"
                f" {truth.shape[0]} × {truth.shape[1]}",
                "give masks in the size of the annotation",
            )
        self._add(sample, (*intersection_and_union(mask, truth), bool(truth.any())))

    def merge(self, other: ReferringScores) -> ReferringScores:
        """Add another accumulator's samples to this one, and return it."""
        for sample, pixels in other._pixels.items():
            self._add(sample, pixels)
        return self

    def _add(self, sample: str, pixels: tuple[int, int, bool]) -> None:
        if sample in self._pixels:
            raise DataError(f"sample {sample!r} was scored twice", "keep one mask for each expression")
        self._pixels[sample] = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def compute(self) -> dict[str, Any]:
        """Percent: ``ciou``, ``giou``, ``miou``, ``precision@0.5`` to ``@0.9`` and ``num_samples``.

        Where some samples have no target, ``with_target`` holds the same figures over those that have one.
        """
        rows = [self._pixels[sample] for sample in sorted(self._pixels)]
        targeted = [row for row in rows if row[2]]
        result: dict[str, Any] = _figures(rows)
        return result if len(targeted) == len(rows) else result | {"with_target": _figures(targeted)}


def intersection_and_union(mask: Mask, truth: Mask) -> tuple[int, int]:
    """Pixels in both, and in either."""
    return int((mask & truth).sum()), int((mask | truth).sum())


def overlap(pairs: Sequence[tuple[int, int]]) -> dict[str, float]:
    """``giou`` and ``ciou`` as shares; NaN without masks, and ciou 0 where all unions are empty.

    Args:
        pairs: intersection and union of every mask.
    """
    if not len(pairs):
        return {"giou": math.nan, "ciou": math.nan}
    both, either = np.array(pairs, np.float64).T
    return {
        "giou": float(np.where(either == 0, 1.0, both / np.maximum(either, 1)).mean()),
        "ciou": float(both.sum() / max(either.sum(), 1)),
    }


def _figures(rows: Sequence[tuple[int, int, bool]]) -> dict[str, float]:
    if not rows:
        return {"num_samples": 0}
    pairs = [row[:2] for row in rows]
    each = np.array([both / max(either, 1) for both, either in pairs])
    return {
        **{name: 100 * share for name, share in overlap(pairs).items()},
        "miou": 100 * float(each.mean()),
        **{f"precision@{k}": 100 * float((each >= k).mean()) for k in THRESHOLDS},
        "num_samples": len(rows),
    }
