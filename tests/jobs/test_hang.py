"""A rank that hangs: the others give up on it in time, say which it is and what it was doing, and the run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from ray_jobs.train import train
from ray_jobs.training import history, signs
from ray_jobs.training.failure import explain
from ray_jobs.training.tracking import read_metrics
from tests.jobs.test_train import pictures, run_config  # noqa: F401 (a fixture)

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 15.0
"""Long enough for a machine that is busy with other things: no other wait may end by it."""


@pytest.mark.parametrize(
    ("where", "phase"),
    [("data", "waiting for data"), ("update", "update")],  # in the second one, all ranks are in the same phase
)
def test_a_rank_that_sleeps_is_named_with_its_stack(tmp_path: Path, where: str, phase: str) -> None:
    shared = os.environ | {"WORLD_SIZE": "2", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.sleeper", str(tmp_path), where]
    ranks = [
        subprocess.Popen(command, cwd=ROOT, env=shared | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        complaint = ranks[0].communicate(timeout=300)[1]
        assert ranks[0].returncode == 3, complaint
        assert ranks[1].poll() is None, "it is still asleep"
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    run_dir = tmp_path / "fake"
    error = explain(run_dir, RuntimeError("…"))
    assert f"rank 1 on {os.uname().nodename} (pid {ranks[1].pid})" in error.problem
    assert f"3 steps done, was in phase '{phase}'" in error.problem
    cause = json.loads((run_dir / "failure.json").read_text())
    assert (cause["kind"], cause["rank"], cause["step"]) == ("late", 1, 3)
    assert "in oversleep" in cause["stack"]


def test_a_run_goes_on_after_a_worker_was_stopped(
    pictures: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A stopped process answers nothing; its sign of life ends with it."""
    changes: dict[str, Any] = {
        "scaling": {"num_workers": 2, "cpus_per_worker": 0.5, "collective_timeout_s": TIMEOUT},
        "train": {"steps": 30},
        "checkpoint": {"every": 10, "commit_timeout": 2.0},
    }
    config = run_config(pictures, tmp_path, "stopped", **changes)
    stopped: list[signs.Sign] = []

    def stop_one() -> None:
        while True:
            found = [sign for sign in signs.read_signs(config.run_dir) if sign.rank == 1 and sign.step >= 13]
            if found:
                stopped.append(found[0])
                os.kill(found[0].pid, signal.SIGSTOP)
                return
            time.sleep(0.05)

    thread = threading.Thread(target=stop_one, daemon=True)
    thread.start()
    run = train(config)
    thread.join(timeout=5)
    assert not psutil.pid_exists(stopped[0].pid), "nothing is left of it"
    steps = [int(line["step"]) for line in read_metrics(run)]
    assert steps == list(range(1, 31)), "every step is logged once"
    failed, resumed = history.read_history(run)
    assert (failed["event"], failed["kind"], failed["rank"]) == ("failure", "late", 1)
    assert f"(pid {stopped[0].pid})" in failed["problem"] and "was in phase" in failed["problem"]
    assert (resumed["event"], resumed["step"] % 10, resumed["repeated"]) == (
        *("resumed", 0),
        failed["step"] - resumed["step"],
    )
    assert f"The run survived 1 restart, {resumed['repeated']} step" in capsys.readouterr().out
    assert {sign.phase for sign in signs.read_signs(run)} == {"ended"}
