"""Whole pictures of any shape in a square: scaled to fit, in the upper left, padding elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Int32, UInt8

from setok.data import rle
from setok.data.images import DEFAULT_MAX_SIDE, decode_image
from setok.data.schema import Segment
from setok.errors import DataError


def fitted_size(height: int, width: int, size: int, multiple_of: int) -> tuple[int, int]:
    """Height and width of a picture whose longer side is scaled to ``size``, both rounded to multiples (one at least)."""
    longer = max(height, width)
    rows, columns = (max(1, round(side * size / (longer * multiple_of))) for side in (height, width))
    return rows * multiple_of, columns * multiple_of


def fit(
    pixels: UInt8[np.ndarray, "height width 3"], size: int, multiple_of: int
) -> tuple[UInt8[np.ndarray, "3 size size"], tuple[int, int]]:
    """A picture in the upper left of a black square, and its height and width there.

    Args:
        pixels: RGB.
        size: side of the square, a multiple of ``multiple_of``.
        multiple_of: the patches that must not lie across the picture's edge.
    """
    height, width = fitted_size(pixels.shape[0], pixels.shape[1], size, multiple_of)
    if pixels.shape[:2] != (height, width):
        shrinking = pixels.shape[0] * pixels.shape[1] > height * width
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)
    square = np.zeros((3, size, size), np.uint8)
    square[:, :height, :width] = pixels.transpose(2, 0, 1)
    return square, (height, width)


def decode_and_fit(
    data: bytes, size: int, multiple_of: int, *, max_side: int = DEFAULT_MAX_SIDE
) -> tuple[UInt8[np.ndarray, "3 size size"], tuple[int, int]]:
    """``fit`` of an encoded picture.

    Raises:
        DataError: as ``decode_image``.
    """
    return fit(decode_image(data, max_side=max_side, target_size=size), size, multiple_of)


def fit_segment_map(segments: Sequence[Segment], size: int, fitted: tuple[int, int]) -> Int32[np.ndarray, "size size"]:
    """Index of the segment at every pixel, -1 where there is none and in the padding, in the geometry of ``fit``.

    The nearest pixel is taken; where segments overlap the later one wins.

    Args:
        fitted: height and width of the picture in the square, as ``fit`` returned them.

    Raises:
        DataError: a segment's runs do not fit its size, or segments differ in size.
    """
    labels = np.full((size, size), -1, np.int32)
    for index, segment in enumerate(segments):
        height, width = segment.height, segment.width
        if (height, width) != (segments[0].height, segments[0].width):
            sizes = f"{segments[0].height} × {segments[0].width} and {height} × {width}"
            raise DataError(
                f"broken mask: segments of one picture have sizes {sizes}",
                "replace or remove the file; ingest quarantines such pictures",
            )
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(np.int64)
            for new, old in zip(fitted, (height, width), strict=True)
        )
        inside = rle.decode(segment.counts, height, width)[np.ix_(rows, columns)]
        labels[: fitted[0], : fitted[1]][inside] = index
    return labels
