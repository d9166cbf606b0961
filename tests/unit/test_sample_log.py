"""What a run was trained on is written down as the model saw it, once for each step, over restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_jobs.training import loop
from ray_jobs.training.loop import train_loop
from ray_jobs.training.sample_log import SAMPLES, ids_of, read_samples
from ray_jobs.training.start_times import read_starts
from setok.config import TrainConfig
from tests import fakes


def run(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """The loop in this process on the fake stage; what it reported."""
    monkeypatch.setattr(loop, "build_stage", fakes.build_stage)
    reported: list[dict[str, float]] = []
    worker = fakes.worker_of(config, report=reported.append)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    train_loop(config, worker)
    return reported


def config_in(folder: Path, steps: int, **changes: object) -> TrainConfig:
    settings = {"output_dir": str(folder), "train__steps": steps, "optim__schedule": "constant", **changes}
    return fakes.train_config(**settings)


def test_every_step_has_its_records_and_its_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_in(tmp_path, 5, logging__samples=True)
    reported = run(config, monkeypatch)
    lines = read_samples(config.run_dir / SAMPLES)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert [float.fromhex(line["loss"]) for line in lines] == [line["train/loss"] for line in reported]
    for line, step in zip(lines, fakes.FakeBatches(config, rank=0, start_step=0), strict=True):
        assert line["ids"] == [name for batch in step for name in batch.ids]
        assert len(set(line["ids"])) == config.train.global_batch_size


def test_steps_that_are_done_again_are_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(config_in(whole, 8, logging__samples=True), monkeypatch)
    first = config_in(parts, 5, logging__samples=True, checkpoint__every=2)
    run(first, monkeypatch)
    file = first.run_dir / SAMPLES
    with file.open("a", encoding="utf-8") as samples:  # as a killed run leaves it: steps after the newest checkpoint
        samples.write('{"step": 6, "loss": "0x0p+0", "ids": []}\n{"step": 7, "lo')
    second = config_in(parts, 8, logging__samples=True, checkpoint__every=2)
    run(second, monkeypatch)
    assert read_samples(file) == read_samples(config_in(whole, 8).run_dir / SAMPLES)
    assert [start["first_step"] for start in read_starts(second.run_dir)] == [1, 6]


def test_nothing_is_written_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_in(tmp_path, 2)
    run(config, monkeypatch)
    assert not (config.run_dir / SAMPLES).exists()
    assert read_samples(config.run_dir / SAMPLES) == []


def test_starts_say_what_took_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_in(tmp_path, 2)
    run(config, monkeypatch)
    (start,) = read_starts(config.run_dir)
    times = [start[name] for name in ("entered", "built", "data", "step")]
    assert times == sorted(times)


def test_padding_is_no_record() -> None:
    class Rows:
        ids = ("a", "", "b")

    class Packs:
        ids = (("a", "b"), (), ("c",))

    assert list(ids_of(Rows())) == ["a", "b"]  # type: ignore[arg-type]
    assert list(ids_of(Packs())) == ["a", "b", "c"]  # type: ignore[arg-type]
