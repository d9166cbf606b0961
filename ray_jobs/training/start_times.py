"""``starts.jsonl``: how long each start of a run took until its first optimizer step, and what took the time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Literal

from ray_jobs.training.machine import WorkerContext
from ray_jobs.training.tracking import read_lines
from setok.config import TrainConfig

STARTS = "starts.jsonl"
Mark = Literal["entered", "built", "data", "step"]


class StartTimes:
    """When rank 0 entered the loop, had its model, its first batch, and its first step behind it."""

    def __init__(self, config: TrainConfig, worker: WorkerContext) -> None:
        self._path = config.run_dir / STARTS if worker.is_main else None
        self._times: dict[str, float] = {}
        self.mark("entered")

    def mark(self, name: Mark, step: int = 0) -> None:
        """Note the time, the first time that it is called; with the step, write all of them down."""
        if self._path is None or name in self._times:
            return
        self._times[name] = time.time()
        if name == "step":
            line = {"first_step": step} | {key: round(value, 3) for key, value in self._times.items()}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def read_starts(run_dir: Path) -> list[dict[str, Any]]:
    """All starts of a run, oldest first: ``first_step``, and seconds since 1970 of each mark."""
    return read_lines(run_dir / STARTS)
