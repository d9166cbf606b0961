"""Rows of packed sequences for the language model, as blocks of the plan: what the data workers do, without torch.

A position of this plan is a row (a pack of samples), so blocks, steps and ranks are those of ray_jobs/dataset.py. Rows follow
from the plan of the samples and their lengths (setok/data/packed_plan.py), so they are the same for any number of workers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from ray_jobs.dataset import BlockDecoder, DataSpec, row_bytes
from setok.config import SequenceConfig, TrainConfig
from setok.data.decode import Columns
from setok.data.lengths import sequence_lengths
from setok.data.pack import PackedRow, Sample, decode_sample, pack_row, row_columns
from setok.data.packed_plan import PackedPlan
from setok.data.schema import Record
from setok.data.sequences import SequenceBuilder
from setok.data.text_tokenizer import TextTokenizer

COLUMNS = ("id", "source", "task", "images", "conversation", "caption", "concepts", "masks", "answers", "choices")


@dataclass(frozen=True, kw_only=True)
class SequenceSpec(DataSpec):
    """What a data worker must know to make rows of sequences."""

    tokenizer: TextTokenizer
    sequence: SequenceConfig

    @classmethod
    def of(cls, config: TrainConfig, *, start_step: int, num_workers: int) -> SequenceSpec:
        """Look at the ingested sets and the text tokenizer; token lengths are counted here, where they are not known yet.

        Raises:
            DataError: a set is missing, or a record is longer than a row.
            ConfigError: there is no text tokenizer, or it lacks tokens.
        """
        plain = DataSpec.of(config, start_step=start_step, num_workers=num_workers)
        spec = cls(**vars(plain), tokenizer=text_tokenizer_of(config), sequence=config.sequence)
        for folder in spec.folders:
            sequence_lengths(folder, spec.builder())
        return spec

    @property
    def sample_bytes(self) -> int:
        """Most bytes of a row."""
        return row_bytes(self.sequence, self.image_size)

    def builder(self) -> SequenceBuilder:
        """Records to sequences."""
        return SequenceBuilder(self.tokenizer, self.sequence, seed=self.seed)

    def decoder(self) -> SequenceDecoder:
        """Reads and packs what the plan says."""
        return SequenceDecoder(self)


class SequenceDecoder(BlockDecoder):
    """Reads records, writes them as sequences, and packs these into rows."""

    columns = COLUMNS

    def __init__(self, spec: SequenceSpec) -> None:
        super().__init__(spec)
        self.sequences = spec
        self.builder = spec.builder()

    @functools.cached_property
    def packs(self) -> PackedPlan:
        """Which samples make up every row."""
        return PackedPlan(
            self.plan,
            [sequence_lengths(folder, self.builder) for folder in self.sequences.folders],
            budget=self.sequences.sequence.max_length,
            rows_per_step=self.sequences.global_batch_size,
            too_long="mask",
        )

    def read(self, positions: Int64[np.ndarray, " n"]) -> Columns:
        """Columns of ``row_columns`` for rows of these numbers, with ``position`` and ``global_step`` (int64).

        Raises:
            DataError: a set is not the one that the run was started with, or cannot be read.
        """
        packs = [self.packs.packs(number, number + 1)[0] for number in positions.tolist()]
        samples = iter(self._samples(np.concatenate([np.zeros(0, np.int64), *packs])))
        rows = [self._row([next(samples) for _ in pack]) for pack in packs]
        columns = row_columns(rows)
        return columns | {"position": positions, "global_step": positions // self.sequences.global_batch_size}

    def _samples(self, numbers: Int64[np.ndarray, " n"]) -> Iterator[Sample]:
        """Samples at positions of the plan, with their pictures decoded."""
        source, row, epoch = self.plan.samples_at(numbers)
        owners = [np.flatnonzero(source == index) for index in range(len(self.readers))]
        tables = [reader.take(row[own]) for reader, own in zip(self.readers, owners, strict=True)]
        table = pa.concat_tables(tables).take(pa.array(np.argsort(np.concatenate(owners))))
        unknown = {"segments": [], "boxes": [], "provenance": "{}"}
        for fields, turn in zip(table.to_pylist(), epoch.tolist(), strict=True):
            record = Record.from_row(unknown | fields)
            sequence = self.builder.build_or_stand_in(record, epoch=turn)
            yield decode_sample(record, sequence, image_size=self.sequences.image_size)

    def _row(self, samples: list[Sample]) -> PackedRow:
        size, limit = self.sequences.image_size, self.sequences.sequence.max_length
        return pack_row(samples, max_length=limit, pad_id=self.builder.pad_id, image_size=size)


def text_tokenizer_of(config: TrainConfig) -> TextTokenizer:
    """The text tokenizer that a run names, for the data workers.

    Raises:
        ConfigError: it is missing.
    """
    assert config.setokim is not None
    path = config.setokim.text_tokenizer or config.setokim.language_model.path
    assert path is not None
    if Path(path).is_dir() and (Path(path) / "tokenizer.json").is_file():
        found = TextTokenizer.load(path)
        if "[Img]" in found.special_tokens:
            return found
    from setok.data.special_tokens import text_tokenizer  # brings in transformers
    from setok.models.language_model import load_text_tokenizer

    return text_tokenizer(load_text_tokenizer(path))
