"""A run that is asked to stop saves and ends; one whose node is about to go saves and goes on."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_jobs import launch
from ray_jobs.launch import EXIT_INTERRUPTED, EXIT_STOPPED, Stopped
from ray_jobs.progress import read_progress
from ray_jobs.training import loop, requests
from ray_jobs.training.loop import train_loop
from ray_jobs.training.machine import WorkerContext
from ray_jobs.training.requests import Request, Requests
from ray_jobs.training.stopping import STOP, forget_request, is_asked_to_stop, stop_on_signal
from setok import checkpoint
from setok.checkpoint import Draft, Store
from setok.config import TrainConfig
from tests import fakes


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(requests, "time", clock)
    return clock


def context(nodes: list[frozenset[str]]) -> WorkerContext:
    """One rank that is told of these nodes at one poll after the other."""
    return WorkerContext(
        rank=0,
        world_size=1,
        local_world_size=1,
        device=torch.device("cpu"),
        batches=lambda start: pytest.fail("no data here"),
        report=lambda metrics: None,
        nodes_to_go=lambda: nodes.pop(0) if nodes else frozenset(),
    )


def config_in(folder: Path, **changes: object) -> TrainConfig:
    config = fakes.train_config(output_dir=str(folder), **changes)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    return config


def test_it_asks_about_as_often_as_it_is_told_to(tmp_path: Path, clock: Clock) -> None:
    asked: list[int] = []
    config = config_in(tmp_path, scaling__poll_seconds=5.0)

    def nodes_to_go() -> frozenset[str]:
        asked.append(done)
        return frozenset()

    watch = Requests(config, replace(context([]), nodes_to_go=nodes_to_go), 100)
    for done in range(100, 132):
        watch.after(done)
        clock.now += 0.5
    # Before the first step and after it, since there is no rate before; soon every ten steps of half a second.
    assert asked == [100, 101, 105, 115, 125]


def test_a_quick_step_does_not_put_the_next_question_off_for_long(tmp_path: Path, clock: Clock) -> None:
    watch = Requests(config_in(tmp_path, scaling__poll_seconds=5.0), context([]), 0)
    clock.now += 1e-6
    watch.after(0)
    watch.after(1)
    (tmp_path / "fake" / STOP).touch()
    assert [watch.after(done) for done in range(2, 6)][-1] is Request.STOP


def test_every_notice_asks_for_one_save(tmp_path: Path, clock: Clock) -> None:
    none, one, both = frozenset[str](), frozenset({"a"}), frozenset({"a", "b"})
    worker = context([none, one, one, both, both, one])
    watch = Requests(config_in(tmp_path, scaling__poll_seconds=0.001), worker, 0)
    answers = []
    for done in range(6):
        answers.append(watch.after(done))
        clock.now += 1.0
    assert answers == [Request.GO_ON, Request.SAVE, Request.GO_ON, Request.SAVE, Request.GO_ON, Request.GO_ON]


def test_the_stop_file_stops_and_is_forgotten_at_the_next_start(tmp_path: Path, clock: Clock) -> None:
    config = config_in(tmp_path)
    (config.run_dir / STOP).touch()
    assert Requests(config, context([]), 0).after(0) is Request.STOP
    forget_request(config.run_dir)
    assert Requests(config, context([]), 0).after(0) is Request.GO_ON
    forget_request(config.run_dir)


def run(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, *, stop_after: int = 0, nodes_at: int = 0
) -> list[dict[str, float]]:
    """The loop in this process on the fake stage; ``stop_after`` logged steps somebody asks it to stop."""
    monkeypatch.setattr(loop, "build_stage", fakes.build_stage)
    reported: list[dict[str, float]] = []

    def report(metrics: dict[str, float]) -> None:
        reported.append(metrics)
        if metrics["step"] == stop_after:
            (config.run_dir / STOP).touch()

    worker = fakes.worker_of(
        config,
        report=report,
        nodes_to_go=lambda: frozenset({"n"} if reported and reported[-1]["step"] >= nodes_at > 0 else ()),
    )
    train_loop(config, worker)
    return reported


def steps_saved(config: TrainConfig) -> list[int]:
    return [checkpoint.step_of(path) for path in checkpoint.list_checkpoints(config.run_dir)]


def test_a_stopped_run_goes_on_as_if_it_had_never_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"train__steps": 8, "checkpoint__every": 100, "scaling__poll_seconds": 1e-6}
    whole, halved = (config_in(tmp_path, name=name, **settings) for name in ("whole", "halved"))
    expected = run(whole, monkeypatch)
    first = run(halved, monkeypatch, stop_after=3)
    assert [line["step"] for line in first] == [1, 2, 3]
    assert steps_saved(halved) == [3]
    progress = read_progress(halved.run_dir)
    assert progress is not None
    assert (progress.phase, progress.step) == ("stopped", 3)
    forget_request(halved.run_dir)
    second = run(halved, monkeypatch)
    losses = [[line["train/loss"] for line in lines] for lines in (expected, first + second)]
    assert losses[0] == losses[1]
    final = [checkpoint.folder_of(c.run_dir, 8) / checkpoint.MODEL for c in (whole, halved)]
    assert final[0].read_bytes() == final[1].read_bytes()


def test_a_stop_during_a_save_lets_the_save_end_and_adds_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_in(tmp_path, train__steps=20, checkpoint__every=4, checkpoint__keep=9, scaling__poll_seconds=1e-6)
    began, wrote = Draft.begin, Draft.write_part
    begun, asked = threading.Event(), threading.Event()

    def begin(draft: Draft) -> None:
        began(draft)
        begun.set()

    def slow(draft: Draft, *args: Any, **kwargs: Any) -> None:
        assert asked.wait(30)
        wrote(draft, *args, **kwargs)

    def ask_in_the_save() -> frozenset[str]:
        if begun.is_set() and not asked.is_set():
            (config.run_dir / STOP).touch()
            asked.set()
        return frozenset()

    monkeypatch.setattr(Draft, "begin", begin)
    monkeypatch.setattr(Draft, "write_part", slow)
    monkeypatch.setattr(loop, "build_stage", fakes.build_stage)
    train_loop(config, fakes.worker_of(config, nodes_to_go=ask_in_the_save))
    early = steps_saved(config)[0]
    assert steps_saved(config) == [early, 4]
    assert 4 < early < 8, "it did not wait for the schedule"
    assert not Store.of_run(config.run_dir).problems(4)


def test_a_notice_is_answered_by_the_next_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that a node which goes at the deadline takes with it: those of one poll, and those after the save."""
    config = config_in(tmp_path, scaling__poll_seconds=5.0)
    clock = Clock()
    monkeypatch.setattr(requests, "time", clock)
    notice_at = 47
    watch = Requests(config, replace(context([]), nodes_to_go=lambda: frozenset({"n"} if done >= notice_at else ())), 0)
    saved = []
    for done in range(100):
        if watch.after(done) is Request.SAVE:
            saved.append(done)
        clock.now += 0.5
    assert len(saved) == 1
    assert 0 <= saved[0] - notice_at <= 10, "five seconds of half a second each"


def test_a_run_asked_to_stop_before_its_first_step_does_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_in(tmp_path)
    (config.run_dir / STOP).touch()
    assert run(config, monkeypatch) == []
    assert steps_saved(config) == []


def test_a_notice_saves_once_and_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_in(tmp_path, train__steps=8, checkpoint__every=100, checkpoint__keep=9, scaling__poll_seconds=1e-6)
    reported = run(config, monkeypatch, nodes_at=3)
    assert [line["step"] for line in reported] == list(range(1, 9))
    assert steps_saved(config) == [8, 3]


def killed(run_dir: Path, number: int, *, times: int) -> None:
    """A block that gets a signal."""
    with stop_on_signal(run_dir):
        for _ in range(times):
            os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_ends(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped:
        killed(tmp_path, number, times=1)
    assert stopped.value.number == number
    assert is_asked_to_stop(tmp_path)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
        killed(tmp_path, number, times=2)
    assert signal.getsignal(number) is before


def test_a_block_without_a_signal_ends_plainly(tmp_path: Path) -> None:
    with stop_on_signal(tmp_path):
        pass
    assert not is_asked_to_stop(tmp_path)


def test_a_stop_is_told_in_a_thread_as_well(tmp_path: Path) -> None:
    told: list[BaseException] = []

    def wait() -> None:
        try:
            with stop_on_signal(tmp_path):
                (tmp_path / STOP).touch()
        except Stopped as stopped:
            told.append(stopped)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert len(told) == 1


def test_nothing_is_said_to_be_saved_before_anything_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise Stopped(tmp_path / "mine", signal.SIGTERM, saved=False)

    launch.error_console.cache_clear()
    with pytest.raises(SystemExit, match=str(EXIT_STOPPED)):
        launch.run(main)
    assert "mine had nothing to save yet." in capsys.readouterr().err.replace("\n", "")
    launch.error_console.cache_clear()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, EXIT_STOPPED), (signal.SIGINT, EXIT_INTERRUPTED)])
def test_the_command_says_that_it_goes_on_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    def main() -> None:
        raise Stopped(tmp_path / "mine", number)

    launch.error_console.cache_clear()
    with pytest.raises(SystemExit) as ended:
        launch.run(main)
    assert ended.value.code == code
    assert "mine is saved. The same command goes on from there." in capsys.readouterr().err.replace("\n", "")
    launch.error_console.cache_clear()
