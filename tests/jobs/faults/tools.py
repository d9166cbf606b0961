"""What the tests of broken runs share: a small run in a process of its own, and several nodes on this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ray_jobs.training.tracking import read_metrics
from setok.config import TrainConfig, build, dump_config

LOSSES = ("train/loss", "train/l1", "train/grad_norm")
TIMEOUT = 120.0


def run_config(data: Path, output: Path, name: str, **changes: Any) -> TrainConfig:
    """A tokenizer run of a few milliseconds a step; ``changes`` are merged into its sections."""
    tree: dict[str, Any] = {
        "name": name,
        "output_dir": str(output),
        "model": {
            "image_size": 16,
            "encoder": {"width": 24},
            "clustering": {"feature_dim": 8, "sharpness": 4.0, "max_tokens": 4},
            "detokenizer": {"width": 24, "depth": 1},
        },
        "loss": {"feature_target": 1.0, "contrast": 0.3},
        "data": {"train": [{"path": str(data)}], "steps_per_block": 8, "decode_cpus": 0.25},
        "train": {
            "steps": 120,
            "global_batch_size": 8,
            "micro_batch_size": 2,
            "log_every": 1,
            "image_every": 1000,
            "deterministic": True,
            "threads_per_worker": 1,
        },
        "optim": {"schedule": "constant", "warmup_fraction": 0.0},
        "scaling": {"num_workers": 2, "cpus_per_worker": 0.5, "max_failures": 0, "poll_seconds": 0.2},
        "checkpoint": {"every": 1000, "keep": 99},
        "logging": {"tensorboard": False},
    }
    for key, value in changes.items():
        tree[key] = tree[key] | value if isinstance(tree.get(key), dict) else value
    return build(TrainConfig, tree)


@contextlib.contextmanager
def training(config: TrainConfig, *, module: str = "ray_jobs.train") -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, which is ended if the block leaves it running."""
    config.run_dir.mkdir(parents=True, exist_ok=True)
    file = config.run_dir.with_suffix(".yaml")
    file.write_text(dump_config(config), encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    command = [sys.executable, "-m", module, "--config", str(file)]
    log = config.run_dir.with_suffix(".log")
    with log.open("a") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait, and fail where it never comes."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, f"waited {TIMEOUT:g} s for {what}"
        time.sleep(0.02)


def steps_logged(config: TrainConfig) -> int:
    """The last step in the run's log."""
    lines = read_metrics(config.run_dir)
    return int(lines[-1]["step"]) if lines else 0


def losses(config: TrainConfig) -> dict[int, list[float]]:
    """What every step is known by, and that none is there twice."""
    lines = read_metrics(config.run_dir)
    steps = [int(line["step"]) for line in lines]
    assert steps == list(range(1, len(steps) + 1)), "every step is logged once, in order"
    return {int(line["step"]): [line[name] for name in LOSSES] for line in lines}


def same_losses(a: TrainConfig, b: TrainConfig) -> None:
    """Two runs on the same samples, with perhaps another number of workers: what remains is rounding."""
    one, two = losses(a), losses(b)
    assert one.keys() == two.keys()
    for step, values in one.items():
        np.testing.assert_allclose(two[step], values, rtol=2e-3, atol=1e-4, err_msg=f"step {step}")
