"""Whole pictures of any shape in a square: scaled to fit, in the upper left, padding elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from jaxtyping import Int32, UInt8

from setok.data import rle
from setok.data.geometry import View, whole
from setok.data.images import DEFAULT_MAX_SIDE, decode_view
from setok.data.schema import Mask
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
        averaging = 3 * max(pixels.shape[:2]) > 4 * max(height, width)  # as decode_and_resize does
        pixels = np.ascontiguousarray(pixels)
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if averaging else cv2.INTER_LINEAR)
    square = np.zeros((3, size, size), np.uint8)
    square[:, :height, :width] = pixels.transpose(2, 0, 1)
    return square, (height, width)


def decode_and_fit(
    data: bytes,
    size: int,
    multiple_of: int,
    *,
    max_side: int = DEFAULT_MAX_SIDE,
    view: Callable[[int, int], View] = whole,
    colours: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[UInt8[np.ndarray, "3 size size"], tuple[int, int]]:
    """``fit`` of an encoded picture, or of the part of it that a view shows.

    Args:
        data: the file's bytes.
        size: side of the square.
        multiple_of: see ``fit``.
        max_side: longest side allowed, in pixels.
        view: the part, from the upright picture's height and width.
        colours: applied to the scaled pixels, uint8 [height, width, 3].

    Raises:
        DataError: as ``decode_image``.
    """
    pixels, part = decode_view(data, size, max_side=max_side, view=view)
    square, (height, width) = fit(pixels[:, ::-1] if part.flip else pixels, size, multiple_of)
    if colours is not None:
        shown = np.ascontiguousarray(square[:, :height, :width].transpose(1, 2, 0))
        square[:, :height, :width] = colours(shown).transpose(2, 0, 1)
    return square, (height, width)


def fit_segment_map(
    segments: Sequence[Mask], size: int, fitted: tuple[int, int], *, view: Callable[[int, int], View] = whole
) -> Int32[np.ndarray, "size size"]:
    """Index of the segment at every pixel, -1 where there is none and in the padding, in the geometry of ``decode_and_fit``.

    The nearest pixel is taken; where segments overlap the later one wins.

    Args:
        segments: of one picture.
        size: side of the square.
        fitted: height and width of the picture in the square, as ``fit`` returned them.
        view: the part of the picture that is shown.

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
                "replace or remove the file",
            )
        nearest = np.ix_(*view(height, width).nearest(height, width, fitted))
        labels[: fitted[0], : fitted[1]][rle.decode(segment.counts, height, width)[nearest]] = index
    return labels
