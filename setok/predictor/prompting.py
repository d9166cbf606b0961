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
from setok.data.sequences import SequenceBuilder, TokenSequence
from setok.errors import DataError

Conversation = Sequence[Turn | Message]
"""Turns with ``<image>`` where a picture stands."""


def messages_of(conversation: Conversation) -> list[Message]:
    """A conversation's turns with their slots told from their texts."""
    return [turn if isinstance(turn, Message) else message_of(turn) for turn in conversation]


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
        talks = [messages_of(talk) for talk in conversations]
        pixels = [self._pixels(own) for own in pictures]
        batch = self._batch([self.builder.prompt(talk) for talk in talks], pixels)
        if not guided:
            return batch, None
        return batch, self._batch([self.builder.prompt(without_condition(talk)) for talk in talks], pixels)

    def length_of(self, conversation: Conversation) -> int:
        """Places of a prompt, with as many for each picture as one can have.

        Raises:
            DataError: it is too long, or the template refuses the turns.
        """
        return len(self.builder.prompt(messages_of(conversation)))

    def answered(
        self, conversations: Sequence[Conversation], answers: Sequence[str], pictures: Sequence[Sequence[Picture]]
    ) -> SequenceBatch:
        """Prompts with what the assistant says to each, which alone is labelled.

        Raises:
            DataError: as for prompts.
        """
        talks = [messages_of(talk) for talk in conversations]
        sequences = [self.builder.answered(talk, answer) for talk, answer in zip(talks, answers, strict=True)]
        return self._batch(sequences, [self._pixels(own) for own in pictures])

    def _batch(
        self, sequences: Sequence[TokenSequence], pixels: Sequence[UInt8[Tensor, "_ 3 height width"]]
    ) -> SequenceBatch:
        samples = []
        for sequence, own in zip(sequences, pixels, strict=True):
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
