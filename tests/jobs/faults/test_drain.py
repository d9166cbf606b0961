"""A node that is announced to go: one save at once, no failure counted, and the same run afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ray_jobs.train import train
from setok.config import dump_config
from tests import squares
from tests.jobs.faults import on_a_draining_node
from tests.jobs.faults.tools import run_config, same_losses

NOTICE_AFTER = 10


def test_a_run_outlives_a_node_that_is_taken_away(tmp_path: Path) -> None:
    data = squares.write_set(tmp_path / "data")
    steps = {"steps": 60}
    undisturbed = run_config(data, tmp_path, "undisturbed", scaling={"num_workers": 0}, train=steps)
    # One worker to a node of one CPU.
    config = run_config(data, tmp_path, "drained", scaling={"cpus_per_worker": 0.75}, train=steps)
    assert config.scaling.max_failures == 0, "a node taken away is no failure"
    file = tmp_path / "drained.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    command = [sys.executable, "-m", on_a_draining_node.__name__, str(file), str(NOTICE_AFTER)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["accepted"]
    (saved,) = seen["saved"]
    assert NOTICE_AFTER <= seen["noticed_at"] < saved <= seen["steps_when_gone"] < config.train.steps
    train(undisturbed)
    same_losses(undisturbed, config)
