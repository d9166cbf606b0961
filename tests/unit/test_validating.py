"""The one that looks after evaluations, with a cluster that is played: what it begins, takes, gives up, and says."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.training import validating
from ray_jobs.training.tracking import JsonLines, read_metrics
from ray_jobs.training.validating import Validator, unfinished
from setok import checkpoint
from setok.checkpoint import Evaluation, Evaluations
from setok.config import TrainConfig, build


class PlayedRay:
    """As much of Ray as the validator needs; a task ends when the test says how."""

    def __init__(self, cpus: float) -> None:
        self.cpus = cpus
        self.tasks: list[int] = []
        self.ended: dict[int, dict[str, float] | Exception] = {}
        self.cancelled: list[int] = []

    def remote(self, function: Any) -> PlayedRay:
        return self

    def options(self, **settings: Any) -> Any:
        assert settings["max_retries"] == 0
        ray = self

        class Task:
            def remote(self, config: TrainConfig, step: int) -> int:
                ray.tasks.append(step)
                return step

        return Task()

    def wait(self, results: list[int], timeout: float) -> tuple[list[int], list[int]]:
        assert timeout == 0
        return [r for r in results if r in self.ended], [r for r in results if r not in self.ended]

    def get(self, result: int) -> dict[str, float]:
        found = self.ended.pop(result)
        if isinstance(found, Exception):
            raise found
        return found

    def cancel(self, result: int, *, force: bool) -> None:
        self.cancelled.append(result)

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.cpus}


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> PlayedRay:
    played = PlayedRay(cpus=8)
    monkeypatch.setitem(sys.modules, "ray", played)  # type: ignore[arg-type]
    monkeypatch.setattr(validating, "LAST_POLL_SECONDS", 0.001)
    return played


def config_of(output: Path, **section: Any) -> TrainConfig:
    return build(
        TrainConfig,
        {
            "name": "run",
            "output_dir": str(output),
            "data": {"train": [{"path": "nowhere"}]},
            "train": {"steps": 100},
            "checkpoint": {"every": 10, "keep": 9},
            "scaling": {"num_workers": 2, "cpus_per_worker": 1.0},
            "logging": {"tensorboard": False},
            "validation": {"data": "nowhere", **section},
        },
    )


def saved(config: TrainConfig, *steps: int) -> None:
    for step in steps:
        state = checkpoint.TrainerState(step=step, samples=0, world_size=1)
        checkpoint.save(config.run_dir, config, {}, {}, state)


def state_of(config: TrainConfig, step: int) -> str:
    known = Evaluations(config.run_dir).read(step)
    return known.state if known else "nothing"


def test_one_after_the_other(tmp_path: Path, ray: PlayedRay) -> None:
    config = config_of(tmp_path)
    one = Validator(config)
    assert not one._advance(beside_training=True)
    saved(config, 10, 20)
    assert one._advance(beside_training=True)
    assert (ray.tasks, state_of(config, 10), state_of(config, 20)) == ([10], "running", "nothing")
    one._advance(beside_training=True)
    assert ray.tasks == [10], "one at a time"
    ray.ended[10] = {"eval/psnr": 20.0}
    one._advance(beside_training=True)
    assert (ray.tasks, state_of(config, 10), state_of(config, 20)) == ([10, 20], "done", "running")
    ray.ended[20] = {"eval/psnr": 21.0}
    assert not one._advance(beside_training=True)
    assert Evaluations(config.run_dir).metrics(20, checkpoint.Store.of_run(config.run_dir).manifest(20)) == {
        "eval/psnr": 21.0
    }


def test_every_second_checkpoint_and_the_last(tmp_path: Path) -> None:
    config = config_of(tmp_path, every=2)
    saved(config, 10, 13, 20, 30, 40, 100)
    assert unfinished(config) == [100, 40, 20]


def test_what_comes_too_late_is_skipped(tmp_path: Path, ray: PlayedRay) -> None:
    config = config_of(tmp_path)
    one = Validator(config)
    saved(config, 10)
    one._advance(beside_training=True)
    saved(config, 20, 30, 40)
    ray.ended[10] = {"eval/psnr": 1.0}
    one._advance(beside_training=True)
    assert [state_of(config, step) for step in (10, 20, 30, 40)] == ["done", "skipped", "running", "nothing"]


def test_an_end_by_an_error_and_one_by_time(
    tmp_path: Path, ray: PlayedRay, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, timeout=60)
    now = [0.0]
    monkeypatch.setattr(validating.time, "monotonic", lambda: now[0])
    one = Validator(config)
    saved(config, 10)
    with caplog.at_level(logging.WARNING):
        one._advance(beside_training=True)
        ray.ended[10] = RuntimeError("task failed\nthe worker died")
        one._advance(beside_training=True)
        saved(config, 20)
        one._advance(beside_training=True)
        now[0] = 59.0
        one._advance(beside_training=True)
        assert state_of(config, 20) == "running"
        now[0] = 61.0
        one._advance(beside_training=True)
    assert ray.cancelled == [20]
    assert (state_of(config, 10), state_of(config, 20)) == ("failed", "failed")
    assert "step 10 is not evaluated: the worker died" in caplog.text
    assert "step 20 is not evaluated: it took longer than 60 seconds" in caplog.text


def test_no_room_beside_the_training_but_after_it(
    tmp_path: Path, ray: PlayedRay, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(tmp_path, cpus=2.0)
    ray.cpus = config.resources["CPU"] + 1
    one = Validator(config)
    saved(config, 10)
    with caplog.at_level(logging.WARNING):
        one._advance(beside_training=True)
        one._advance(beside_training=True)
    assert ray.tasks == []
    assert caplog.text.count("evaluated once the training is over: validation needs 2 CPUs") == 1
    one._advance(beside_training=False)
    assert ray.tasks == [10]


@pytest.mark.parametrize("finished", [True, False])
def test_the_end_waits_for_the_last_one_and_logs_it_unless_the_run_was_stopped(
    tmp_path: Path, ray: PlayedRay, finished: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path)
    config.run_dir.mkdir(parents=True)
    saved(config, 100 if finished else 90)
    start = PlayedRay.options
    monkeypatch.setattr(PlayedRay, "options", ends_at_once(start))
    with Validator(config):
        pass
    assert ray.tasks == ([100] if finished else [])
    assert [line["step"] for line in read_metrics(config.run_dir)] == ([100] if finished else [])
    assert [line["eval/psnr"] for line in read_metrics(config.run_dir)] == ([7.0] if finished else [])


def ends_at_once(options: Callable[..., Any]) -> Callable[..., Any]:
    def made(self: PlayedRay, **settings: Any) -> Any:
        self.ended[100] = {"eval/psnr": 7.0}
        return options(self, **settings)

    return made


def test_an_error_of_the_run_leaves_it_to_the_next_start(tmp_path: Path, ray: PlayedRay) -> None:
    config = config_of(tmp_path)
    saved(config, 100)

    def broken() -> None:
        with Validator(config) as one:
            one._advance(beside_training=True)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert ray.cancelled == [100]
    assert unfinished(config) == [100]


def test_an_error_of_its_own_is_told_once_and_goes_by(
    tmp_path: Path, ray: PlayedRay, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path)
    saved(config, 10)

    def gone() -> dict[str, float]:
        raise ConnectionError("the cluster is gone")

    monkeypatch.setattr(ray, "cluster_resources", gone)
    one = Validator(config)
    with caplog.at_level(logging.WARNING):
        assert not one._try_to_advance(beside_training=True)
        assert not one._try_to_advance(beside_training=True)
    assert caplog.text.count("the cluster is gone") == 1


# ---------------------------------------------------------------- what is kept, and what is known


def test_a_checkpoint_stays_until_it_was_evaluated(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    saved(config, 10, 20, 30, 40, 50, 60)
    retention = checkpoint.Retention(keep=1, best=checkpoint.Best(metric="x", order="lowest"))
    evaluations = Evaluations(config.run_dir)
    evaluations.write(20, Evaluation(state="done", manifest=evaluations.contents(20)))
    waiting = unfinished(config)
    assert waiting == [60, 50, 40, 30, 10]
    checkpoint.prune(config.run_dir, retention, written=60, needed=waiting[: checkpoint.MOST_WAITING])
    assert checkpoint.Store.of_run(config.run_dir).steps() == [60, 50, 40, 30]


def test_a_step_that_is_written_again_is_evaluated_again(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    saved(config, 10)
    evaluations = Evaluations(config.run_dir)
    evaluations.write(10, Evaluation(state="done", manifest=evaluations.contents(10), metrics={"eval/psnr": 1.0}))
    assert unfinished(config) == []
    state = checkpoint.TrainerState(step=10, samples=5, world_size=1)
    checkpoint.save(config.run_dir, config, {}, {}, state)
    assert unfinished(config) == [10]
    manifest = checkpoint.Store.of_run(config.run_dir).manifest(10)
    assert evaluations.metrics(10, manifest) == {}
    evaluations.forget_after(9)
    assert evaluations.steps() == []


def test_a_damaged_file_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    saved(config, 10)
    evaluations = Evaluations(config.run_dir)
    evaluations.write(10, Evaluation(state="done", metrics={"eval/a": 1.0, "eval/b": float("nan")}))
    assert evaluations.read(10) == Evaluation(state="done", metrics={"eval/a": 1.0})
    (config.run_dir / "evaluations" / "step_00000010.json").write_text("{")
    assert evaluations.read(10) is None
    assert unfinished(config) == [10]


def test_a_late_line_takes_its_place(tmp_path: Path) -> None:
    log = JsonLines(tmp_path, 0)
    for step in (1, 2, 4):
        log.scalars({"train/loss": float(step)}, step)
    log.scalars({"eval/psnr": 9.0}, 2)
    log.scalars({"eval/psnr": 8.0}, 3)
    log.scalars({"train/loss": 5.0}, 5)
    log.close()
    rows = [{k: v for k, v in row.items() if k != "time"} for row in read_metrics(tmp_path)]
    assert rows == [
        {"step": 1, "train/loss": 1.0},
        {"step": 2, "train/loss": 2.0, "eval/psnr": 9.0},
        {"step": 3, "eval/psnr": 8.0},
        {"step": 4, "train/loss": 4.0},
        {"step": 5, "train/loss": 5.0},
    ]
    again = JsonLines(tmp_path, 3)
    again.scalars({"train/loss": 4.5}, 4)
    again.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]
