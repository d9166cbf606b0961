"""SIGTERM to the driver: the run saves, ends with a code of its own, and goes on as if nothing had been."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from ray_jobs.launch import EXIT_STOPPED
from ray_jobs.train import train
from setok import checkpoint
from tests import squares
from tests.jobs.faults.tools import TIMEOUT, run_config, same_losses, steps_logged, training, wait_until


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_driver_that_is_told_to_end_saves_first(tmp_path: Path, num_workers: int) -> None:
    data = squares.write_set(tmp_path / "data")
    steps = {"steps": 60}
    undisturbed = run_config(data, tmp_path, "undisturbed", scaling={"num_workers": 0}, train=steps)
    config = run_config(data, tmp_path, "stopped", scaling={"num_workers": num_workers}, train=steps)
    with training(config) as driver:
        wait_until(lambda: steps_logged(config) >= 10 or driver.poll() is not None, "10 steps")
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(TIMEOUT) == EXIT_STOPPED, config.run_dir.with_suffix(".log").read_text()[-3000:]
    (saved,) = checkpoint.list_checkpoints(config.run_dir)
    assert checkpoint.step_of(saved) == steps_logged(config) < config.train.steps
    with training(config) as driver:
        assert driver.wait(TIMEOUT) == 0, config.run_dir.with_suffix(".log").read_text()[-3000:]
    train(undisturbed)
    same_losses(undisturbed, config)
    if not num_workers:
        final = [checkpoint.folder_of(run.run_dir, config.train.steps) for run in (undisturbed, config)]
        assert (final[0] / checkpoint.MODEL).read_bytes() == (final[1] / checkpoint.MODEL).read_bytes()
