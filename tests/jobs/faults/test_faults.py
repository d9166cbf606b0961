"""Runs that are killed, told to end, or whose data process dies: nothing lost, nothing repeated, the same to the last bit.

The longer version, with every fault and many kills in one run, is ``python -m ray_jobs.benchmark faults``.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from ray_jobs.benchmarks.fault_run import Run, differences, small_run
from ray_jobs.benchmarks.faults import FAULTS, undisturbed
from ray_jobs.launch import EXIT_STOPPED
from ray_jobs.training.history import read_history
from setok.config import TrainConfig
from tests import squares

TESTED = (
    "worker killed during a save",
    "data process killed",
    "driver killed",
    "driver told to end",
    "disk full during a save",
)

GO_ON = ("data process killed", "disk full during a save")
"""Training does not stop for them."""


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("faults")
    return undisturbed(small_run(squares.write_set(folder / "data"), folder, "undisturbed"))


def run_like(calm: TrainConfig, name: str, **changes: object) -> Run:
    return Run(small_run(Path(calm.data.train[0].path), Path(calm.output_dir), name, **changes))


@pytest.mark.parametrize("name", TESTED)
def test_a_broken_run_is_the_undisturbed_one(calm: TrainConfig, name: str) -> None:
    run = run_like(calm, name.replace(" ", "-"))
    parts = FAULTS[name](run)
    assert differences(run.config, calm) == []
    assert ("total" in parts) == (name not in GO_ON), "what it restarts for"
    if name.startswith("worker"):
        failed, resumed = read_history(run.config.run_dir)
        assert failed["kind"] == "died" and "SIGKILL" in failed["problem"]
        assert resumed["step"] % run.config.checkpoint.every == 0
        assert resumed["repeated"] == failed["step"] - resumed["step"]


def test_a_run_in_this_process_alone_stops_and_goes_on(calm: TrainConfig) -> None:
    alone = {"scaling": {"num_workers": 0}, "train": {"steps": 200}, "checkpoint": {"every": 1000}}
    whole, halved = run_like(calm, "alone", **alone), run_like(calm, "halved", **alone)
    undisturbed(whole.config)
    with halved.started() as process:
        halved.wait_for(lambda: halved.step >= 10, "10 steps")
        process.send_signal(signal.SIGTERM)
        assert halved.finish() == EXIT_STOPPED
    assert 10 <= halved.step == halved.newest() < 200
    undisturbed(halved.config)
    assert differences(halved.config, whole.config) == []


def test_differences_are_found(calm: TrainConfig, tmp_path: Path) -> None:
    other = small_run(Path(calm.data.train[0].path), tmp_path, "other", scaling={"num_workers": 0}, train={"steps": 20})
    undisturbed(other)
    found = differences(other, small_run(Path(calm.data.train[0].path), Path(calm.output_dir), "undisturbed"))
    assert any("another loss" in line for line in found), "one worker adds in another order than two"
    assert differences(small_run(tmp_path, tmp_path, "nothing"), calm), "a run that is not there"
