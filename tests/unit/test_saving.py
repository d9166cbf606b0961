"""Saving behind the training: what waits for what, and what a save that fails means for the run."""

from __future__ import annotations

import errno
import logging
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_jobs.training import loop
from ray_jobs.training.engine_torch import TorchEngine
from ray_jobs.training.loop import train_loop
from ray_jobs.training.machine import WorkerContext
from ray_jobs.training.saving import Saver
from ray_jobs.training.tracking import read_metrics
from setok import checkpoint
from setok.checkpoint import Draft, Store, TrainerState, writing
from setok.config import TrainConfig
from setok.data.storage import OutputFile, Storage
from setok.errors import CheckpointError
from tests import fakes
from tests.s3_faults import S3Faults


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


# ---------------------------------------------------------------- behind the training


def test_the_step_waits_for_the_copy_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is trained while a checkpoint is written is not in it."""
    config, gate = config_for(tmp_path), Gate(monkeypatch)
    module = fakes.TwoLayers()
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad])
    engine = TorchEngine("model", module, optimizer, max_grad_norm=1.0)
    torch.nn.init.constant_(module.encoder.bias, 1.0)
    with Saver(config, fakes.worker_of(config)) as saver:
        saver.save({"model": engine}, state(1), None)
        torch.nn.init.constant_(module.encoder.bias, 2.0)
        assert steps_of(config) == []
        gate.opened.set()
        saver.wait()
        assert steps_of(config) == [1]
    fresh = fakes.TwoLayers()
    checkpoint.load_model(checkpoint.resolve(config.run_dir), fresh, "model")
    assert fresh.encoder.bias.tolist() == [1.0] * 5


def test_one_save_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, gate = config_for(tmp_path), Gate(monkeypatch)
    done: list[int] = []

    def train() -> None:
        with Saver(config, fakes.worker_of(config)) as saver:
            for step in (1, 2, 3):
                saver.save({}, state(step), None)
                done.append(step)

    thread = threading.Thread(target=train)
    thread.start()
    assert gate.arrived.acquire(timeout=30)
    while not done:
        time.sleep(0.01)
    time.sleep(0.2)
    assert done == [1], "the second waits until the first is written"
    gate.opened.set()
    thread.join(30)
    assert done == [1, 2, 3] and gate.most == 1
    assert steps_of(config) == [1, 2, 3], "the end waits for the last"


def test_synchronous_saving_is_done_when_it_returns(tmp_path: Path) -> None:
    config = config_for(tmp_path, checkpoint__asynchronous=False)
    with Saver(config, fakes.worker_of(config)) as saver:
        for step in (1, 2):
            saver.save({}, state(step), None)
            assert steps_of(config)[-1] == step


def test_rank_0_waits_for_the_parts_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(tmp_path)
    first = started(config, world_size=2)
    second = Saver(config, fakes.worker_of(config, rank=1, world_size=2))
    first.save({}, state(1, 2), None)
    time.sleep(0.2)
    assert steps_of(config) == []
    second.save({}, state(1, 2), None)
    first.wait()
    second.wait()
    assert steps_of(config) == [1]


def test_a_rank_that_never_writes_is_named(tmp_path: Path) -> None:
    config = config_for(tmp_path, checkpoint__commit_timeout=0.1)
    saver = started(config, world_size=3)
    saver.save({}, state(1, 3), None)
    with pytest.raises(CheckpointError, match=r"came from rank\(s\) 1, 2\n.*output_dir.*checkpoint\.commit_timeout"):
        saver.wait()


def test_a_part_that_cannot_be_written_is_told_to_rank_0_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(tmp_path, checkpoint__commit_timeout=60.0)
    first = started(config, world_size=2)
    second = Saver(config, fakes.worker_of(config, rank=1, world_size=2))
    first.save({}, state(1, 2), None)
    with full_disk(monkeypatch, "optimizer-00001-of-00002.safetensors", room=8):
        second.save({}, state(1, 2), None)
        with pytest.raises(CheckpointError, match=r"rank 1 could not write its part: \[Errno 28\] No space left"):
            first.wait()


def test_an_error_in_training_keeps_the_save_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(tmp_path)

    def fail() -> None:
        with Saver(config, fakes.worker_of(config)) as saver:
            saver.save({}, state(1), None)
            raise ValueError("training diverged")

    with pytest.raises(ValueError, match="training diverged"):
        fail()
    assert steps_of(config) == [1]


def test_an_error_in_training_waits_for_no_dead_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writing, "LEAVING_SECONDS", 0.1)
    config = config_for(tmp_path, checkpoint__commit_timeout=3600.0)

    def fail() -> None:
        with Saver(config, fakes.worker_of(config, world_size=2)) as saver:
            saver.save({}, state(1, 2), None)
            raise ValueError("Connection closed by peer")

    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="closed by peer"):
        fail()
    assert "the checkpoint under way is lost" in caplog.text and "rank(s) 1" in caplog.text
    assert steps_of(config) == []


# ---------------------------------------------------------------- saves that fail


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch, file: str = "model.safetensors", *, room: int = 1000) -> Iterator[None]:
    """The disk takes ``room`` bytes of one file and no more."""
    real = OutputFile.write

    def write(stream: OutputFile, data: bytes) -> int:
        if stream._target.endswith(file) and stream.num_bytes + len(data) > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(stream, data)

    with monkeypatch.context() as patched:
        patched.setattr(OutputFile, "write", write)
        yield


@contextmanager
def read_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The file system was mounted anew, and takes nothing."""

    def create(storage: Storage, file: str) -> OutputFile:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "create", create)
        yield


@contextmanager
def file_size_limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The system itself ends every file at 4 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FAULTS = {"full disk": full_disk, "read-only": read_only, "file size": file_size_limit}
WEIGHTS = {"w": torch.zeros(10_000)}


class Weights:
    """Of an engine, what a checkpoint asks for."""

    def full_weights(self) -> dict[str, torch.Tensor]:
        return dict(WEIGHTS)

    def named_state(self, rank: int, world: int) -> dict[str, torch.Tensor]:
        return {}


ENGINES: Any = {"model": Weights()}


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("fault", FAULTS)
def test_one_save_that_fails_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str, asynchronous: bool
) -> None:
    config = config_for(tmp_path, checkpoint__asynchronous=asynchronous)
    with Saver(config, fakes.worker_of(config)) as saver, caplog.at_level(logging.WARNING):
        saver.save(ENGINES, state(1), None)
        saver.wait()
        with FAULTS[fault](monkeypatch):
            saver.save(ENGINES, state(2), None)
            with pytest.raises(CheckpointError, match=r"cannot be written to .*checkpoints: [\s\S]*free space"):
                saver.wait()
        saver.save(ENGINES, state(3), None)
    assert steps_of(config) == [1, 3]
    assert "the run goes on, and could resume only from the checkpoint before" in caplog.text
    left = sorted(path.name for path in (config.run_dir / "checkpoints").iterdir())
    assert left == ["owner.json", "step_00000001", "step_00000003"], "a save that failed takes no room"


@pytest.mark.parametrize("fault", FAULTS)
def test_the_first_save_must_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    config = config_for(tmp_path, checkpoint__asynchronous=False)
    saver = started(config)
    with FAULTS[fault](monkeypatch), pytest.raises(CheckpointError, match="cannot be written"):
        saver.save(ENGINES, state(1), None)


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_too_many_in_a_row_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    config = config_for(tmp_path, checkpoint__max_failures=allowed, checkpoint__asynchronous=False)
    saver = started(config)
    saver.save(ENGINES, state(1), None)
    for step in range(2, 2 + allowed):
        with full_disk(monkeypatch):
            saver.save(ENGINES, state(step), None)
    saver.save(ENGINES, state(10), None)  # which counts anew from here
    with full_disk(monkeypatch):
        for step in range(11, 11 + allowed):
            saver.save(ENGINES, state(step), None)
        with pytest.raises(CheckpointError, match="No space left"):
            saver.save(ENGINES, state(20), None)
    assert steps_of(config) == [1, 10]


def test_a_checkpoint_from_before_the_start_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(tmp_path, checkpoint__asynchronous=False)
    with Saver(config, fakes.worker_of(config)) as saver:
        saver.save(ENGINES, state(1), None)
    with Saver(config, fakes.worker_of(config)) as saver:
        with full_disk(monkeypatch):
            saver.save(ENGINES, state(2), None)
        saver.save(ENGINES, state(3), None)
    assert steps_of(config) == [1, 3]


def test_the_last_save_must_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(tmp_path)

    def end_on_a_full_disk() -> None:
        with Saver(config, fakes.worker_of(config)) as saver:
            saver.save(ENGINES, state(1), None)
            saver.wait()
            with full_disk(monkeypatch):
                saver.save(ENGINES, state(2), None)
                saver._writing.exception()  # type: ignore[union-attr]

    with pytest.raises(CheckpointError, match="No space left"):
        end_on_a_full_disk()
    assert steps_of(config) == [1]


# ---------------------------------------------------------------- two starts of one run


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_start_that_was_taken_over_writes_no_more(tmp_path: Path, asynchronous: bool) -> None:
    """A good checkpoint before is no reason to go on: two would train the same run."""
    config = config_for(tmp_path, checkpoint__asynchronous=asynchronous)
    first = started(config)
    first.save(ENGINES, state(1), None)
    first.wait()
    second = started(config)
    with pytest.raises(CheckpointError, match=r"was started again elsewhere[\s\S]*--set name=run-2"):
        first.save(ENGINES, state(2), None)
    second.save(ENGINES, state(3), None)
    second.wait()
    assert steps_of(config) == [1, 3]


def test_a_save_under_way_ends_when_another_start_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, gate = config_for(tmp_path), Gate(monkeypatch)
    first = started(config)
    first.save({}, state(2), None)
    started(config)
    gate.opened.set()
    with pytest.raises(CheckpointError, match="started again elsewhere"):
        first.wait()
    assert steps_of(config) == []


# ---------------------------------------------------------------- in the loop


def train(config: TrainConfig, monkeypatch: pytest.MonkeyPatch, worker: WorkerContext | None = None) -> Path:
    monkeypatch.setattr(loop, "build_stage", fakes.build_stage)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    train_loop(config, worker or fakes.worker_of(config))
    return checkpoint.resolve(checkpoint.home_of(config))


def test_both_ways_write_the_same_and_say_how_long_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for asynchronous in (True, False):
        config = config_for(tmp_path / str(asynchronous), checkpoint__asynchronous=asynchronous)
        written.append(train(config, monkeypatch))
        lines = read_metrics(config.run_dir)
        assert "perf/save_blocked_seconds" not in lines[1], "the first save is at step 2"
        for line in (lines[2], lines[4], lines[6]):
            assert 0 <= line["perf/save_wait_seconds"] <= line["perf/save_blocked_seconds"]
        assert lines[4]["perf/save_write_seconds"] > 0
        assert "perf/save_blocked_seconds" not in lines[3]
    for name in ("model.safetensors", "optimizer-00000-of-00001.safetensors"):
        assert (written[0] / name).read_bytes() == (written[1] / name).read_bytes()


def test_training_goes_on_beside_a_slow_store_until_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_folder: str, s3_faults: S3Faults
) -> None:
    config = config_for(tmp_path, checkpoint__store=s3_folder, checkpoint__every=3)
    s3_faults.hold("step_00000003/model")
    trained: list[int] = []
    worker = replace(fakes.worker_of(config), report=lambda metrics: trained.append(int(metrics["step"])))
    thread = threading.Thread(target=train, args=(config, monkeypatch, worker))
    thread.start()
    deadline = time.monotonic() + 30
    while len(trained) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    before, written = list(trained), steps_of(config)
    s3_faults.opened.set()
    thread.join(60)
    assert before == [1, 2, 3, 4, 5, 6], "the save of step 6 waits for that of step 3"
    assert written == []
    assert steps_of(config) == [3, 6, 8]
    assert trained == list(range(1, 9))
    assert not (config.run_dir / "checkpoints").exists(), "the parts go straight to the store"


def test_a_run_keeps_its_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {
        "checkpoint__keep": 1,
        "checkpoint__keep_best": 1,
        "checkpoint__every": 1,
        "checkpoint__best_is": "highest",
    }
    config = config_for(tmp_path, **changes)
    train(config, monkeypatch)
    losses = {int(line["step"]): line["train/loss"] for line in read_metrics(config.run_dir)}
    highest = max(losses, key=lambda step: losses[step])
    assert steps_of(config) == sorted({highest, 8})
    best = checkpoint.resolve(f"{config.run_dir}@best")
    assert checkpoint.read_state(best).metrics["train/loss"] == losses[highest]


def test_a_metric_that_nobody_logs_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        config = config_for(tmp_path, checkpoint__keep_best=1, checkpoint__best_metric="train/pnsr")
        train(config, monkeypatch)
    assert "no checkpoint.best_metric=train/pnsr" in caplog.text and "train/psnr" in caplog.text
