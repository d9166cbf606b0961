"""Batches over any number of replicas: what each makes of its batches goes to the journal."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ray_jobs import launch
from ray_jobs.evaluation.batches import Batch
from ray_jobs.evaluation.journal import Journal, Row, Shard
from ray_jobs.ray_data import setok_error
from setok.config import EvaluateConfig, ThresholdsConfig
from setok.errors import ConfigError, SetokError
from setok.metrics.running import INDEX

BATCH, NUMBER, ASKS = "batch", "number", "asks"
DECODE_CPUS, REPLICA_CPUS = 0.25, 0.5
Block = Mapping[str, Any]
Read = Callable[[Block], Block]


class Model(Protocol):
    """One copy of the model."""

    def __call__(self, block: Block, /) -> list[Row]:
        """One row for every sample, with its ``index`` and ``number``."""


class Replica:
    """One copy of the model with its file of the journal."""

    def __init__(self, kind: Callable[[Any], Model], task: Any, folder: Path) -> None:
        self._shard = Shard(folder)
        self._model: Model | SetokError
        try:
            self._model = kind(task)
        except SetokError as error:  # told with the first batch: of an error here Ray keeps the text alone
            self._model = error

    def __call__(self, block: Block) -> dict[str, np.ndarray]:
        if isinstance(self._model, SetokError):
            raise self._model
        batch = int(block[BATCH][0])
        rows = self._model({name: values for name, values in block.items() if name != BATCH})
        self._shard.append(batch, rows)
        return {BATCH: np.array([batch]), "num": np.array([len(rows)])}


def block_of(batch: Batch) -> dict[str, Any]:
    """A batch as columns."""
    return {
        BATCH: np.full(len(batch.items), batch.number),
        INDEX: np.array([item.index for item in batch.items]),
        NUMBER: np.array([item.number for item in batch.items]),
        ASKS: np.array([item.asks for item in batch.items], dtype=object),
    }


def ask_all(
    config: EvaluateConfig,
    kind: Callable[[Any], Model],
    task: Any,
    batches: Sequence[Batch],
    journal: Journal,
    *,
    read: Read | None = None,
) -> None:
    """Ask what is not in the journal yet; Ray must be running.

    Args:
        kind: makes a copy of the model from ``task``, in a replica.
        read: done before that, in a Ray task of its own.
    """
    import ray.data
    import ray.exceptions

    finished = journal.finished()
    waiting = [batch for batch in batches if batch.number not in finished]
    if not waiting:
        return
    ray.data.DataContext.get_current().raise_original_map_exception = True  # else Ray hands on the text of an error
    blocks = [pa.table({name: pa.array(column) for name, column in block_of(batch).items()}) for batch in waiting]
    dataset = ray.data.from_arrow(blocks)
    if read is not None:
        dataset = dataset.map_batches(read, batch_size=None, num_cpus=DECODE_CPUS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # max_restarts has no named parameter in Ray 2.60 yet
        dataset = dataset.map_batches(
            Replica,
            fn_constructor_args=(kind, task, journal.folder),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=min(config.num_replicas, len(waiting))),
            num_cpus=REPLICA_CPUS,
            num_gpus=1 if config.use_gpu else None,
            max_restarts=0,  # else Ray warns that the task, in the object store, might be gone at a restart
        )
    columns = (TextColumn("evaluate {task.fields[name]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=launch.console(), transient=True) as progress:
        total, done = (
            sum(len(batch.items) for batch in batches),
            sum(len(b.items) for b in batches if b.number in finished),
        )
        line = progress.add_task("evaluate", total=total, completed=done, name=config.name)
        try:
            for part in dataset.iter_batches(batch_size=None, batch_format="numpy"):
                progress.advance(line, int(part["num"].sum()))
        except ray.exceptions.RayError as error:
            raise setok_error(error) or error from error


def check_resources(config: EvaluateConfig | ThresholdsConfig) -> None:
    """Refuse what the cluster could never run, instead of waiting for it; Ray must be running.

    Raises:
        ConfigError: with how many replicas there is room for.
    """
    import ray

    has = ray.cluster_resources()
    cpus = config.num_replicas * REPLICA_CPUS + DECODE_CPUS
    if has.get("CPU", 0) < cpus:
        most = int((has.get("CPU", 0) - DECODE_CPUS) / REPLICA_CPUS)
        raise ConfigError(
            f"num_replicas={config.num_replicas} needs {cpus:g} CPUs, and the cluster has {has.get('CPU', 0):g}",
            f"--set num_replicas={max(1, most)}",
        )
    if config.use_gpu and has.get("GPU", 0) < config.num_replicas:
        raise ConfigError(
            f"num_replicas={config.num_replicas} needs as many GPUs, and the cluster has {has.get('GPU', 0):g}",
            "--set use_gpu=false, or fewer replicas",
        )
