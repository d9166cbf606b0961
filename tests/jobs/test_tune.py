"""A whole sweep on Ray: killed twice, and at its end all trials are there once and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import ray

from ray_jobs.benchmarks.fault_run import children, small_run
from ray_jobs.train import train
from ray_jobs.training.signs import read_signs
from ray_jobs.tune import tune
from ray_jobs.tuning.trials import Trials
from setok import checkpoint
from setok.config import TrainConfig, TuneConfig, build, dump_config, load_config
from setok.errors import ConfigError
from tests import squares

STEPS = 150


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return squares.write_set(tmp_path_factory.mktemp("squares") / "data")


def sweep_config(data: Path, output: Path, *, workers: int = 0, steps: int = STEPS, **changes: object) -> TuneConfig:
    run = small_run(
        data,
        output,
        "trial",
        scaling={"num_workers": workers, "cpus_per_worker": 1 if not workers else 0.5},
        train={
            "steps": steps,
            "deterministic": False,
            "log_every": 25 if workers else 1,
        },  # a report to Ray takes 0.5 s
        checkpoint={"every": 50 if steps == STEPS else steps},
        validation={"data": str(data), "cpus": 0.5},
    )
    tree = {
        "name": "sweep",
        "output_dir": str(output),
        "train": run.model_dump(mode="json"),
        "space": {"model.clustering.sharpness": {"values": [1.0, 4.0]}, "loss.contrast": {"values": [0.0, 0.3]}},
        "objectives": [{"metric": "eval/psnr"}],
    }
    return build(TuneConfig, tree | changes)


def wait_for(
    condition: Callable[[], object], what: str, seconds: float = 600.0, alive: subprocess.Popen[bytes] | None = None
) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert alive is None or alive.poll() is None, f"no {what}: the command has ended"
        assert time.monotonic() < ends, f"no {what}"
        time.sleep(0.02)


def begin_and_kill_the_driver(sweep: TuneConfig, file: Path) -> None:
    """Start the command, and kill it once a trial has ended and the next one has a checkpoint."""
    file.write_text(dump_config(sweep))
    log = file.with_suffix(".log")
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    with log.open("wb") as output:
        driver = subprocess.Popen(
            [sys.executable, "-m", "ray_jobs.tune", "--config", str(file), "--set", "max_concurrent=1"],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    family: list[psutil.Process] = []
    folder = sweep.run_dir / "trials"
    try:
        wait_for(
            lambda: (folder / "0000" / "result.json").exists() and list((folder / "0001").glob("checkpoints/step_*")),
            "checkpoint of the second trial",
            alive=driver,
        )
        family = children(driver.pid)
        driver.send_signal(signal.SIGKILL)
    finally:
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        driver.kill()
        driver.wait()


@pytest.mark.timeout(1500)
def test_a_sweep_survives_kills_of_its_driver_and_of_a_trial(ray_local: None, data: Path, tmp_path: Path) -> None:
    sweep = sweep_config(data, tmp_path)
    begin_and_kill_the_driver(sweep, tmp_path / "sweep.yaml")
    trials = Trials(sweep)
    ended = trials.folder / "0000" / "result.json"
    before = {path: path.stat().st_mtime_ns for path in (ended, ended.parent / "metrics.jsonl")}
    killed: list[int] = []

    def kill_a_trial() -> None:
        folder = trials.folder / "0002"
        wait_for(lambda: (folder / "checkpoints" / "step_00000050").exists(), "checkpoint of the third trial")
        killed.extend(sign.pid for sign in read_signs(folder))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill_a_trial, daemon=True)
    thread.start()
    folder = tune(sweep)
    thread.join(timeout=5)
    assert killed
    assert [trial.number for trial in trials.all()] == [0, 1, 2, 3]
    assert all(trial.is_finished for trial in trials.all())
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what had ended was left alone"
    for trial in trials.all():
        assert checkpoint.step_of(checkpoint.resolve(trial.folder)) == STEPS
        assert set(trial.history("eval/psnr")) == {50, 100, 150}
        steps = list(trial.history("train/loss"))
        assert steps == list(range(1, STEPS + 1)), "every step once"
    table = pq.read_table(folder / "trials.parquet").to_pydict()
    assert table["state"] == ["done"] * 4
    best = max(trials.all(), key=lambda trial: trial.metrics()["eval/psnr"])
    config = load_config(TrainConfig, folder / "best.yaml")
    assert config.loss.contrast == best.values["loss.contrast"]
    shorter = config.model_copy(update={"train": config.train.model_copy(update={"steps": 2})})
    assert checkpoint.step_of(checkpoint.resolve(train(shorter))) == 2
    assert "Trial" in (folder / "report.html").read_text()
    assert nothing_is_left()
    with pytest.raises(ConfigError, match=r"train.steps 150 → 7.*\n.*sweep-2"):
        tune(
            sweep.model_copy(
                update={
                    "train": sweep.train.model_copy(update={"train": sweep.train.train.model_copy(update={"steps": 7})})
                }
            )
        )


@pytest.mark.timeout(1500)
def test_trials_on_ray_train_end_early_and_leave_nothing_behind(ray_local: None, data: Path, tmp_path: Path) -> None:
    sweep = sweep_config(
        data,
        tmp_path,
        workers=1,
        steps=300,
        space={"optim.learning_rate": {"values": [1e-3, 1e-9]}},
        objectives=[{"metric": "train/loss", "best_is": "lowest"}],
        halving={"first_step": 50, "factor": 2},
    )
    tune(sweep)
    done, halted = Trials(sweep).all()
    assert done.result is not None and done.result.state == "done"
    assert done.history("eval/psnr").keys() == {300}, "evaluated on what the trials leave free"
    assert halted.result is not None and halted.result.state == "halted"
    assert halted.halted is not None and halted.halted.step == 50
    assert 50 < checkpoint.step_of(checkpoint.resolve(halted.folder)) < 300, "it saved, and stopped"
    assert nothing_is_left()


def nothing_is_left(seconds: float = 120.0) -> bool:
    """Whether all placement groups and trials' processes are gone, within some time."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        groups = [group for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
        free = ray.available_resources().get("CPU", 0.0)
        if not groups and free == ray.cluster_resources()["CPU"]:
            return True
        time.sleep(0.2)
    return False
