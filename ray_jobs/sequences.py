"""What the stages of the language model bring to the data: records become sequences, and several of them a row.

Everything here runs in data workers and on the driver, without torch.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_jobs.packs import Packing, PlannedSample
from setok.config import SequenceConfig, TrainConfig
from setok.data.decode import Columns
from setok.data.lengths import measured_lengths
from setok.data.pack import Sample, decode_sample, pack_row, row_columns
from setok.data.sequences import SequenceBuilder
from setok.data.text_tokenizer import IMAGE_START, TextTokenizer

if TYPE_CHECKING:
    from setok.batch import SequenceBatch

_TOKEN_BYTES = 24
"""Of a place in a row: six columns of int32."""


@dataclass(frozen=True, kw_only=True)
class RowBuilderSpec:
    """Opens a ``RowBuilder`` in a data worker."""

    tokenizer: TextTokenizer
    sequence: SequenceConfig
    image_size: int
    seed: int

    @property
    def row_bytes(self) -> int:
        """Most bytes of a row: its tokens, and as many pictures as it has room for."""
        pictures = self.sequence.max_length // (self.sequence.max_image_tokens + 2) + 1
        return _TOKEN_BYTES * self.sequence.max_length + pictures * 4 * self.image_size**2

    def sequences(self) -> SequenceBuilder:
        """Records to sequences."""
        return SequenceBuilder(self.tokenizer, self.sequence, seed=self.seed)

    def open(self) -> RowBuilder:
        """A builder for this process."""
        return RowBuilder(self)


class RowBuilder:
    """Follows ``ray_jobs.packs.PackBuilder``."""

    columns = ("id", "source", "task", "images", "conversation", "caption", "concepts", "masks", "answers", "choices")

    def __init__(self, spec: RowBuilderSpec) -> None:
        self._spec = spec
        self._sequences = spec.sequences()

    def build(self, packs: Sequence[Sequence[PlannedSample]]) -> Columns:
        """One row for each pack; see ``setok.data.pack.row_columns``."""
        size, limit = self._spec.image_size, self._spec.sequence.max_length
        pad = self._sequences.pad_id
        rows = [[self._sample(sample) for sample in pack] for pack in packs]
        return row_columns([pack_row(row, max_length=limit, pad_id=pad, image_size=size) for row in rows])

    def _sample(self, planned: PlannedSample) -> Sample:
        """The sample, or one place that is not trained and says why; ``build`` itself finds what is too long."""
        sequence = self._sequences.build_or_stand_in(planned.record, epoch=planned.epoch)
        return decode_sample(planned.record, sequence, image_size=self._spec.image_size)


def packing_of(config: TrainConfig) -> Packing | None:
    """How a run's rows are packed; ``None`` for the stage whose samples are pictures.

    The sets' token lengths are counted here, where they are not known yet.

    Raises:
        DataError: a set is missing.
        ConfigError: there is no text tokenizer, or it lacks tokens, or the chat template cannot be used.
    """
    if config.stage == "tokenizer":
        return None
    spec = RowBuilderSpec(
        tokenizer=text_tokenizer_of(config),
        sequence=config.sequence,
        image_size=config.model.image_size,
        seed=config.seed,
    )
    builder = spec.sequences()
    key = json.dumps([config.sequence.model_dump(mode="json"), builder.template.source, builder.tokenizer.definition])
    for entry in config.data.train:
        measured_lengths(entry.path, key, builder.length_of)
    # A sample that is too long is masked and counted among the bad ones, with the reason; see data.max_bad_fraction.
    return Packing(builder=spec, budget=config.sequence.max_length, lengths_key=key, too_long="mask")


def text_tokenizer_of(config: TrainConfig) -> TextTokenizer:
    """The text tokenizer that a run names, with the special tokens.

    Raises:
        ConfigError, CheckpointError: it is missing.
    """
    assert config.setokim is not None
    path = config.setokim.text_tokenizer or config.setokim.language_model.path
    assert path is not None
    if (Path(path) / "tokenizer.json").is_file():
        found = TextTokenizer.load(path)
        if IMAGE_START in found.special_tokens:
            return found
    from setok.data.special_tokens import text_tokenizer  # these bring in transformers and torch
    from setok.models.language_model import load_text_tokenizer

    return text_tokenizer(load_text_tokenizer(path))


def collate_of(config: TrainConfig) -> Callable[[Mapping[str, Any]], SequenceBatch]:
    """Columns of rows to the batch that the stage takes."""
    return functools.partial(_collate, image_size=config.model.image_size)


def _collate(columns: Mapping[str, Any], *, image_size: int) -> SequenceBatch:
    from setok.data.collate import columns_to_sequences  # imports torch, which data workers do without

    return columns_to_sequences(columns, image_size=image_size)
