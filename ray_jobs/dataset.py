"""The plan as a Ray Dataset, and as batches for the loop.

One block carries ``steps_per_block`` steps of one rank. With ``preserve_order`` Ray hands block ``b`` to rank
``b mod W`` as long as blocks have equal numbers of rows. So every rank finds the steps in order, and the ranks' parts
of a step make up the plan's global batch, whatever the number of workers and wherever the run starts. Every row carries
its step and position, and the loop's iterator refuses any other than the expected ones.
"""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from setok.config import TrainConfig
from setok.data.decode import STORED_COLUMNS, Columns, decode_rows
from setok.data.images import configure_opencv
from setok.data.plan import Plan, block_positions, num_blocks
from setok.data.schema import Manifest
from setok.data.shards import DEFAULT_CACHE_BYTES, ShardReader
from setok.errors import ConfigError, DataError, SetokError, TrainingError

if TYPE_CHECKING:  # this module is imported by data workers, which need neither torch nor Ray Train
    import ray.data
    import ray.train

    from setok.batch import ImageTextBatch

MAX_BLOCK_BYTES = 128 * 2**20
"""Ray Data cuts larger blocks in pieces, and then they no longer go round the ranks in turn."""
_OTHER_BYTES = 2048
"""Room in a row for what is not pixels."""
_PREFETCH = 2
_MIN_SAMPLES = 200
"""Bad samples are tolerated until this many have been seen."""


# ---------------------------------------------------------------- what the data workers run


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """All that a data worker must know, in plain values."""

    folders: tuple[str, ...]
    fingerprints: tuple[str, ...]
    num_rows: tuple[int, ...]
    weights: tuple[float, ...]
    seed: int
    image_size: int
    fit_multiple: int | None
    start_step: int
    stop_step: int
    steps_per_block: int
    num_workers: int
    global_batch_size: int

    @classmethod
    def of(cls, config: TrainConfig, *, start_step: int, num_workers: int) -> DataSpec:
        """Look at the ingested sets that a run reads.

        Raises:
            DataError: a set is missing or was not ingested to the end.
        """
        folders = tuple(str(Path(entry.path).absolute()) for entry in config.data.train)
        manifests = [Manifest.load(folder) for folder in folders]
        return cls(
            folders=folders,
            fingerprints=tuple(manifest.fingerprint for manifest in manifests),
            num_rows=tuple(manifest.num_rows for manifest in manifests),
            weights=tuple(entry.weight for entry in config.data.train),
            seed=config.seed,
            image_size=config.model.image_size,
            fit_multiple=config.model.fit_multiple,
            start_step=start_step,
            stop_step=config.train.steps,
            steps_per_block=config.data.steps_per_block,
            num_workers=num_workers,
            global_batch_size=config.train.global_batch_size,
        )

    @property
    def num_samples(self) -> int:
        return (self.stop_step - self.start_step) * self.global_batch_size

    @property
    def sample_bytes(self) -> int:
        """Size of a decoded sample."""
        return 3 * self.image_size**2 + _OTHER_BYTES

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
        )


class BlockDecoder:
    """Reads and decodes the samples at given positions of the plan."""

    def __init__(self, spec: DataSpec) -> None:
        configure_opencv(num_threads=1)
        self.spec = spec
        self.plan = Plan(spec.seed, spec.num_rows, spec.weights)

    @functools.cached_property
    def readers(self) -> list[ShardReader]:
        """Readers of the sets, opened at the first block."""
        cache = DEFAULT_CACHE_BYTES // len(self.spec.folders)
        readers = [ShardReader(folder, cache_bytes=cache, columns=STORED_COLUMNS) for folder in self.spec.folders]
        for reader, fingerprint in zip(readers, self.spec.fingerprints, strict=True):
            if reader.manifest.fingerprint != fingerprint:
                raise DataError(
                    f"{reader.folder} holds {reader.manifest.fingerprint}, and the run was started with {fingerprint}",
                    "give all nodes the same files, and do not ingest again while a run reads them",
                )
        return readers

    def block(self, number: int) -> Columns:
        """The samples of one block."""
        return self.read(self.spec.block_positions(number))

    def read(self, positions: Int64[np.ndarray, " n"]) -> Columns:
        """Columns of ``decode_rows``, with ``position`` and ``global_step`` (int64).

        Raises:
            DataError: a set is not the one that the run was started with, or cannot be read.
        """
        source, row, _ = self.plan.samples_at(positions)
        owners = [np.flatnonzero(source == index) for index in range(len(self.readers))]
        tables = [reader.take(row[own]) for reader, own in zip(self.readers, owners, strict=True)]
        table = pa.concat_tables(tables).take(pa.array(np.argsort(np.concatenate(owners))))
        columns = decode_rows(
            table, image_size=self.spec.image_size, with_segments=False, fit_multiple=self.spec.fit_multiple
        )
        return columns | {"position": positions, "global_step": positions // self.spec.global_batch_size}


# ---------------------------------------------------------------- the dataset


def check_block_size(config: TrainConfig, *, num_workers: int) -> None:
    """Refuse blocks that Ray Data would cut.

    Raises:
        ConfigError: naming the largest ``data.steps_per_block`` that fits.
    """
    side = config.model.image_size
    samples = config.train.global_batch_size // num_workers
    step_bytes = samples * (3 * side * side + _OTHER_BYTES)
    fits = MAX_BLOCK_BYTES // step_bytes
    if config.data.steps_per_block <= fits:
        return
    problem = (
        f"data.steps_per_block={config.data.steps_per_block} makes blocks of"
        f" {config.data.steps_per_block * step_bytes / 2**20:.0f} MiB ({samples} images of {side} × {side} pixels in"
        f" each step of a worker), and {MAX_BLOCK_BYTES / 2**20:.0f} MiB is the most"
    )
    if fits:
        raise ConfigError(problem, f"--set data.steps_per_block={fits}")
    raise ConfigError(problem, "even one step is too large: lower train.global_batch_size, or use more workers")


def training_dataset(config: TrainConfig, *, start_step: int, num_workers: int) -> ray.data.Dataset:
    """The samples of a run from ``start_step`` on, for ``num_workers`` ranks; call it whenever workers start.

    Raises:
        ConfigError: blocks would be too large.
        DataError: a set is missing.
    """
    import ray.data

    check_block_size(config, num_workers=num_workers)
    spec = DataSpec.of(config, start_step=start_step, num_workers=num_workers)
    blocks = max(num_workers, spec.num_blocks)  # past the last step: empty blocks, because Ray cannot split nothing
    with ray.data.DataContext.current(data_context()):
        return ray.data.read_datasource(
            _blocks_of(spec, blocks),
            num_cpus=config.data.decode_cpus,
            concurrency=config.data.decode_workers,
            override_num_blocks=blocks,
        )


def _blocks_of(spec: DataSpec, blocks: int) -> ray.data.Datasource:
    """The plan's blocks as a Ray data source: one read task for each, in order.

    Reading and decoding are one operator on purpose. With an operator of its own, whatever names the blocks to the decoders
    reserves a whole CPU, which on a small machine is never free while workers and decoders hold theirs.
    """
    import ray.data
    from ray.data.block import BlockMetadata

    class PlannedBlocks(ray.data.Datasource):
        def get_name(self) -> str:
            return "PlannedBlocks"

        def estimate_inmemory_data_size(self) -> int:
            return spec.num_samples * spec.sample_bytes

        def get_read_tasks(
            self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
        ) -> list[ray.data.ReadTask]:
            tasks = []
            for number in range(blocks):
                rows = len(spec.block_positions(number)) if number < spec.num_blocks else 0
                metadata = BlockMetadata(num_rows=rows, size_bytes=rows * spec.sample_bytes, exec_stats=None)
                tasks.append(ray.data.ReadTask(functools.partial(_read_block, spec, number), metadata))
            return tasks

    return PlannedBlocks()


def _read_block(spec: DataSpec, number: int) -> list[pa.Table]:
    from ray.data.block import BlockAccessor

    return [BlockAccessor.batch_to_block(_decoder(spec).block(number))]


@functools.lru_cache(maxsize=1)
def _decoder(spec: DataSpec) -> BlockDecoder:
    """The process's decoder, kept for its open files and cached row groups."""
    return BlockDecoder(spec)


def data_context() -> ray.data.DataContext:
    """A copy of Ray Data's settings for our jobs: ordered, quiet, no watchdog on pauses, and no block given up."""
    import ray.data

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_no_progress_timeout_s = -1  # a long evaluation or checkpoint is no reason to end a run
    context.max_errored_blocks = 0
    context.target_max_block_size = MAX_BLOCK_BYTES
    context.raise_original_map_exception = True  # else Ray hands on the text of an error, not the error
    return context


def training_data_config() -> ray.train.DataConfig:
    """How Ray Train hands the dataset to the workers: in order."""
    import ray.data
    import ray.train

    return ray.train.DataConfig(execution_options=ray.data.ExecutionOptions(preserve_order=True))


def setok_error(error: BaseException | None) -> SetokError | None:
    """The error of ours inside what Ray raises for a failed task or actor, if there is one."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        inner = getattr(error, "cause", None)  # of a RayTaskError, which also poses as an instance of its cause's class
        if inner is None and isinstance(error, SetokError):
            return error
        error = inner or error.__cause__
    return None


# ---------------------------------------------------------------- batches for the loop


class TrainingBatches:
    """Iterates over the steps of one rank, from ``start_step`` to the end of the run.

    Each step is a list of ``gradient_accumulation_steps`` micro-batches.

    Args:
        columns: micro-batches of this rank in order, as ``BlockDecoder`` makes them.
    """

    def __init__(
        self, columns: Iterable[Mapping[str, Any]], config: TrainConfig, *, rank: int, start_step: int
    ) -> None:
        self._columns = iter(columns)
        self._config, self._rank, self._start_step = config, rank, start_step
        self.wait_seconds = 0.0
        """Seconds that the loop has waited for data so far."""
        self.num_samples = 0
        self.num_bad = 0
        """Samples so far that could not be decoded; they are masked in their batch."""
        self._examples: list[str] = []

    def __iter__(self) -> Iterator[list[ImageTextBatch]]:
        for step in range(self._start_step, self._config.train.steps):
            yield [self._micro_batch(step, index) for index in range(self._config.gradient_accumulation_steps)]

    def close(self) -> None:
        """Stop what reads ahead."""
        close = getattr(self._columns, "close", None)
        if close is not None:
            close()

    def _micro_batch(self, step: int, index: int) -> ImageTextBatch:
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
        from setok.data.collate import rows_to_batch

        self._check_order(columns, step, index)
        self._count_bad(columns)
        return rows_to_batch(columns)

    def _check_order(self, columns: Mapping[str, Any], step: int, index: int) -> None:
        train = self._config.train
        share = train.global_batch_size // self._config.num_ranks
        first = step * train.global_batch_size + self._rank * share + index * train.micro_batch_size
        got, steps = np.asarray(columns["position"]), np.asarray(columns["global_step"])
        if (steps != step).any():
            found = f"step {sorted(set(steps.tolist()))}"
        elif not np.array_equal(got, np.arange(first, first + train.micro_batch_size)):
            found = f"positions {got[:4].tolist()}… ({len(got)})"
        else:
            return
        raise TrainingError(
            f"rank {self._rank} expected step {step}, positions {first} to {first + train.micro_batch_size - 1},"
            f" and the data gave {found}",
            "start the run again: it resumes at its last checkpoint; if that does not help, report it with the config",
        )

    def _count_bad(self, columns: Mapping[str, Any]) -> None:
        valid = np.asarray(columns["valid"], bool)
        self.num_samples += len(valid)
        self.num_bad += int((~valid).sum())
        for index in np.flatnonzero(~valid)[: max(0, 3 - len(self._examples))]:
            self._examples.append(f"{columns['id'][index]}: {columns['error'][index]}")
        allowed = self._config.data.max_bad_fraction
        if self.num_samples >= _MIN_SAMPLES and self.num_bad > allowed * self.num_samples:
            raise DataError(
                f"{self.num_bad} of {self.num_samples} samples cannot be decoded,"
                f" data.max_bad_fraction={allowed:g} allows {allowed:.0%}; the first: {'; '.join(self._examples)}",
                "ingest the set again, which leaves such pictures out, or raise data.max_bad_fraction",
            )


def worker_batches(shard: ray.data.DataIterator, config: TrainConfig, *, rank: int, start_step: int) -> TrainingBatches:
    """The steps of one rank from its shard of ``training_dataset``.

    Iterating raises TrainingError where the data is not at the step that the loop is at, and DataError where more than
    ``data.max_bad_fraction`` of at least 200 samples are bad.
    """
    micro_batches = shard.iter_batches(
        batch_size=config.train.micro_batch_size, prefetch_batches=_PREFETCH, batch_format="numpy"
    )
    return TrainingBatches(micro_batches, config, rank=rank, start_step=start_step)


def local_batches(config: TrainConfig, *, start_step: int) -> TrainingBatches:
    """The same batches for a run in this process (0 workers), without Ray; call ``close`` when done early.

    Raises:
        DataError: a set is missing.
    """
    decoder = BlockDecoder(DataSpec.of(config, start_step=start_step, num_workers=1))
    size = config.train.micro_batch_size
    starts = range(
        start_step * config.train.global_batch_size, config.train.steps * config.train.global_batch_size, size
    )
    micro_batches = (decoder.read(np.arange(start, start + size)) for start in starts)
    return TrainingBatches(_read_ahead(micro_batches, depth=_PREFETCH), config, rank=0, start_step=start_step)


def _read_ahead(columns: Iterator[Columns], *, depth: int) -> Iterator[Columns]:
    """The same items, made in a thread that is ``depth`` items ahead and ends with the iteration."""
    items: queue.Queue[Columns | BaseException | None] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: Columns | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                items.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for item in columns:
                put(item)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # goes to the loop, which is the one to fail
            put(error)

    threading.Thread(target=work, name="read-ahead", daemon=True).start()
    try:
        while (item := items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
