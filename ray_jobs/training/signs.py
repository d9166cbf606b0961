"""What each rank of a run was doing last, as its ``Pulse`` left it in the run's folder, and which one is late."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FOLDER = "pulse"
IDLE_SECONDS = 5.0
"""A rank writes at least so often."""
SILENT_SECONDS = 3 * IDLE_SECONDS
"""A rank that has written nothing for so long has stopped, whatever it was doing."""

Phase = Literal[
    "starting",
    "waiting for data",
    "preparing",
    "forward",
    "backward",
    "update",
    "logging",
    "saving",
    "evaluating",
    "ended",
]


@dataclass(frozen=True, kw_only=True)
class Sign:
    """What one rank was doing when it wrote this."""

    rank: int
    world_size: int
    node: str
    pid: int
    step: int
    """Optimizer steps that are done."""
    phase: Phase
    since: float
    """When the phase began (Unix time)."""
    time: float
    """When this was written."""
    entered: int
    """Phases entered since the start; all ranks go through the same ones, so it sorts them by how far they have come."""
    oom_kills: int
    """Processes that the kernel had killed for memory on the node when this rank started."""

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.node} (pid {self.pid})"

    @staticmethod
    def path(run_dir: Path, rank: int) -> Path:
        """Where a rank leaves it."""
        return run_dir / FOLDER / f"rank{rank}.json"


def stack_path(run_dir: Path, rank: int) -> Path:
    """Where a rank leaves its stack when it stalls."""
    return run_dir / FOLDER / f"rank{rank}.stack.txt"


def fatal_path(run_dir: Path, rank: int) -> Path:
    """Where a fatal signal leaves its name and the stack."""
    return run_dir / FOLDER / f"rank{rank}.fatal.txt"


def read_signs(run_dir: Path) -> list[Sign]:
    """The last sign of every rank of the newest start, by rank."""
    signs = []
    for path in (run_dir / FOLDER).glob("rank*.json"):
        try:
            signs.append(Sign(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            continue  # it is being replaced, or cut off with the disk full
    if not signs:
        return []
    world = max(signs, key=lambda sign: sign.time).world_size
    return sorted((sign for sign in signs if sign.rank < world), key=lambda sign: sign.rank)


def clear(run_dir: Path) -> None:
    """Forget the signs of an earlier start of the run."""
    for path in (run_dir / FOLDER).glob("rank*"):
        path.unlink(missing_ok=True)


def stack_of(run_dir: Path, rank: int) -> str:
    """The stack of a rank's loop where it stalled, innermost call last; or ""."""
    return _text(stack_path(run_dir, rank))


def fatal_report(run_dir: Path, rank: int) -> str:
    """What Python wrote of the signal that ended a rank, with the stack; or ""."""
    return _text(fatal_path(run_dir, rank))


def fatal_signal(run_dir: Path, rank: int) -> str:
    """The signal that ended a rank, in Python's words, such as ``Segmentation fault``; or ""."""
    found = re.search(r"Fatal Python error: (.+)", fatal_report(run_dir, rank))
    return found.group(1).strip() if found else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def find_late(run_dir: Path) -> Sign | None:
    """The rank that the others wait for, or ``None`` where that cannot be told.

    It is the one that has come less far than all others. Where all are in the same phase, it is the one that gives no sign
    of life any more, or whose stack is not in a collective while those of the others are.
    """
    signs = read_signs(run_dir)
    if len(signs) < 2:
        return None
    last, next_to_last = sorted(signs, key=lambda sign: sign.entered)[:2]
    if last.entered < next_to_last.entered:
        return last
    newest = max(sign.time for sign in signs)
    silent = [sign for sign in signs if sign.time < newest - SILENT_SECONDS]
    outside = [s for s in signs if (stack := stack_of(run_dir, s.rank)) and "torch/distributed/" not in stack]
    for candidates in (silent, outside):
        if len(candidates) == 1:
            return candidates[0]
    return None


def describe_late(run_dir: Path, late: Sign) -> str:
    """What a rank that is waited for was doing, in words."""
    newest = max(sign.time for sign in read_signs(run_dir))
    text = f"{late}, {late.step} steps done, was in phase {late.phase!r} for {newest - late.since:.0f} s"
    if newest - late.time > SILENT_SECONDS:
        return f"{text} and gives no sign of life any more: its process has stopped or its node is lost"
    return f"{text} while the others waited for it"
