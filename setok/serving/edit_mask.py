"""Edits that are to change a part of a picture alone.

The model draws every picture as a whole and knows of no mask. What a mask covers is put back afterwards: there the pixels are
those of the picture that was sent, as the model was shown it. Inside the border of what may change, what was drawn fades in over
a patch. Where the model moved things, the two parts do not fit each other, and the border shows it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from setok.errors import DataError
from setok.serving.images import ImageReader, Shown

_HOW = "send a PNG of the picture's size with an alpha channel that is 0 where the picture may change"


@dataclass(frozen=True, kw_only=True)
class EditMask:
    """What of a picture stays as it is."""

    kept: UInt8[np.ndarray, "3 side side"]
    """The picture."""
    share: Float32[np.ndarray, "side side"]
    """Of what is drawn: 0 where the picture stays."""

    def applied(self, drawn: UInt8[np.ndarray, "3 side side"]) -> UInt8[np.ndarray, "3 side side"]:
        """What was drawn, with the parts that stay put back."""
        mixed = self.kept + self.share * (drawn.astype(np.float32) - self.kept)
        return np.rint(mixed).astype(np.uint8)


def read_edit_mask(data: bytes, reader: ImageReader, shown: Shown, feather: int) -> EditMask:
    """A mask as OpenAI's clients send it: transparent where the picture may change.

    Args:
        data: the mask's file.
        reader: that the picture was read with.
        shown: the picture.
        feather: over how many pixels what is drawn fades in, at most; fewer where the mask opens no place so wide.

    Raises:
        DataError: no mask, one of another size, or one that lets nothing change of what the model sees.
    """
    opacity = reader.opacity(data)
    if opacity is None:
        raise DataError("the mask has no alpha channel", _HOW)
    if opacity.shape != shown.size:
        height, width = opacity.shape
        raise DataError(
            f"the mask is {width} × {height} pixels, and the first picture {shown.size[1]} × {shown.size[0]}", _HOW
        )
    may_change = _as_seen(opacity == 0, side=shown.pixels.shape[-1])
    if not may_change.any():
        raise DataError(
            "the mask lets nothing change in the square in the picture's middle, which the model sees", _HOW
        )
    return EditMask(kept=shown.pixels, share=_faded(may_change, feather))


def _as_seen(may_change: Bool[np.ndarray, "height width"], side: int) -> Bool[np.ndarray, "side side"]:
    """The square in the middle, scaled as the picture was: open where most of what a pixel shows is."""
    height, width = may_change.shape
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = may_change[top : top + short, left : left + short].astype(np.float32)
    scaling = cv2.INTER_AREA if short > side else cv2.INTER_LINEAR
    return cv2.resize(square, (side, side), interpolation=scaling) > 0.5


def _faded(may_change: Bool[np.ndarray, "side side"], feather: int) -> Float32[np.ndarray, "side side"]:
    """From 0 outside to 1 at ``feather`` pixels inside."""
    depth = cv2.distanceTransform(may_change.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.minimum(depth / min(feather, float(depth.max())), 1.0).astype(np.float32)
