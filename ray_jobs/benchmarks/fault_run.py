"""A small training run in a process of its own, for breaking it from outside and looking at what is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from ray_jobs.training.history import read_history
from ray_jobs.training.sample_log import SAMPLES, read_samples
from ray_jobs.training.start_times import read_starts
from ray_jobs.training.tracking import read_metrics
from setok import checkpoint
from setok.checkpoint.store import WRITING
from setok.config import TrainConfig, build, dump_config
from setok.errors import TrainingError

WORKER, DATA = "RayTrainWorker", "ReadPlannedBlocks"
"""In the titles of Ray's processes: one that trains, and one that reads and decodes."""
POLL_SECONDS = 0.001
START_SECONDS, SLOW_STEP_SECONDS = 300.0, 2.0
"""A run that takes longer has come to nothing."""
PARTS = ("notice", "workers", "model", "data", "step")


def small_run(data: Path, output: Path, name: str, **changes: Any) -> TrainConfig:
    """A tokenizer run on two workers, of a few dozen milliseconds a step, to the last bit the same every time.

    Args:
        data: an ingested set of pictures.
        output: folder of the run's folder.
        changes: merged into the sections of its config.
    """
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
            "steps": 60,
            "global_batch_size": 8,
            "micro_batch_size": 2,
            "log_every": 1,
            "image_every": 100_000,
            "ema_decay": 0.9,
            "deterministic": True,
            "threads_per_worker": 1,
        },
        "optim": {"schedule": "constant", "warmup_fraction": 0.0},
        "scaling": {"num_workers": 2, "cpus_per_worker": 0.5, "max_failures": 1000, "poll_seconds": 0.2},
        "checkpoint": {"every": 10, "keep": 3},
        "logging": {"tensorboard": False, "samples": True},
    }
    for key, value in changes.items():
        tree[key] = tree[key] | value if isinstance(tree.get(key), dict) else value
    return build(TrainConfig, tree)


class Run:
    """The command of a training run, and what can be seen of it from outside."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self._timeout = START_SECONDS + SLOW_STEP_SECONDS * config.train.steps
        self.driver: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def started(self, *, ray_address: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """The command in a process group of its own; whatever is left of it at the end of the block is killed.

        Args:
            ray_address: of the cluster to join; without one it starts a Ray of its own.
        """
        self.config.run_dir.mkdir(parents=True, exist_ok=True)
        file = self.config.run_dir.with_suffix(".yaml")
        file.write_text(dump_config(self.config), encoding="utf-8")
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        environment |= {"RAY_ADDRESS": ray_address} if ray_address else {}
        with self.log.open("ab") as log:
            self.driver = subprocess.Popen(
                [sys.executable, "-m", "ray_jobs.train", "--config", str(file)],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        family = [psutil.Process(self.driver.pid)]
        try:
            yield self.driver
        finally:
            family += children(self.driver.pid)
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.driver.wait()

    @property
    def log(self) -> Path:
        """What the command printed."""
        return self.config.run_dir.with_suffix(".log")

    def output(self) -> str:
        """What it printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""

    def tail(self) -> str:
        """The last of it."""
        return self.output()[-2000:]

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return last_step(self.config.run_dir / SAMPLES)

    @property
    def has_ended(self) -> bool:
        """Whether the command is over."""
        return self.driver is not None and self.driver.poll() is not None

    def has_come_to(self, step: int) -> bool:
        """Whether a step is logged, or will never be."""
        return self.step >= step or self.has_ended

    def finish(self) -> int:
        """Wait for the end of the command, and return its exit code.

        Raises:
            TrainingError: it does not end.
        """
        assert self.driver is not None
        try:
            return self.driver.wait(self._timeout)
        except subprocess.TimeoutExpired:
            raise TrainingError(
                f"{self.config.name} did not end in {self._timeout:g} s\n{self.tail()}", f"see {self.log}"
            ) from None

    def wait_for(self, condition: Callable[[], Any], what: str) -> None:
        """Wait until something is so.

        Raises:
            TrainingError: it does not come, or the command ends before.
        """
        end = time.monotonic() + self._timeout
        while not condition():
            if self.has_ended or time.monotonic() > end:
                why = "it ended" if self.has_ended else f"{self._timeout:g} s passed"
                raise TrainingError(f"{self.config.name}: {why} before {what}\n{self.tail()}", f"see {self.log}")
            time.sleep(POLL_SECONDS)

    def kill(
        self, kind: str, number: int = -1, *, when: Callable[[], Any] = lambda: True, by: int = signal.SIGKILL
    ) -> tuple[float, int]:
        """Send a signal to a process of this kind (``WORKER``, ``DATA``) below the driver, as soon as something is so.

        Returns:
            When, in seconds since 1970, and the last step that was logged then.
        """
        self.wait_for(lambda: self.processes(kind), f"a process of {kind}")
        found = self.processes(kind)  # before the wait: it takes longer than some of what is waited for
        victim = found[number % len(found)]
        self.wait_for(when, "what the kill waits for")
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim.pid, by)
        return time.time(), self.step

    def processes(self, kind: str) -> list[psutil.Process]:
        """Ray's processes of a kind below the driver, in the order of their ids."""
        assert self.driver is not None
        return [process for process in children(self.driver.pid) if kind in title(process)]

    def is_saving(self) -> bool:
        """Whether a checkpoint is being written."""
        folder = self.config.run_dir / "checkpoints"
        return folder.is_dir() and any(folder.glob(f"{WRITING}*"))

    def newest(self) -> int:
        """Step of the newest checkpoint; 0 for none."""
        return max(checkpoint.Store.of_run(self.config.run_dir).steps(), default=0)


def end_well(run: Run) -> None:
    """Run the command to its end.

    Raises:
        TrainingError: it ends badly.
    """
    with run.started():
        ends_well(run)


def ends_well(run: Run) -> None:
    """Wait for the end of a command that is running.

    Raises:
        TrainingError: it ends badly.
    """
    if code := run.finish():
        raise TrainingError(f"{run.config.name} ended with {code}\n{run.tail()}", f"see {run.log}")


def children(pid: int) -> list[psutil.Process]:
    """All processes below one, oldest first; none where it is gone."""
    try:
        return sorted(psutil.Process(pid).children(recursive=True), key=lambda process: process.pid)
    except psutil.NoSuchProcess:
        return []


def title(process: psutil.Process) -> str:
    """What a process calls itself."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def last_step(path: Path) -> int:
    """The step of a file's last whole line."""
    lines = read_samples(path)
    return int(lines[-1]["step"]) if lines else 0


# ---------------------------------------------------------------- what is left


def differences(run: TrainConfig, undisturbed: TrainConfig) -> list[str]:
    """What a disturbed run lost, repeated or changed, in words; empty if it is the undisturbed one to the last bit."""
    found = []
    steps = [line["step"] for line in read_samples(run.run_dir / SAMPLES)]
    if steps != list(range(1, run.train.steps + 1)):
        found.append(f"steps {steps[:3]}…{steps[-3:]} ({len(steps)}) instead of 1 to {run.train.steps}")
    if len(read_metrics(run.run_dir)) != run.train.steps:
        found.append("a step is logged twice or never")
    expected = {line["step"]: line for line in read_samples(undisturbed.run_dir / SAMPLES)}
    for one in read_samples(run.run_dir / SAMPLES):
        other = expected.get(one["step"], {"ids": None, "loss": None})
        if one["ids"] != other["ids"]:
            found.append(f"step {one['step']} was trained on other records")
            break
        if one["loss"] != other["loss"]:
            found.append(f"step {one['step']} has another loss")
            break
    files = [checkpoint.folder_of(c.run_dir, c.train.steps) / checkpoint.MODEL for c in (run, undisturbed)]
    if not all(file.is_file() for file in files):
        found.append("no final checkpoint")
    elif files[0].read_bytes() != files[1].read_bytes():
        found.append("other final weights")
    return found


def recovery(run: TrainConfig, killed: float, at_step: int) -> dict[str, float]:
    """Seconds from a fault to the next optimizer step, in parts, and the steps that were done again.

    ``notice`` is until Ray Train's controller knew (of a driver: until the next one looked), ``workers`` until new workers were
    in the loop, with all that they import, ``model`` until model and optimizer were loaded from the checkpoint, ``data`` until
    the first batch, ``step`` until the first update. Nothing where the run went on without a restart.
    """
    later = [start for start in read_starts(run.run_dir) if start["step"] > killed]
    if not later:
        return {}
    start = later[0]
    noted = [event["noted"] for event in read_history(run.run_dir) if event.get("noted", 0.0) > killed]
    marks = [killed, min(noted[0], start["entered"]) if noted else killed]
    marks += [start[name] for name in ("entered", "built", "data", "step")]
    parts = {name: round(after - before, 2) for name, (before, after) in zip(PARTS, pairwise(marks), strict=True)}
    return parts | {"total": round(marks[-1] - killed, 2), "repeated": max(0, at_step - start["first_step"] + 1)}
