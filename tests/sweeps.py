"""Sweeps of the fake stage, and trainings that only write what a training would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from setok.config import TrainConfig, TuneConfig, build
from tests import fakes


def sweep_config(*, train: dict[str, Any] | None = None, **changes: Any) -> TuneConfig:
    """A sweep over the learning rate; ``train`` changes sections of the training run."""
    run = fakes.train_config().model_dump(mode="json")
    for section, values in (train or {}).items():
        run[section] = run[section] | values if isinstance(run[section], dict) else values
    tree = {
        "job": "tune",
        "name": "sweep",
        "train": run,
        "space": {"optim.learning_rate": {"values": [0.1, 0.2, 0.4]}},
        "objectives": [{"metric": "train/loss", "best_is": "lowest"}],
    }
    return build(TuneConfig, tree | changes)


def write_metrics(run_dir: Path, rows: dict[int, dict[str, float]]) -> None:
    """The ``metrics.jsonl`` of a run, by step."""
    run_dir.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"step": step, "time": 0.0, **row}) for step, row in rows.items()]
    (run_dir / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))


def fake_train(loss: Callable[[TrainConfig], float]) -> Callable[[TrainConfig], Path]:
    """A training that is over at once, with a loss that follows from its settings."""

    def train(config: TrainConfig) -> Path:
        write_metrics(config.run_dir, {config.train.steps: {"train/loss": loss(config), "perf/train_seconds": 1.0}})
        return config.run_dir

    return train
