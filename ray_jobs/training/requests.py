"""Saving outside the schedule: a node is about to be taken away, or somebody wants the run to stop."""

from __future__ import annotations

import time
from enum import Enum, auto

import torch

from ray_jobs.training.machine import WorkerContext
from ray_jobs.training.stopping import is_asked_to_stop
from setok.collectives import all_reduce_sum
from setok.config import TrainConfig


class Request(Enum):
    """What is asked of a run between two steps."""

    GO_ON = auto()
    SAVE = auto()
    """Save now, and go on."""
    STOP = auto()
    """Save now, and end."""


class Requests:
    """Asks for requests every ``scaling.poll_seconds``, which all ranks count in steps so that they agree on the step."""

    def __init__(self, config: TrainConfig, worker: WorkerContext, start: int) -> None:
        self._poll_seconds = config.scaling.poll_seconds
        self._run_dir, self._worker = config.run_dir, worker
        self._asked_at, self._asked_time = start, time.perf_counter()
        self._next = start
        self._known: frozenset[str] = frozenset()

    def after(self, done: int) -> Request:
        """What is asked after ``done`` steps: the same on all ranks, and mostly answered without asking anyone."""
        if done < self._next:
            return Request.GO_ON
        now = time.perf_counter()
        steps = done - self._asked_at
        step_seconds = (now - self._asked_time) / steps if steps else self._poll_seconds
        mine = [float(is_asked_to_stop(self._run_dir)), step_seconds] if self._worker.is_main else [0.0, 0.0]
        stop, seconds = all_reduce_sum(torch.tensor(mine, device=self._worker.device)).tolist()
        self._asked_at, self._asked_time = done, now
        # A few quick steps say little about those to come: the time between two questions grows slowly.
        self._next = done + min(max(1, round(self._poll_seconds / max(seconds, 1e-6))), 4 * max(1, steps))
        if stop:
            return Request.STOP
        going = self._worker.nodes_to_go()
        news = going - self._known
        self._known |= going
        return Request.SAVE if news else Request.GO_ON
