"""Jobs that are killed in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

PATIENCE = 120
"""Seconds until a job must have got so far that it can be killed."""


def kill_in_the_middle(job: str, config_file: Path, *, once: Callable[[], bool]) -> None:
    """Start a job, and kill its driver as soon as ``once`` holds; its Ray must be gone too when this returns."""
    root = Path(__file__).resolve().parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", f"ray_jobs.{job}", "--config", str(config_file)]
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + PATIENCE
    while not once():
        assert driver.poll() is None, f"the job {job} ended before it could be killed"
        assert time.monotonic() < give_up, f"the job {job} did not get far enough in time"
        time.sleep(0.02)
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=20)
