"""The typed values that travel between data, models, stages and the loop."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ImageTextBatch:
    """One micro-batch of one rank.

    Pixels stay uint8 until they are on the device, where the model normalises them.
    """

    pixel_values: UInt8[Tensor, "batch 3 height width"]
    valid: Bool[Tensor, " batch"]
    """False where the row stands in for a record that could not be read: it takes no part in any loss or metric."""
    concepts: tuple[tuple[str, ...], ...]
    """Noun concepts of every image; an image may have none."""
    ids: tuple[str, ...]
    segments: Int[Tensor, "batch height width"] | None = None
    """Index of the panoptic segment at every pixel, -1 where unlabelled; for evaluation only."""
    is_thing: tuple[tuple[bool, ...], ...] = ()
    """For every image and segment index, whether the segment is an object (and not background)."""

    def __len__(self) -> int:
        return self.pixel_values.shape[0]

    def to(self, device: torch.device) -> ImageTextBatch:
        """The same batch with its tensors on ``device``."""
        segments = None if self.segments is None else self.segments.to(device)
        return replace(self, pixel_values=self.pixel_values.to(device), valid=self.valid.to(device), segments=segments)


@dataclass(frozen=True, kw_only=True)
class VisualTokens:
    """What the tokenizer makes of a batch of images: K tokens each, K differing by image, padded to the longest."""

    tokens: Float[Tensor, "batch tokens width"]
    mask: Bool[Tensor, "batch tokens"]
    """True for real tokens, False for padding (always at the end)."""
    assignment: Int[Tensor, "batch patches"]
    """Index of the token that each patch belongs to."""
    scores: Float[Tensor, "batch patches"]
    """Seed score (density × distance) of every patch."""
    grid: tuple[int, int]
    """Rows and columns of patches."""
    features: Float[Tensor, "batch patches feature"]
    """The unit-length features that were clustered."""

    @property
    def counts(self) -> Int[Tensor, " batch"]:
        """Number of tokens of every image."""
        return self.mask.sum(-1)


@dataclass(frozen=True, kw_only=True)
class ConceptBank:
    """The concepts of the global batch, the same on every rank.

    The concepts of rank r's micro-batch images come as rows of ``present``.
    """

    embeddings: Float[Tensor, "concepts dim"]
    present: Bool[Tensor, "batch concepts"]
    """Which of the bank's concepts each image of this micro-batch has."""


@dataclass(kw_only=True)
class StepContext:
    """What one micro-batch must know of the whole optimizer step, over all micro-batches and ranks."""

    step: int
    num_images: float
    """Valid images in the global batch."""
    num_concepts: float
    """(image, concept) pairs in the global batch that have at least one other image's concept to stand against."""
    concepts: ConceptBank | None = None
    reconstruction: Float[Tensor, "batch 3 height width"] | None = None
    """Set by the model's turn, detached, for the discriminator's turn."""


@dataclass(frozen=True, kw_only=True)
class LossOutput:
    """A micro-batch's share of the global mean loss: summed over micro-batches and ranks it is that mean."""

    loss: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    """The terms of the loss before weighting, detached, each a share of its own global mean."""
    reconstruction: Float[Tensor, "batch 3 height width"] | None = None
    """Pixels in [0, 1], detached."""
    assignment: Int[Tensor, "batch patches"] | None = None
    grid: tuple[int, int] | None = None
