"""From conversations and pictures in any form to the rows that the model continues."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from setok.batch import SequenceBatch
from setok.data.chat import Message, message_of
from setok.data.collate import columns_to_sequences
from setok.data.pack import Sample, pack_row, row_columns
from setok.data.processor import Picture, SeTokImageProcessor
from setok.data.prompts import without_condition
from setok.data.schema import IMAGE_SLOT, Turn
from setok.data.sequences import SequenceBuilder
from setok.errors import DataError

Conversation = Sequence[Turn | Message]
"""Turns with ``<image>`` where a picture stands."""


class PromptMaker:
    """Makes one row of each conversation, up to where the assistant is to speak.

    Args:
        image_size: side of the pictures, in pixels.
        device: where the rows go.
    """

    def __init__(self, builder: SequenceBuilder, *, image_size: int, device: torch.device) -> None:
        self.builder, self.image_size, self.device = builder, image_size, device
        self._processor = SeTokImageProcessor(size=image_size, max_pixels=image_size**2)

    def __call__(
        self, conversations: Sequence[Conversation], pictures: Sequence[Sequence[Picture]], *, guided: bool
    ) -> tuple[SequenceBatch, SequenceBatch | None]:
        """Prompts, and where pictures are guided the same ones without their words.

        Raises:
            DataError: slots and pictures differ in number, a conversation is too long, or a picture is none.
        """
        talks = [[m if isinstance(m, Message) else message_of(m) for m in talk] for talk in conversations]
        pixels = [self._pixels(own) for own in pictures]
        batch = self._batch(talks, pixels)
        return batch, self._batch([list(without_condition(talk)) for talk in talks], pixels) if guided else None

    def _batch(
        self, talks: Sequence[Sequence[Message]], pixels: Sequence[UInt8[Tensor, "n 3 height width"]]
    ) -> SequenceBatch:
        samples = []
        for talk, own in zip(talks, pixels, strict=True):
            sequence = self.builder.prompt(talk)
            if len(sequence.images) != len(own):
                raise DataError(
                    f"a conversation has {len(sequence.images)} {IMAGE_SLOT} slots and {len(own)} pictures",
                    "give one picture for every slot, in their order",
                )
            nothing = np.zeros((0, self.image_size, self.image_size), bool)
            samples.append(Sample(sequence=sequence, pixel_values=own.numpy(), masks=nothing))
        longest = max(len(sample.sequence) for sample in samples)
        size, pad = self.image_size, self.builder.pad_id
        rows = [pack_row([sample], max_length=longest, pad_id=pad, image_size=size) for sample in samples]
        return columns_to_sequences(row_columns(rows), image_size=size).to(self.device)

    def _pixels(self, pictures: Sequence[Picture]) -> UInt8[Tensor, "n 3 height width"]:
        if not len(pictures):
            return torch.zeros(0, 3, self.image_size, self.image_size, dtype=torch.uint8)
        made = self._processor(list(pictures))["pixel_values"]
        assert isinstance(made, Tensor)
        return made
