"""What a data worker needs to turn records into packed rows, opened once in every process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from setok.config import SequenceConfig
from setok.data.decode import Columns
from setok.data.pack import TOKEN_COLUMNS, Sample, decode_sample, pack_row, row_columns
from setok.data.schema import Record
from setok.data.sequences import SequenceBuilder
from setok.data.text_tokenizer import TextTokenizer

TOO_LONG = "too long: the record has no room in a row"
"""The error of a record that is left out for its length, as the settings ask."""


class Planned(Protocol):
    """A record whose turn it is."""

    @property
    def record(self) -> Record: ...

    @property
    def epoch(self) -> int:
        """How often it was seen before."""
        ...

    @property
    def too_long(self) -> bool:
        """The plan has only one place for it."""
        ...


class Packer:
    """Builds rows of ``setok.data.pack.row_columns`` from records.

    Args:
        builder: makes their sequences.
        image_size: side of the pictures, in pixels.
    """

    columns = ("id", "source", "task", "images", "conversation", "caption", "concepts", "masks", "answers", "choices")
    """What it reads of a stored row."""

    def __init__(self, builder: SequenceBuilder, *, image_size: int) -> None:
        self.builder = builder
        self.image_size = image_size

    def build(self, packs: Sequence[Sequence[Planned]]) -> Columns:
        """One row for each pack. A sample that cannot be used stays in its place, untrained, with the reason.

        Raises:
            DataError: a pack is longer than a row.
        """
        return row_columns(
            [
                pack_row(
                    [self._sample(planned) for planned in pack],
                    max_length=self.builder.config.max_length,
                    pad_id=self.builder.pad_id,
                    image_size=self.image_size,
                )
                for pack in packs
            ]
        )

    def _sample(self, planned: Planned) -> Sample:
        record = planned.record
        if planned.too_long:
            sequence = self.builder.stand_in(planned.record.id, TOO_LONG)
        else:
            record = self.builder.arranged(planned.record, epoch=planned.epoch)
            sequence = self.builder.build_or_stand_in(record, epoch=planned.epoch)
        return decode_sample(record, sequence, image_size=self.image_size)


@dataclass(frozen=True, kw_only=True)
class PackerSpec:
    """All that opens a ``Packer``, in plain values that travel to the data workers."""

    tokenizer: str
    """Folder of the saved tokenizer, with the tokens for pictures."""
    config: SequenceConfig
    seed: int
    image_size: int

    @property
    def row_bytes(self) -> int:
        """The most that a row takes up, but for masks: its tokens, and as many pictures as have room."""
        num_images = self.config.max_length // (self.config.max_image_tokens + 2)
        return 4 * len(TOKEN_COLUMNS) * self.config.max_length + 3 * self.image_size**2 * num_images

    def open(self) -> Packer:
        """The packer of this process.

        Raises:
            ConfigError: the tokenizer's folder is missing, or does not go with the settings.
        """
        builder = SequenceBuilder(TextTokenizer.load(self.tokenizer), self.config, seed=self.seed)
        return Packer(builder, image_size=self.image_size)
