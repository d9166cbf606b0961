"""What a run survived: every break-down and every time it went on after one, in ``failures.jsonl``.

A line is a JSON object with ``event``. ``failure``: ``time``, ``noted`` (when it was found out), ``step`` (optimizer steps
that were done), the rest as in ``failure.json``. ``resumed``: ``time`` of the end of the first step after it, ``step`` that it
went on from, ``repeated`` steps and ``downtime_s``.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray_jobs.training import signs
from ray_jobs.training.failure import Cause
from ray_jobs.training.tracking import read_metrics

HISTORY = "failures.jsonl"
_NO_REASON = (
    "the whole run ended without leaving a reason: it was interrupted, its driver was killed, or its machine was lost"
)
_GO_ON = "the same command goes on from the newest good checkpoint, as it has done here"


def note_failure(run_dir: Path, cause: Cause) -> None:
    """Write down that the workers broke down."""
    _append(run_dir, {"event": "failure", "noted": time.time(), **asdict(cause)})


def note_end(run_dir: Path, cause: Cause, *, since: float) -> None:
    """Write down what ended this start of the run (Unix time ``since``), if nobody has."""
    events = read_history(run_dir)
    if not (events and events[-1]["event"] == "failure" and events[-1]["time"] >= since):
        note_failure(run_dir, cause)


def note_sudden_end(run_dir: Path) -> None:
    """Write down that an earlier start of the run was ended from outside, if it was; before a new start leaves its signs."""
    found = signs.read_signs(run_dir)
    if all(sign.phase == "ended" for sign in found):
        return
    last = max(found, key=lambda sign: sign.time)
    events = read_history(run_dir)
    if events and events[-1]["event"] == "failure" and events[-1]["time"] > last.time - signs.SILENT_SECONDS:
        return
    logged = read_metrics(run_dir)  # a rank gives a sign every half second, and may have done more since
    step = max(*(sign.step for sign in found), int(logged[-1]["step"]) if logged else 0)
    note_failure(run_dir, Cause(kind="died", problem=_NO_REASON, remedy=_GO_ON, time=last.time, step=step))


def note_step(run_dir: Path, *, resumed_from: int) -> None:
    """Write down that the first step of a new start is done, if that start came after a failure."""
    events = read_history(run_dir)
    if not events or events[-1]["event"] != "failure":
        return
    now, failed = time.time(), events[-1]
    _append(
        run_dir,
        {
            "event": "resumed",
            "time": now,
            "step": resumed_from,
            "repeated": max(0, (failed["step"] or 0) - resumed_from),
            "downtime_s": round(now - failed["time"], 3),
        },
    )


def read_history(run_dir: Path) -> list[dict[str, Any]]:
    """The events of a run, oldest first; a line that a crash cut off is left out."""
    path = run_dir / HISTORY
    if not path.is_file():
        return []
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events


def summary(run_dir: Path) -> str | None:
    """What the run survived, in one line; ``None`` where nothing happened."""
    resumed = [event for event in read_history(run_dir) if event["event"] == "resumed"]
    if not resumed:
        return None
    repeated = sum(event["repeated"] for event in resumed)
    seconds = sum(event["downtime_s"] for event in resumed)
    return f"{_count(len(resumed), 'restart')}, {_count(repeated, 'step')} repeated, {seconds:.0f} s lost"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _append(run_dir: Path, event: dict[str, Any]) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / HISTORY
    whole = not path.is_file() or path.read_bytes()[-1:] in (b"", b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("" if whole else "\n") + json.dumps(event) + "\n")
