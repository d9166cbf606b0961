"""A run has one start at a time: a second one waits for orphans, and is refused beside a living one."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from ray_jobs.training.alone import ORPHAN_SECONDS, QUIET_SECONDS, check_alone
from ray_jobs.training.signs import SILENT_SECONDS, Phase, Sign
from setok.errors import ConfigError


class Other:
    """Another start of a run, with time that passes where somebody waits."""

    def __init__(self, folder: Path, *, node: str = "elsewhere", pid: int = 7, phase: Phase = "forward") -> None:
        self.folder, self.node, self.pid, self.phase = folder, node, pid, phase
        self.now = self.began = time.time()
        self.lives_until = self.began

    def sign(self) -> None:
        path = Sign.path(self.folder, 0)
        path.parent.mkdir(exist_ok=True)
        now = self.now
        fields = Sign(
            rank=0,
            world_size=1,
            node=self.node,
            pid=self.pid,
            step=3,
            phase=self.phase,
            since=now,
            time=now,
            entered=9,
            oom_kills=0,
        )
        path.write_text(json.dumps(asdict(fields)))

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now < self.lives_until:
            self.sign()

    def check(self, exists: Callable[[int], bool] = lambda pid: True) -> float:
        """Seconds that a second start has waited."""
        check_alone(self.folder, clock=lambda: self.now, sleep=self.sleep, exists=exists)
        return self.now - self.began


def test_a_new_run_is_alone(tmp_path: Path) -> None:
    assert Other(tmp_path).check() == 0


def test_a_living_one_is_not_joined(tmp_path: Path) -> None:
    other = Other(tmp_path)
    other.sign()
    other.lives_until = float("inf")
    with pytest.raises(
        ConfigError, match=r"is going on: rank 0 on elsewhere \(pid 7\)(.|\n)*stop lets it save and end"
    ):
        other.check()
    assert other.now - other.began == pytest.approx(ORPHAN_SECONDS, abs=1)


def test_orphans_are_waited_for(tmp_path: Path) -> None:
    other = Other(tmp_path)
    other.sign()
    other.lives_until = other.began + 2
    assert other.check() == pytest.approx(2 + QUIET_SECONDS, abs=1)


def test_on_this_machine_a_death_is_known_at_once(tmp_path: Path) -> None:
    other = Other(tmp_path, node=socket.gethostname())
    other.sign()
    assert other.check(exists=lambda pid: False) == 0
    other.lives_until = other.began + 2
    assert other.check(exists=lambda pid: other.now < other.lives_until) == pytest.approx(2, abs=0.5)


def test_those_that_ended_or_were_silent_or_are_this_process_are_no_others(tmp_path: Path) -> None:
    for other in (
        Other(tmp_path, phase="ended"),
        Other(tmp_path, node=socket.gethostname(), pid=os.getpid()),
    ):
        other.sign()
        assert other.check() == 0
    silent = Other(tmp_path)
    silent.sign()
    silent.now += SILENT_SECONDS + 1
    silent.began = silent.now
    assert silent.check() == 0
