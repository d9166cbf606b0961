"""Savers of runs on the fake stage, and what they have written."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.training.saving import Saver
from setok import checkpoint
from setok.checkpoint import Draft, Store, TrainerState
from setok.config import TrainConfig
from tests import fakes


def config_for(folder: Path, **changes: Any) -> TrainConfig:
    return fakes.train_config(output_dir=str(folder), name="run", **{"checkpoint__keep": 9} | changes)


def state(step: int, world_size: int = 1) -> TrainerState:
    return TrainerState(step=step, samples=step, world_size=world_size)


def started(config: TrainConfig, *, world_size: int = 1) -> Saver:
    """Rank 0's saver, for tests that do not come to the end of its block."""
    return Saver(config, fakes.worker_of(config, world_size=world_size)).__enter__()


def steps_of(config: TrainConfig) -> list[int]:
    """Of the good checkpoints, oldest first."""
    store = Store.of_run(checkpoint.home_of(config))
    return [step for step in reversed(store.steps()) if not store.problems(step)]


class Gate:
    """Holds every part that is written until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.arrived = threading.Event(), threading.Semaphore(0)
        self.inside = self.most = 0
        real = Draft.write_part

        def held(draft: Draft, *args: Any, **kwargs: Any) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.arrived.release()
            assert self.opened.wait(30)
            real(draft, *args, **kwargs)
            self.inside -= 1

        monkeypatch.setattr(Draft, "write_part", held)
