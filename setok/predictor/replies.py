"""What Setokim answers: text, pictures and masks in the order in which it gave them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TextPart:
    """A stretch of text."""

    text: str


@dataclass(frozen=True, kw_only=True)
class PicturePart:
    """A picture that was drawn."""

    pixels: UInt8[Tensor, "3 height width"]
    num_tokens: int


@dataclass(frozen=True, kw_only=True)
class MaskPart:
    """A region of the conversation's first picture, in its own size; False outside of the square in its middle, which is all
    that the model sees."""

    mask: Bool[Tensor, "height width"]
    score: Float[Tensor, ""]
    """How sure the model is, from 0 to 1: the mean probability inside the region."""
    logits: Float[Tensor, "rows columns"]
    """What the region was made of, over the square in the middle; ``mask_part`` makes it anew for another size."""


Part = TextPart | PicturePart | MaskPart


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer."""

    parts: tuple[Part, ...]
    reason: Literal["stop", "length"]
    """Why it ended: by itself, or because there was no more room."""

    @property
    def text(self) -> str:
        """All that was said."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart)).strip()

    @property
    def pictures(self) -> tuple[UInt8[Tensor, "3 height width"], ...]:
        """All that was drawn."""
        return tuple(part.pixels for part in self.parts if isinstance(part, PicturePart))

    @property
    def masks(self) -> tuple[Bool[Tensor, "height width"], ...]:
        """All that was pointed at."""
        return tuple(part.mask for part in self.parts if isinstance(part, MaskPart))


def mask_part(logits: Float[Tensor, "h w"], size: tuple[int, int]) -> MaskPart:
    """The region where a mask is more likely than not.

    Args:
        logits: over the square in the middle of the picture (``SeTokImageProcessor``'s ``crop``).
        size: height and width of the picture.
    """
    height, width = size
    side = min(size)
    square = F.interpolate(logits[None, None], (side, side), mode="bilinear", align_corners=False)[0, 0].cpu()
    inside, share = square > 0, square.sigmoid()
    top, left = (height - side) // 2, (width - side) // 2
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top : top + side, left : left + side] = inside
    score = share[inside].mean() if inside.any() else share.new_zeros(())
    return MaskPart(mask=mask, score=score, logits=logits.cpu())
