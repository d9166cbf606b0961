"""Which part of a picture a sample shows: one geometry for pixels, segments, masks and boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64


@dataclass(frozen=True, kw_only=True)
class View:
    """A box of the upright picture that is scaled (to a square, or into one) and perhaps mirrored.

    Corners are shares of the picture's width (x) and height (y) from the upper left, so that they hold for a picture
    decoded at a reduced scale and for a mask of another size.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    flip: bool = False
    """Left and right exchanged, after the cut."""

    def crop(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of the box in a picture of this size, at least one of each."""
        return _pixels(self.y0, self.y1, height), _pixels(self.x0, self.x1, width)

    def nearest(
        self, height: int, width: int, size: int | tuple[int, int]
    ) -> tuple[Int64[np.ndarray, " rows"], Int64[np.ndarray, " columns"]]:
        """Row and column, in a picture of this size, that stand nearest to every row and column of what is shown.

        Args:
            height: of the picture.
            width: of the picture.
            size: side of the square, or height and width, that the view is scaled to.
        """
        new = (size, size) if isinstance(size, int) else size
        rows, columns = (
            span.start + ((np.arange(length) + 0.5) * (span.stop - span.start) / length).astype(np.int64)
            for span, length in zip(self.crop(height, width), new, strict=True)
        )
        return rows, columns[::-1].copy() if self.flip else columns

    def box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float] | None:
        """A box of the picture (shares of its sides) as a box of the square; ``None`` where nothing of it is seen."""
        left, right = (min(1.0, max(0.0, (x - self.x0) / (self.x1 - self.x0))) for x in (x0, x1))
        upper, lower = (min(1.0, max(0.0, (y - self.y0) / (self.y1 - self.y0))) for y in (y0, y1))
        if left >= right or upper >= lower:
            return None
        return (1 - right, upper, 1 - left, lower) if self.flip else (left, upper, right, lower)


def centre_square(height: int, width: int) -> View:
    """The largest square, in the middle (of an odd rest, one pixel less above and on the left)."""
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return View(x0=left / width, y0=top / height, x1=(left + side) / width, y1=(top + side) / height)


def whole(height: int, width: int) -> View:
    """All of a picture."""
    return View(x0=0.0, y0=0.0, x1=1.0, y1=1.0)


def _pixels(low: float, high: float, length: int) -> slice:
    start = min(length - 1, round(low * length))
    return slice(start, max(start + 1, round(high * length)))
