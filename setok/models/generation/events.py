"""What comes out: events while prompts are continued, and what a row amounts to in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TextToken:
    """A token of text was said; the one that ends a row is not among them."""

    row: int
    token: int


@dataclass(frozen=True, kw_only=True)
class ImageToken:
    """A visual token was drawn."""

    row: int
    token: Float[Tensor, " width"]


@dataclass(frozen=True, kw_only=True)
class ImageEnd:
    """A picture is complete."""

    row: int
    tokens: Float[Tensor, "tokens width"]


@dataclass(frozen=True, kw_only=True)
class MaskFound:
    """A region of the row's first picture."""

    row: int
    logits: Float[Tensor, "height width"]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The row has ended: by itself or as its mode asks (``stop``), or because there was no more room (``length``)."""

    row: int
    reason: Literal["stop", "length"]


Event = TextToken | ImageToken | ImageEnd | MaskFound | Finished


@dataclass(frozen=True, kw_only=True)
class Text:
    """Tokens of text in a row, special ones left out."""

    ids: tuple[int, ...]


Segment = Text | ImageEnd | MaskFound


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What one row said, drew and pointed at, in its order."""

    segments: tuple[Segment, ...]
    reason: Literal["stop", "length"]

    @property
    def ids(self) -> tuple[int, ...]:
        """All text."""
        return tuple(token for part in self.segments if isinstance(part, Text) for token in part.ids)

    @property
    def images(self) -> tuple[Float[Tensor, "tokens width"], ...]:
        """The tokens of every picture."""
        return tuple(part.tokens for part in self.segments if isinstance(part, ImageEnd))

    @property
    def masks(self) -> tuple[Float[Tensor, "height width"], ...]:
        """The logits of every mask."""
        return tuple(part.logits for part in self.segments if isinstance(part, MaskFound))
