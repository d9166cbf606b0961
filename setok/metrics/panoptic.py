"""Panoptic quality (Kirillov et al. 2019, "Panoptic Segmentation"), with the rules of the official COCO evaluation.

A predicted and a true segment of one category match where their IoU is above 1/2, pixels without annotation aside. Then, by
category, SQ is the mean IoU of the matches, RQ = TP / (TP + FP/2 + FN/2), and PQ = SQ · RQ; a set's figure is the mean over
the categories that occur in it. Crowds are never missed, and a segment that lies by more than half on unannotated pixels or on a
crowd of its category is no false one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int

from setok.errors import DataError

NOTHING = 0
"""Id of pixels that are not annotated."""
Ids = Int[np.ndarray, "height width"]


@dataclass
class _Counts:
    """Of one category in one picture."""

    overlaps: list[float] = field(default_factory=list)
    false: int = 0
    missed: int = 0


class PanopticScores:
    """Matches by picture and category; the same to the bit in whatever order pictures come and parts are merged."""

    def __init__(self) -> None:
        self._pictures: dict[str, dict[int, _Counts]] = {}

    def update(
        self,
        picture: str,
        segments: Ids,
        categories: Mapping[int, int],
        true_segments: Int[np.ndarray, "rows columns"],
        true_categories: Mapping[int, int],
        crowds: Collection[int] = (),
    ) -> None:
        """Add a picture.

        Args:
            picture: its id.
            segments: the predicted segment of every pixel, ``NOTHING`` for none.
            categories: the category of every predicted segment.
            true_segments: the true one of every pixel.
            true_categories: the category of every true segment.
            crowds: the true segments that are crowds.

        Raises:
            DataError: the picture was added before, the maps differ in size, or a map and its list of segments do not fit.
        """
        if picture in self._pictures:
            raise DataError(f"picture {picture!r} was scored twice", "merge each worker's scores once")
        if segments.shape != true_segments.shape:
            raise DataError(
                f"picture {picture!r}: a map of {segments.shape} pixels for one of {true_segments.shape}",
                "give maps in the size of the annotation",
            )
        shared = _shared(segments, true_segments)
        met_true, met = {true for true, _ in shared}, {said for _, said in shared}
        for name, ids, listed in (("predicted", met, categories), ("true", met_true, true_categories)):
            if unlike := unlisted(ids, listed):
                raise DataError(
                    f"picture {picture!r}: {name} segment {min(unlike)} is not both in the map and in the list",
                    "list exactly the segments that the map has",
                )
        self._pictures[picture] = _match(shared, categories, true_categories, crowds)

    def merge(self, other: PanopticScores) -> PanopticScores:
        """Add another accumulator's pictures to this one, and return it."""
        twice = self._pictures.keys() & other._pictures.keys()
        if twice:
            raise DataError(f"picture {min(twice)!r} was scored twice", "merge each worker's scores once")
        self._pictures |= other._pictures
        return self

    def compute(self, things: Collection[int]) -> dict[str, Any]:
        """Percent: ``pq``, ``sq``, ``rq`` and ``num_categories`` of all; the same of ``things`` and of ``stuff``.

        Args:
            things: the categories that are things; the others are stuff.
        """
        by_category: defaultdict[int, list[_Counts]] = defaultdict(list)
        for counted in self._pictures.values():
            for category, counts in counted.items():
                by_category[category].append(counts)
        quality = {category: _quality(parts) for category, parts in sorted(by_category.items())}
        seen = {category: values for category, values in quality.items() if values is not None}
        return {
            **_mean(list(seen.values())),
            "things": _mean([values for category, values in seen.items() if category in things]),
            "stuff": _mean([values for category, values in seen.items() if category not in things]),
            "num_samples": len(self._pictures),
        }


def unlisted(segments: Iterable[int], listed: Iterable[int]) -> set[int]:
    """Segments that are in a map, or in the list of its segments, and not in the other."""
    return (set(segments) - {NOTHING}) ^ set(listed)


def _shared(segments: np.ndarray, true_segments: np.ndarray) -> dict[tuple[int, int], int]:
    """How many pixels a true and a predicted segment share, for all that share some."""
    pairs, pixels = np.unique(np.stack([true_segments.ravel(), segments.ravel()]), axis=1, return_counts=True)
    return {(int(true), int(said)): int(count) for (true, said), count in zip(pairs.T, pixels, strict=True)}


def _match(
    shared: Mapping[tuple[int, int], int],
    categories: Mapping[int, int],
    true_categories: Mapping[int, int],
    crowds: Collection[int],
) -> dict[int, _Counts]:
    """Matches, false and missed segments of a picture by category."""
    area: defaultdict[int, int] = defaultdict(int)
    true_area: defaultdict[int, int] = defaultdict(int)
    for (true, said), count in shared.items():
        area[said] += count
        true_area[true] += count
    found: defaultdict[int, _Counts] = defaultdict(_Counts)
    matched, met = set(), set()
    for (true, said), count in shared.items():
        if NOTHING in (true, said) or true in crowds or true_categories[true] != categories[said]:
            continue
        overlap = count / (area[said] + true_area[true] - count - shared.get((NOTHING, said), 0))
        if overlap > 0.5:
            found[categories[said]].overlaps.append(overlap)
            matched.add(said)
            met.add(true)
    for true, category in true_categories.items():
        if true not in met and true not in crowds:
            found[category].missed += 1
    for said, category in categories.items():
        aside = [NOTHING, *(crowd for crowd in crowds if true_categories[crowd] == category)]
        excused = sum(shared.get((true, said), 0) for true in aside)
        if said not in matched and excused <= area[said] / 2:
            found[category].false += 1
    return dict(found)


def _quality(parts: list[_Counts]) -> tuple[float, float, float] | None:
    """PQ, SQ and RQ of a category; ``None`` where it does not occur."""
    overlaps = [overlap for part in parts for overlap in part.overlaps]
    whole = len(overlaps) + sum(part.false + part.missed for part in parts) / 2
    if not whole:
        return None
    total = math.fsum(overlaps)
    return total / whole, total / len(overlaps) if overlaps else 0.0, len(overlaps) / whole


def _mean(values: list[tuple[float, float, float]]) -> dict[str, float]:
    if not values:
        return {"num_categories": 0}
    means = [100 * math.fsum(column) / len(values) for column in zip(*values, strict=True)]
    return {"pq": means[0], "sq": means[1], "rq": means[2], "num_categories": len(values)}
