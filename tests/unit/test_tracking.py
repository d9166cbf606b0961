"""Logs over restarts: no step twice, in real event files of TensorBoard and with a fake of W&B that keeps all it is given."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.training.tracking import JsonLines, TensorBoard, Wandb, cut_lines, open_trackers, read_metrics
from setok.config import WandbConfig
from tests.fakes import train_config

PICTURE = np.zeros((4, 4, 3), np.uint8)


class FakeRun:
    """As a W&B run: what it has been given stays."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def define_metric(self, *args: Any, **kwargs: Any) -> None: ...

    def log(self, line: dict[str, Any]) -> None:
        self.lines.append(line)

    def finish(self) -> None: ...


@pytest.fixture
def wandb_run(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    run = FakeRun()
    module = types.SimpleNamespace(init=lambda **settings: run, Image=lambda picture: "picture")
    monkeypatch.setitem(sys.modules, "wandb", module)
    return run


def start_wandb(run_dir: Path) -> Wandb:
    return Wandb(WandbConfig(), train_config(), run_dir)


def test_wandb_is_never_given_a_step_twice(tmp_path: Path, wandb_run: FakeRun) -> None:
    """Starts that go on from steps 0, 4, 4 and 8, each killed at some step later."""
    for first, last in ((0, 7), (4, 6), (4, 11), (8, 16)):
        log = start_wandb(tmp_path)
        for step in range(first + 1, last + 1):
            log.scalars({"train/loss": step / 2}, step)
            if step > 3 and step % 4 == 3:
                log.scalars({"eval/psnr": 9.0}, step - 3)  # an evaluation that took three steps
            if step % 5 == 0:
                log.image("train/images", PICTURE, step)
    assert [line["step"] for line in wandb_run.lines if "train/loss" in line] == list(range(1, 17))
    start_wandb(tmp_path).scalars({"eval/psnr": 9.0}, 16)  # one that was done after the run's end
    assert [line["step"] for line in wandb_run.lines if "eval/psnr" in line] == [4, 8, 12, 16]
    assert [line["step"] for line in wandb_run.lines if "train/images" in line] == [5, 10, 15]


def read_events(run_dir: Path) -> dict[str, list[int]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    tags = accumulator.Tags()
    scalars = {tag: [event.step for event in accumulator.Scalars(tag)] for tag in tags["scalars"]}
    return scalars | {tag: [event.step for event in accumulator.Images(tag)] for tag in tags["images"]}


def test_tensorboard_takes_back_what_is_logged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first restart goes back to the beginning, as one without a checkpoint does."""
    import tensorboard.summary.writer.event_file_writer as writer

    now = [1_700_000_000.0]  # names of event files carry the second, and starts are more than a second apart
    monkeypatch.setattr(writer.time, "time", lambda: now[0])
    for first, last in ((0, 3), (0, 7), (4, 6), (4, 12)):
        log = TensorBoard(tmp_path, first)
        for step in range(first + 1, last + 1):
            log.scalars({"train/loss": step / 2}, step)
            if step % 5 == 0:
                log.image("train/images", PICTURE, step)
        log.flush()  # and then it is killed
        now[0] += 10
    assert read_events(tmp_path) == {"train/loss": list(range(1, 13)), "train/images": [5, 10]}


def test_what_is_flushed_is_on_disk_before_the_end(tmp_path: Path) -> None:
    log = TensorBoard(tmp_path, 0)
    log.scalars({"train/loss": 1.0}, 1)
    log.flush()
    assert read_events(tmp_path) == {"train/loss": [1]}
    log.close()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 9)), min_size=1, max_size=6))
def test_metrics_hold_every_step_once_whatever_restarts_there_were(
    tmp_path_factory: pytest.TempPathFactory, starts: list[tuple[float, int]]
) -> None:
    """Each start goes on from a step that was reached, and does so many steps."""
    folder, reached = tmp_path_factory.mktemp("run"), 0
    for share, steps in starts:
        first = round(share * reached)
        log = JsonLines(folder, first)
        for step in range(first + 1, first + steps + 1):
            log.scalars({"train/loss": float(step)}, step)
        log.close()
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"step": 1')  # a crash in the middle of a line
        reached = first + steps
    assert [line["step"] for line in read_metrics(folder)] == list(range(1, reached + 1))


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    cut_lines(tmp_path / "skipped.jsonl", last_step=3)
    assert not list(tmp_path.iterdir())


def test_all_destinations_are_opened(tmp_path: Path, wandb_run: FakeRun) -> None:
    config = train_config(logging__wandb={"mode": "offline"}, logging__tensorboard=True)
    trackers = open_trackers(config, tmp_path, 0)
    assert [type(tracker) for tracker in trackers] == [JsonLines, TensorBoard, Wandb]
    for tracker in trackers:
        tracker.flush()
        tracker.close()
