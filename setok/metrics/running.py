"""Figures gathered over many images by many workers: each holds an accumulator, and accumulators merge.

Both accumulators are exact: the result is the same to the bit however the images were split and in whatever order the parts
were merged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from setok.errors import DataError
from setok.metrics.tokens import correlation

INDEX = "index"
"""Column that says which image of the set a row is about."""
Columns = dict[str, Shaped[np.ndarray, " images"]]


class ImageRows:
    """One row of figures per image, NaN where a figure does not apply to the image."""

    def __init__(self) -> None:
        self._parts: list[Columns] = []

    def update(self, rows: Mapping[str, Shaped[np.ndarray, " images"]]) -> None:
        """Add some images.

        Args:
            rows: columns of equal length; ``index`` must be among them, and the names the same each time.

        Raises:
            DataError: columns are missing, new, or of unequal length.
        """
        part = {name: np.asarray(values) for name, values in rows.items()}
        expected = set(self._parts[0]) if self._parts else set(part) | {INDEX}
        if set(part) != expected:
            raise DataError(
                f"metric columns {sorted(set(part) ^ expected)} are not in all parts",
                "evaluate all images in the same way",
            )
        if len({len(values) for values in part.values()}) != 1:
            raise DataError(
                f"metric columns of lengths { {k: len(v) for k, v in part.items()} }", "give one value per image"
            )
        self._parts.append(part)

    def merge(self, other: ImageRows) -> ImageRows:
        """Add another accumulator's images to this one, and return it."""
        for part in other._parts:
            self.update(part)
        return self

    def __len__(self) -> int:
        return sum(len(part[INDEX]) for part in self._parts)

    def table(self) -> Columns:
        """All rows as columns, ordered by ``index``.

        Raises:
            DataError: an image was added twice.
        """
        if not self._parts:
            return {INDEX: np.zeros(0, dtype=np.int64)}
        columns = {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}
        order = np.argsort(columns[INDEX], kind="stable")
        columns = {name: values[order] for name, values in columns.items()}
        twice = columns[INDEX][:-1][columns[INDEX][1:] == columns[INDEX][:-1]]
        if len(twice):
            raise DataError(f"image number {twice[0]} was evaluated twice", "merge each worker's rows once")
        return columns

    def compute(self) -> dict[str, float | None]:
        """Mean over images of every numeric column, ``None`` where no image has the figure."""
        return {
            name: mean_of(values)
            for name, values in self.table().items()
            if name != INDEX and np.issubdtype(values.dtype, np.number)
        }


class MeanImage:
    """The mean of pictures of one size, summed in whole numbers; at every place over the pictures that reach there."""

    def __init__(self) -> None:
        self.count: np.ndarray | int = 0
        """How many pictures there are, at every place where they differ in that."""
        self._sum: np.ndarray | None = None

    def update(
        self,
        pixels: UInt8[np.ndarray, "batch 3 height width"],
        real: Bool[np.ndarray, "batch 1 height width"] | None = None,
    ) -> None:
        """Add some pictures; places that are not ``real`` are padding."""
        if not len(pixels):
            return
        if real is None:
            self._add(pixels.sum(axis=0, dtype=np.int64), len(pixels))
        else:
            self._add((pixels * real).sum(axis=0, dtype=np.int64), real.sum(axis=0, dtype=np.int64))

    def merge(self, other: MeanImage) -> MeanImage:
        """Add another accumulator's pictures to this one, and return it."""
        if other._sum is not None:
            self._add(other._sum, other.count)
        return self

    def _add(self, total: np.ndarray, count: np.ndarray | int) -> None:
        self._sum = total if self._sum is None else self._sum + total
        self.count = self.count + count

    def compute(self) -> Float[np.ndarray, "3 height width"]:
        """The mean picture, in [0, 1].

        Raises:
            DataError: no picture was added.
        """
        if self._sum is None:
            raise DataError("there is no picture to take the mean of", "check that the data set has readable images")
        return (self._sum / (255 * np.maximum(self.count, 1))).astype(np.float32)


def mean_of(values: Shaped[np.ndarray, " images"]) -> float | None:
    """Mean of the values that are not NaN, or ``None``; summed exactly, so order does not matter."""
    known = [float(value) for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else None


def deviation_of(values: Shaped[np.ndarray, " images"]) -> float | None:
    """Population standard deviation of the values that are not NaN, or ``None``."""
    mean = mean_of(values)
    if mean is None:
        return None
    squares = [(float(value) - mean) ** 2 for value in values if not math.isnan(value)]
    return math.sqrt(math.fsum(squares) / len(squares))


def correlation_of(x: Shaped[np.ndarray, " images"], y: Shaped[np.ndarray, " images"]) -> float | None:
    """Pearson correlation over the images that have both figures, or ``None`` for fewer than two."""
    both = ~(np.isnan(x) | np.isnan(y))
    value = correlation(x[both], y[both])
    return None if math.isnan(value) else value
