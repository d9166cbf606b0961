"""What data workers run: the plan's positions made into rows of pictures, or of packs."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int32, Int64

from ray_jobs.training.packs import PackBuilder, Packing, build_packs, count_packs, packed_plan
from setok.config import AugmentConfig, TrainConfig
from setok.data.augment import Augmenter
from setok.data.decode import STORED_COLUMNS, Columns, decode_rows, padding_columns
from setok.data.features import COLUMN as FEATURES
from setok.data.features import FeatureSet, features_of, read_several
from setok.data.images import configure_opencv
from setok.data.plan import Plan, block_positions, num_blocks, step_of
from setok.data.schema import Manifest
from setok.data.shards import DEFAULT_CACHE_BYTES, ShardReader
from setok.data.storage import Storage
from setok.errors import ConfigError, DataError

_OTHER_BYTES = 2048
"""Room in a row for what is not pixels."""


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """All that a data worker must know, in plain values."""

    folders: tuple[str, ...]
    fingerprints: tuple[str, ...]
    num_rows: tuple[int, ...]
    weights: tuple[float, ...]
    max_samples: tuple[int | None, ...]
    max_epochs: tuple[int | None, ...]
    seed: int
    image_size: int
    fit_multiple: int | None
    augment: AugmentConfig | None
    packing: Packing | None
    """Rows of the stream are packs of samples; without it they are samples."""
    features: tuple[FeatureSet, ...]
    """Of the frozen encoder, one for each set; empty where they are not kept."""
    start_step: int
    stop_step: int
    steps_per_block: int
    num_workers: int
    global_batch_size: int
    micro_batch_size: int

    @classmethod
    def of(cls, config: TrainConfig, *, start_step: int, num_workers: int, packing: Packing | None = None) -> DataSpec:
        """Look at the ingested sets that a run reads.

        Raises:
            DataError: a set is missing or was not ingested to the end; for packs also, its lengths are missing, or a sample
                is too long.
            ConfigError: the run has more steps than the capped sets have samples for, or asks for random views of packs.
        """
        if packing is not None and config.data.augment is not None:
            raise ConfigError(
                "data.augment is set, and this run learns from texts, which speak of places in the whole picture",
                "--set data.augment=null",
            )
        train = config.data.train
        folders = tuple(Storage(entry.path).address for entry in train)
        manifests = [Manifest.load(folder) for folder in folders]
        spec = cls(
            folders=folders,
            fingerprints=tuple(manifest.fingerprint for manifest in manifests),
            num_rows=tuple(manifest.num_rows for manifest in manifests),
            weights=tuple(entry.weight for entry in train),
            max_samples=tuple(entry.max_samples for entry in train),
            max_epochs=tuple(entry.max_epochs for entry in train),
            seed=config.seed,
            image_size=config.model.image_size,
            fit_multiple=config.model.fit_multiple,
            augment=config.data.augment,
            packing=packing,
            features=features_of(config),
            start_step=start_step,
            stop_step=config.train.steps,
            steps_per_block=config.data.steps_per_block,
            num_workers=num_workers,
            global_batch_size=config.train.global_batch_size,
            micro_batch_size=config.train.micro_batch_size,
        )
        return spec._checked()

    def plan(self) -> Plan:
        """The order of samples."""
        return Plan(self.seed, self.num_rows, self.weights, self.max_samples, self.max_epochs)

    def _checked(self) -> DataSpec:
        """The spec with its packs counted, once it is clear that there is data for every step."""
        plan, spec = self.plan(), self
        if self.packing is None:
            steps = None if plan.length is None else plan.length // self.global_batch_size
        else:
            packs = packed_plan(plan, self.folders, self.packing, rows_per_step=self.global_batch_size)
            first_packs = count_packs(packs, self.folders, self.stop_step)
            spec = replace(self, packing=replace(self.packing, first_packs=first_packs))
            steps = packs.num_steps()
        if steps is not None and self.stop_step > steps:
            raise ConfigError(
                f"train.steps={self.stop_step} of {self.global_batch_size} need more samples than the sets give:"
                f" with data.train's max_epochs they last for {steps} steps",
                f"--set train.steps={steps}, or raise max_epochs of a set" if steps else "raise max_epochs of a set",
            )
        return spec

    @property
    def num_rows_read(self) -> int:
        """Rows of the stream: samples, or packs."""
        return (self.stop_step - self.start_step) * self.global_batch_size

    @property
    def row_bytes(self) -> int:
        """Size of a row as it travels; of packs, about."""
        if self.packing is not None:
            return self.packing.builder.row_bytes
        return image_row_bytes(self.image_size, self.features)

    @property
    def num_blocks(self) -> int:
        return num_blocks(
            start_step=self.start_step,
            stop_step=self.stop_step,
            steps_per_block=self.steps_per_block,
            num_workers=self.num_workers,
        )

    def block_positions(self, block_index: int) -> Int64[np.ndarray, " positions"]:
        """Positions of the plan that a block carries."""
        return block_positions(
            block_index,
            start_step=self.start_step,
            stop_step=self.stop_step,
            steps_per_block=self.steps_per_block,
            num_workers=self.num_workers,
            global_batch_size=self.global_batch_size,
            micro_batch_size=self.micro_batch_size,
        )


class Decoder(ABC):
    """Reads the rows of the stream at given positions; what they are made into, the subclasses say."""

    columns: tuple[str, ...]
    """Columns of the stored rows that are read."""

    def __init__(self, spec: DataSpec) -> None:
        configure_opencv(num_threads=1)
        self.spec = spec
        self.plan = spec.plan()

    @functools.cached_property
    def readers(self) -> list[ShardReader]:
        """Readers of the sets, opened at the first block."""
        cache = DEFAULT_CACHE_BYTES // len(self.spec.folders)
        readers = [ShardReader(folder, cache_bytes=cache, columns=self.columns) for folder in self.spec.folders]
        for reader, fingerprint in zip(readers, self.spec.fingerprints, strict=True):
            if reader.manifest.fingerprint != fingerprint:
                raise DataError(
                    f"{reader.folder} holds {reader.manifest.fingerprint}, and the run was started with {fingerprint}",
                    "give all nodes the same files, and do not ingest again while a run reads them",
                )
        return readers

    def block(self, number: int) -> Columns:
        """The rows of one block."""
        return self.read(self.spec.block_positions(number))

    def read(self, positions: Int64[np.ndarray, " n"]) -> Columns:
        """The rows at these positions, with ``position`` and ``global_step`` (int64); padding where they are negative.

        Raises:
            DataError: a set is not the one that the run was started with, or cannot be read.
        """
        padding = positions < 0
        columns = self._decoded(positions[~padding])
        if padding.any():
            columns = _filled_up(columns, self._padding(), padding)
        steps = step_of(positions, global_batch_size=self.spec.global_batch_size)
        return columns | {"position": positions, "global_step": steps}

    @abstractmethod
    def _decoded(self, positions: Int64[np.ndarray, " n"]) -> Columns:
        """What the rows at these positions hold."""

    @abstractmethod
    def _padding(self) -> Columns:
        """One row that takes no part in training."""

    def _stored(self, source: Int32[np.ndarray, " n"], row: Int64[np.ndarray, " n"]) -> pa.Table:
        owners = [np.flatnonzero(source == index) for index in range(len(self.readers))]
        tables = [reader.take(row[own]) for reader, own in zip(self.readers, owners, strict=True)]
        return pa.concat_tables(tables).take(pa.array(np.argsort(np.concatenate(owners))))


class ImageDecoder(Decoder):
    """Every row is a picture with its concepts: the columns of ``decode_rows``."""

    columns = STORED_COLUMNS

    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self._augmenter = None if spec.augment is None else Augmenter(spec.augment, seed=spec.seed)

    def _decoded(self, positions: Int64[np.ndarray, " n"]) -> Columns:
        source, row, epoch = self.plan.samples_at(positions)
        columns = decode_rows(
            self._stored(source, row),
            image_size=self.spec.image_size,
            with_segments=False,
            fit_multiple=self.spec.fit_multiple,
            augmenter=self._augmenter,
            epochs=epoch,
        )
        if self.spec.features:
            columns[FEATURES] = read_several(self.spec.features, source, row)
        return columns

    def _padding(self) -> Columns:
        columns = padding_columns(image_size=self.spec.image_size, fit_multiple=self.spec.fit_multiple)
        if self.spec.features:  # any will do that are like others
            columns[FEATURES] = self.spec.features[0].read(np.zeros(1, np.int64))
        return columns


class PackDecoder(Decoder):
    """Every row is a pack of samples, as a ``PackBuilder`` makes it; positions count packs."""

    def __init__(self, spec: DataSpec, packing: Packing) -> None:
        super().__init__(spec)
        self._builder: PackBuilder = packing.builder.open()
        self.columns = self._builder.columns
        self.packs = packed_plan(self.plan, spec.folders, packing, rows_per_step=spec.global_batch_size)

    def _decoded(self, positions: Int64[np.ndarray, " n"]) -> Columns:
        return build_packs(self._builder, self.packs, positions, self._stored)

    def _padding(self) -> Columns:
        return self._builder.build([[]])


def _filled_up(columns: Columns, blank: Columns, padding: Bool[np.ndarray, " n"]) -> Columns:
    """The rows in order, with the one row of ``blank`` wherever there is padding."""
    index = np.where(padding, -1, np.cumsum(~padding) - 1)
    filled: Columns = {}
    for name, values in columns.items():
        if isinstance(values, np.ndarray):
            filled[name] = np.concatenate([values, blank[name]])[index]
        else:
            rows = [*values, *blank[name]]
            filled[name] = [rows[at] for at in index.tolist()]
    return filled


def open_decoder(spec: DataSpec) -> Decoder:
    """The decoder that a spec asks for."""
    return ImageDecoder(spec) if spec.packing is None else PackDecoder(spec, spec.packing)


def image_row_bytes(image_size: int, features: Sequence[FeatureSet]) -> int:
    """Size of a picture's row as it travels, with what its encoder made of it where that is kept."""
    return 3 * image_size**2 + _OTHER_BYTES + (features[0].row_bytes if features else 0)
