"""Batches for the loop, from the columns that data workers make: in order, counted, and refused where they are wrong."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
from jaxtyping import Int64

from ray_jobs.ray_data import setok_error
from ray_jobs.training.decoding import DataSpec, open_decoder
from ray_jobs.training.packs import Packing
from setok.config import TrainConfig
from setok.data.packer import TOO_LONG
from setok.data.plan import positions_of, rank_slots
from setok.errors import DataError, TrainingError

if TYPE_CHECKING:
    from setok.batch import ImageTextBatch

_PREFETCH = 2
_LEAVE_SECONDS = 5.0
_MIN_SAMPLES = 200
"""Bad samples are tolerated until this many have been seen."""

Batch = TypeVar("Batch")


class Shard(Protocol):
    """What is used of a ``ray.data.DataIterator``."""

    def iter_batches(self, *, batch_size: int, prefetch_batches: int, batch_format: str) -> Iterable[Mapping[str, Any]]:
        """Columns of so many rows at a time."""


class TrainingBatches(Generic[Batch]):
    """Iterates over the steps of one rank, from ``start_step`` to the end of the run.

    Each step is a list of ``gradient_accumulation_steps`` micro-batches.

    Args:
        columns: micro-batches of this rank in order, as those of ``ray_jobs.training.decoding`` make them.
        collate: makes a batch of such columns.
    """

    def __init__(
        self,
        columns: Iterable[Mapping[str, Any]],
        config: TrainConfig,
        collate: Callable[[Mapping[str, Any]], Batch],
        *,
        rank: int,
        start_step: int,
    ) -> None:
        self._columns = iter(columns)
        self._collate = collate
        self._config, self._rank, self._start_step = config, rank, start_step
        self._slots = rank_slots(
            rank,
            num_workers=config.num_ranks,
            global_batch_size=config.train.global_batch_size,
            micro_batch_size=config.train.micro_batch_size,
        )
        self.wait_seconds = 0.0
        """Seconds that the loop has waited for data so far."""
        self.num_samples = 0
        self.num_bad = 0
        """Samples so far that cannot be used; they are masked in their batch. Those left out for their length do not count."""
        self._examples: list[str] = []

    def __iter__(self) -> Iterator[list[Batch]]:
        for step in range(self._start_step, self._config.train.steps):
            yield [self._micro_batch(step, index) for index in range(self._config.gradient_accumulation_steps)]

    def close(self) -> None:
        """Stop what reads ahead."""
        if isinstance(self._columns, ReadAhead):
            self._columns.close()

    def _micro_batch(self, step: int, index: int) -> Batch:
        started = time.perf_counter()
        try:
            columns = next(self._columns, None)
        except Exception as error:
            ours = setok_error(error)
            if ours is None:
                raise
            raise ours from error
        self.wait_seconds += time.perf_counter() - started
        if columns is None:
            raise TrainingError(
                f"the data ended at step {step} of {self._config.train.steps}",
                "look for a failed data worker in Ray's logs",
            )
        self._check_order(columns, step, index)
        self._count_bad(columns)
        return self._collate(columns)

    def _check_order(self, columns: Mapping[str, Any], step: int, index: int) -> None:
        train = self._config.train
        slots = self._slots[index * train.micro_batch_size : (index + 1) * train.micro_batch_size]
        expected = positions_of(np.array([step]), slots, global_batch_size=train.global_batch_size)[0]
        got, steps = np.asarray(columns["position"]), np.asarray(columns["global_step"])
        if (steps != step).any():
            found = f"step {sorted(set(steps.tolist()))}"
        elif not np.array_equal(got, expected):
            found = f"positions {got[:4].tolist()}… ({len(got)})"
        else:
            return
        raise TrainingError(
            f"rank {self._rank} expected step {step}, positions {_range(expected)}, and the data gave {found}",
            "start the run again: it resumes at its last checkpoint; if that does not help, report it with the config",
        )

    def _count_bad(self, columns: Mapping[str, Any]) -> None:
        names, errors = _samples(columns)
        self.num_samples += len(errors)
        for name, error in zip(names, errors, strict=True):
            if error and error != TOO_LONG:
                self.num_bad += 1
                if len(self._examples) < 3:
                    self._examples.append(f"{name}: {error}")
        allowed = self._config.data.max_bad_fraction
        if self.num_samples >= _MIN_SAMPLES and self.num_bad > allowed * self.num_samples:
            raise DataError(
                f"{self.num_bad} of {self.num_samples} samples cannot be used,"
                f" data.max_bad_fraction={allowed:g} allows {allowed:.0%}; the first: {'; '.join(self._examples)}",
                "ingest the set again, which leaves out what cannot be read, or raise data.max_bad_fraction",
            )


def _samples(columns: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Id and error ("" where there is none) of every sample, of which a packed row has a JSON list; not of padding."""
    real = np.flatnonzero(np.asarray(columns["position"]) >= 0)
    names, errors = ([str(columns[name][row]) for row in real] for name in ("id", "error"))
    if "valid" in columns:
        return names, errors
    return [name for row in names for name in json.loads(row)], [error for row in errors for error in json.loads(row)]


def _range(positions: Int64[np.ndarray, " n"]) -> str:
    """Positions of a micro-batch, as text."""
    real = positions[positions >= 0]
    padding = f"{len(positions) - len(real)} of padding" if len(real) < len(positions) else ""
    return " and ".join(([f"{real[0]} to {real[-1]}"] if len(real) else []) + ([padding] if padding else []))


def _images(columns: Mapping[str, Any]) -> ImageTextBatch:
    from setok.data.collate import rows_to_batch  # imports torch, which data workers do without

    return rows_to_batch(columns)


def worker_batches(shard: Shard, config: TrainConfig, *, rank: int, start_step: int) -> TrainingBatches[ImageTextBatch]:
    """The steps of one rank from its shard of ``training_dataset``.

    Iterating raises TrainingError where the data is not at the step that the loop is at, and DataError where more than
    ``data.max_bad_fraction`` of at least 200 samples are bad.
    """
    return packed_worker_batches(shard, config, _images, rank=rank, start_step=start_step)


def packed_worker_batches(
    shard: Shard,
    config: TrainConfig,
    collate: Callable[[Mapping[str, Any]], Batch],
    *,
    rank: int,
    start_step: int,
) -> TrainingBatches[Batch]:
    """As ``worker_batches``, with batches that ``collate`` makes: of packs, if the dataset was made with ``Packing``."""

    def micro_batches() -> Iterable[Mapping[str, Any]]:
        size = config.train.micro_batch_size
        return shard.iter_batches(batch_size=size, prefetch_batches=_PREFETCH, batch_format="numpy")

    return TrainingBatches(ReadAhead(micro_batches), config, collate, rank=rank, start_step=start_step)


def local_batches(config: TrainConfig, *, start_step: int) -> TrainingBatches[ImageTextBatch]:
    """The same batches for a run in this process (0 workers), without Ray; call ``close`` when done early.

    Raises:
        DataError: a set is missing.
    """
    return _local(DataSpec.of(config, start_step=start_step, num_workers=1), config, _images)


def packed_local_batches(
    config: TrainConfig, packing: Packing, collate: Callable[[Mapping[str, Any]], Batch], *, start_step: int
) -> TrainingBatches[Batch]:
    """As ``local_batches``, of packs.

    Raises:
        DataError: a set or its lengths are missing, or a sample is too long.
    """
    return _local(DataSpec.of(config, start_step=start_step, num_workers=1, packing=packing), config, collate)


def _local(
    spec: DataSpec, config: TrainConfig, collate: Callable[[Mapping[str, Any]], Batch]
) -> TrainingBatches[Batch]:
    decoder = open_decoder(spec)
    size = config.train.micro_batch_size
    blocks = (spec.block_positions(number) for number in range(spec.num_blocks))
    micro_batches = (decoder.read(part) for block in blocks for part in block.reshape(-1, size))
    return TrainingBatches(ReadAhead(lambda: micro_batches), config, collate, rank=0, start_step=spec.start_step)


class ReadAhead:
    """The items of something, made in a thread that is a few ahead and begins at once.

    Args:
        source: gives the items; called in the thread, since opening them may take a while.
        depth: items that may wait to be fetched.
    """

    def __init__(self, source: Callable[[], Iterable[Mapping[str, Any]]], *, depth: int = _PREFETCH) -> None:
        self._items: queue.Queue[Mapping[str, Any] | BaseException | None] = queue.Queue(maxsize=depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(source,), name="read-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> ReadAhead:
        return self

    def __next__(self) -> Mapping[str, Any]:
        item = None if self._stopped.is_set() else self._items.get()
        if isinstance(item, Mapping):
            return item
        self.close()
        raise StopIteration if item is None else item

    def close(self) -> None:
        """Read no further, and let what is being read end: a decoder that runs when its process ends would abort it."""
        self._stopped.set()
        self._thread.join(_LEAVE_SECONDS)

    def _work(self, source: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        try:
            for item in source():
                self._put(item)
                if self._stopped.is_set():
                    return
            self._put(None)
        except BaseException as error:  # goes to the loop, which is the one to fail
            self._put(error)

    def _put(self, item: Mapping[str, Any] | BaseException | None) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._items.put(item, timeout=0.1)
                return
