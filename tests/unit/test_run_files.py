"""What a run leaves for people: metrics, progress, pictures, and the story of a failure."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from ray_jobs.progress import Progress, ProgressView, read_progress, write_progress
from ray_jobs.training import failure
from ray_jobs.training.tracking import JsonLines, picture_of, read_metrics
from setok.batch import LossOutput
from setok.drawing import PALETTE, image_grid, token_map
from setok.errors import DataError, TrainingError
from tests.fakes import SIZE, batch_of


def test_metrics_are_cut_back_to_the_resumed_step(tmp_path: Path) -> None:
    log = JsonLines(tmp_path, 0)
    for step in (1, 2, 3, 4):
        log.scalars({"train/loss": step / 2}, step)
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "trai')  # a crash
    log = JsonLines(tmp_path, 2)
    log.scalars({"train/loss": 9.0}, 3)
    log.close()
    assert [(line["step"], line["train/loss"]) for line in read_metrics(tmp_path)] == [(1, 0.5), (2, 1.0), (3, 9.0)]


def test_token_map_has_one_colour_per_token_and_lines_between() -> None:
    picture = token_map(np.array([0, 1, 1, len(PALETTE) + 1]), (2, 2), (8, 8))
    assert picture.shape == (8, 8, 3) and picture.dtype == np.uint8
    assert picture[0, 0].tolist() == PALETTE[0].tolist()
    assert picture[0, 6].tolist() == PALETTE[1].tolist()
    assert picture[7, 7].sum() < PALETTE[1].sum()  # the palette's second round is darker
    assert (picture[0, 4] < PALETTE[1]).all()
    assert len(np.unique(PALETTE, axis=0)) == len(PALETTE)


def test_image_grid() -> None:
    white, black = np.full((4, 6, 3), 255, np.uint8), np.zeros((4, 6, 3), np.uint8)
    grid = image_grid([[black, white], [white]])
    assert grid.shape == (2 * 4 + 3 * 2, 2 * 6 + 3 * 2, 3)
    assert grid.min() == 0 and (grid == 0).all(-1).sum() == 24


def test_the_logged_picture_leaves_out_masked_images() -> None:
    batch = batch_of([0, 3, 4])  # the second is not valid
    ones = torch.ones(3, 3, SIZE, SIZE)
    output = LossOutput(
        loss=torch.zeros(()), reconstruction=ones, assignment=torch.zeros(3, 4, dtype=torch.long), grid=(2, 2)
    )
    picture = picture_of(batch, output)
    assert picture is not None
    assert picture.shape == (3 * (SIZE + 2) + 2, 2 * (SIZE + 2) + 2, 3)
    assert picture_of(batch_of([3]), output) is None


def test_progress_goes_to_a_plain_console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressView(tmp_path, Console(), poll_seconds=0.01):
        write_progress(
            tmp_path,
            Progress(
                step=3, steps=9, phase="training", time=time.time(), loss=0.5, seconds_left=3700, wait_fraction=0.25
            ),
        )
        time.sleep(0.1)
        write_progress(tmp_path, Progress(step=9, steps=9, phase="done", time=time.time(), resumed_from=2))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "step 3/9 · loss 0.5000 · waiting for data 25% · 1h01m left",
        "step 9/9 · resumed from 2 · done",
    ]
    (tmp_path / "progress.json").write_text("{")
    assert read_progress(tmp_path) is None


class WorkerGroupError(Exception):
    """As Ray's: what the workers raised, by rank."""

    def __init__(self, message: str, worker_failures: dict[int, Exception]) -> None:
        super().__init__(message)
        self.worker_failures = worker_failures


class Wrapped(Exception):
    def __init__(self, inner: Exception) -> None:
        super().__init__("wrapped")
        self._base_exc = inner


def test_an_error_of_ours_comes_out_as_itself(tmp_path: Path) -> None:
    ours = DataError("bad shard", "ingest again")
    failure.record(tmp_path, ours, rank=1)
    assert failure.explain(tmp_path, WorkerGroupError("…", {1: Wrapped(ours)})) is ours
    text = (tmp_path / "failure.txt").read_text()
    assert text.startswith("DataError: bad shard\n  → ingest again") and "rank 1 on" in text
    failure.clear(tmp_path)
    assert not (tmp_path / "failure.txt").exists() and not list((tmp_path / "failures").glob("*.json"))


def test_the_rank_that_failed_first_is_named(tmp_path: Path) -> None:
    failure.record(tmp_path, ZeroDivisionError("division by zero"), rank=1)
    failure.record(tmp_path, RuntimeError("Connection closed by peer [127.0.0.1]"), rank=0)
    errors = {0: RuntimeError("Connection closed by peer"), 1: ZeroDivisionError("division by zero")}
    error = failure.explain(tmp_path, WorkerGroupError("…", errors))
    assert isinstance(error, TrainingError)
    assert error.problem.startswith("rank 1 on ") and "ZeroDivisionError: division by zero" in error.problem


def test_a_killed_worker_is_named(tmp_path: Path) -> None:
    failure.record(tmp_path, RuntimeError("Connection closed by peer"), rank=0)
    died = RuntimeError("Worker(hostname='node-7', pid=42)")
    error = failure.explain(tmp_path, WorkerGroupError("…", {0: RuntimeError("…"), 1: died}))
    assert "rank 1 on node-7, pid 42" in error.problem and "out of memory" in error.problem
    assert "same command" in error.remedy


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("std::bad_alloc", "memory"),
        ("surprise", "an error in the code"),
    ],
)
def test_meanings(tmp_path: Path, message: str, meaning: str) -> None:
    failure.record(tmp_path, RuntimeError(message), rank=0)
    assert meaning in failure.explain(tmp_path, RuntimeError(message)).problem
    assert json.loads((tmp_path / "failures" / "rank0.json").read_text())["kind"] == "RuntimeError"
