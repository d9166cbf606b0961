"""Saving behind the training: what waits for what, alone and in the loop."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ray_jobs.training import loop
from ray_jobs.training.engine_torch import TorchEngine
from ray_jobs.training.loop import train_loop
from ray_jobs.training.machine import WorkerContext
from ray_jobs.training.saving import Saver
from ray_jobs.training.tracking import read_metrics
from setok import checkpoint
from setok.checkpoint import writing
from setok.config import TrainConfig
from setok.errors import CheckpointError
from tests import fakes
from tests.s3_faults import S3Faults
from tests.saved import Gate, config_for, started, state, steps_of

# ---------------------------------------------------------------- the saver


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
