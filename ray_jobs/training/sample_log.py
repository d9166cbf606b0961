"""``samples.jsonl``: which records every step was trained on, for those who want to prove it or to look them up.

On with ``logging.samples``. One line for each step: the ids of the records of the global batch in the plan's order, as the
ranks fed them to the model, and the loss to the last bit. Steps that a restart takes back are taken back here as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch.distributed as dist

from ray_jobs.training.machine import WorkerContext
from ray_jobs.training.tracking import cut_lines, read_lines
from setok.batch import Batch
from setok.config import TrainConfig

SAMPLES = "samples.jsonl"


class SampleLog:
    """Writes the file; all ranks call it, since each knows its own records only."""

    def __init__(self, config: TrainConfig, worker: WorkerContext, start_step: int) -> None:
        self._wanted, self._worker, self._start = config.logging.samples, worker, start_step
        self._path = config.run_dir / SAMPLES
        self._file: TextIO | None = None

    def __enter__(self) -> SampleLog:
        if self._wanted and self._worker.is_main:
            cut_lines(self._path, last_step=self._start)
            self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def step(self, done: int, micro_batches: Sequence[Batch], loss: float) -> None:
        """Note what step number ``done`` was trained on, and its global loss."""
        if not self._wanted:
            return
        mine = [name for batch in micro_batches for name in ids_of(batch)]
        ids: list[Any] = [mine]
        if self._worker.world_size > 1:
            ids = [None] * self._worker.world_size
            dist.all_gather_object(ids, mine)
        if self._file is not None:
            line = {"step": done, "loss": loss.hex(), "ids": [name for part in ids for name in part]}
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def flush(self) -> None:
        """Have it on disk, before a checkpoint lets the run pass these steps for good."""
        if self._file is not None:
            os.fsync(self._file.fileno())


def ids_of(batch: Batch) -> Iterator[str]:
    """The ids of a batch's records, in order; padding has none."""
    for row in batch.ids:
        yield from filter(None, [row] if isinstance(row, str) else row)


def read_samples(path: Path) -> list[dict[str, Any]]:
    """A ``samples.jsonl``, oldest step first: ``step``, ``loss`` (as ``float.hex`` writes it) and ``ids``."""
    return read_lines(path)
