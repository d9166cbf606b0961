"""The typed values that travel between data, models, stages and the loop."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

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
    sizes: Int[Tensor, "batch 2"] | None = None
    """Height and width of the picture in the upper left, in pixels, where the rest is padding; ``None``: no padding."""
    features: Float[Tensor, "batch patches encoder_width"] | None = None
    """What the frozen encoder makes of the pictures, where that was kept; ``None``: the encoder is still to be asked."""

    def __len__(self) -> int:
        return self.pixel_values.shape[0]

    def to(self, device: torch.device) -> ImageTextBatch:
        """The same batch with its tensors on ``device``."""
        moved: dict[str, Any] = {
            key: value.to(device) for key, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def alone(self, image: int) -> ImageTextBatch:
        """One picture of a padded batch as if it had come by itself: a batch of one, in its own shape."""
        assert self.sizes is not None, "without padding every picture has the batch's shape"
        height, width = self.sizes[image].tolist()
        one = slice(image, image + 1)
        return replace(
            self,
            pixel_values=self.pixel_values[one, :, :height, :width],
            valid=self.valid[one],
            concepts=self.concepts[one],
            ids=self.ids[one],
            segments=None if self.segments is None else self.segments[one, :height, :width],
            is_thing=self.is_thing[one],
            sizes=None,
            features=None,  # those of the padding do not belong here
        )

    @property
    def pixel_mask(self) -> Bool[Tensor, "batch 1 height width"] | None:
        """True for pixels of the pictures, False for padding; ``None`` where there is none."""
        if self.sizes is None:
            return None
        size = (self.pixel_values.shape[-2], self.pixel_values.shape[-1])
        return real_cells(self.sizes, size, 1).view(len(self), 1, *size)


def real_cells(sizes: Int[Tensor, "batch 2"], grid: tuple[int, int], cell: int) -> Bool[Tensor, "batch cells"]:
    """Which cells of a grid, row by row, lie in the picture in the upper left and not in the padding.

    Args:
        sizes: height and width of every picture in pixels, multiples of ``cell``.
        grid: rows and columns of cells.
        cell: side of a cell in pixels.
    """
    rows = torch.arange(grid[0], device=sizes.device) * cell < sizes[:, :1]
    columns = torch.arange(grid[1], device=sizes.device) * cell < sizes[:, 1:]
    return (rows.unsqueeze(2) & columns.unsqueeze(1)).flatten(1)


@dataclass(frozen=True, kw_only=True)
class VisualTokens:
    """What the tokenizer makes of a batch of images: K tokens each, K differing by image, padded to the longest."""

    tokens: Float[Tensor, "batch tokens width"]
    mask: Bool[Tensor, "batch tokens"]
    """True for real tokens, False for padding (always at the end)."""
    assignment: Int[Tensor, "batch patches"]
    """Index of the token that each patch belongs to; -1 for patches of padding."""
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
class SequenceBatch:
    """One micro-batch of one rank for the language model: rows of packed samples with places for pictures.

    How many tokens a picture has is known only when it is tokenized, on the device. So every picture has
    ``max_image_tokens`` places in its row, between its ``[Img]`` and ``[/Img]``, and the model closes the gaps.
    """

    input_ids: Int[Tensor, "rows length"]
    """Text, ``[Img]``, ``[/Img]`` and ``[Seg]``; the padding id at places of pictures and at the end of a row."""
    labels: Int[Tensor, "rows length"]
    """The id where the model is to learn to say it, else -100; at the place of the id itself, the model shifts."""
    segment_ids: Int[Tensor, "rows length"]
    """Which sample of the row a place belongs to, from 1; 0 for padding. Samples cannot see each other."""
    image_index: Int[Tensor, "rows length"]
    """Which picture a place belongs to, else -1."""
    image_offset: Int[Tensor, "rows length"]
    """Which of the picture's tokens stands there, 0 where ``image_index`` is -1."""
    pixel_values: UInt8[Tensor, "images 3 height width"]
    """All pictures in the order of their places."""
    image_is_target: Bool[Tensor, " images"]
    """Whether the model is to learn to draw the picture."""
    image_valid: Bool[Tensor, " images"]
    """False for a picture that could not be read; none of its sample's places is trained."""
    mask_index: Int[Tensor, "rows length"]
    """At a ``[Seg]`` that stands for a mask its number, else -1."""
    mask_image: Int[Tensor, " masks"]
    """The picture that a mask is a region of."""
    masks: Bool[Tensor, "masks height width"]
    ids: tuple[tuple[str, ...], ...]
    """Ids of the samples of every row."""

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def to(self, device: torch.device) -> SequenceBatch:
        """The same batch with its tensors on ``device``."""
        moved: dict[str, Any] = {
            key: value.to(device) for key, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


Batch = ImageTextBatch | SequenceBatch
"""What the loop hands to a stage."""


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
