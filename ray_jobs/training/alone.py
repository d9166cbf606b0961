"""Refuses to start a run while an earlier start of it still lives: two would write into one folder."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from ray_jobs.training import signs
from ray_jobs.training.signs import Sign
from setok.errors import ConfigError

ORPHAN_SECONDS = 20.0
"""So long the workers of a driver that was killed may outlive it; their end is waited for."""
QUIET_SECONDS = signs.IDLE_SECONDS + 1.0
"""A rank that has given no sign for so long has ended, wherever it was."""
_LOOK_SECONDS = 0.2


def check_alone(
    run_dir: Path,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    exists: Callable[[int], bool] = psutil.pid_exists,
) -> None:
    """Return once no other start of a run gives signs of life.

    Of ranks on this machine it is known at once whether they live; others are watched for ``QUIET_SECONDS``.

    Raises:
        ConfigError: the run is going on.
    """
    began = changed = clock()
    seen = _living(run_dir, clock(), exists)
    while seen and clock() - changed <= QUIET_SECONDS:
        if clock() - began > ORPHAN_SECONDS:
            raise ConfigError(
                f"the run in {run_dir} is going on: {next(iter(seen.values()))} gives signs of life",
                f"touch {run_dir / 'stop'} lets it save and end; or give this run another name (--set name=…)",
            )
        sleep(_LOOK_SECONDS)
        now = _living(run_dir, clock(), exists)
        if now != seen:
            seen, changed = now, clock()


def _living(run_dir: Path, now: float, exists: Callable[[int], bool]) -> dict[int, Sign]:
    """The ranks that have given a sign lately and may live."""
    here, own = socket.gethostname(), os.getpid()

    def may_live(sign: Sign) -> bool:
        if sign.phase == "ended" or now - sign.time > signs.SILENT_SECONDS:
            return False
        return sign.node != here or (sign.pid != own and exists(sign.pid))

    return {sign.rank: sign for sign in signs.read_signs(run_dir) if may_live(sign)}
