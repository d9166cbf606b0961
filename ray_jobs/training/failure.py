"""How a failed run is told: which rank failed first, what happened, what it likely means, and what to do."""

from __future__ import annotations

import json
import os
import re
import socket
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from setok.errors import SetokError, TrainingError

FAILURE = "failure.txt"
_RECORDS = "failures"
BURST_SECONDS = 120.0
"""Failures within this time of the last one belong to the same break-down."""

_MEANINGS = (
    (
        ("No space left", "Disk quota"),
        "the disk is full",
        "free space, or give the run another output_dir; the same command then resumes it",
    ),
    (
        ("Connection closed by peer", "Connection reset", "NCCL", "Broken pipe", "timed out", "Timed out"),
        "another worker ended or the network between the workers broke; this worker only noticed it first",
        "start the same command again to resume; if it comes back, see the other workers' logs in the run's ray folder",
    ),
    (
        ("out of memory", "OutOfMemory", "bad_alloc", "Cannot allocate memory"),
        "the memory of the machine or device is exhausted",
        "lower train.micro_batch_size or data.decode_workers, or raise deepspeed.zero_stage",
    ),
    (
        ("ModuleNotFoundError", "ImportError"),
        "the workers' environment lacks something that this process has",
        "install the same environment on all nodes, or start with ray job submit --working-dir .",
    ),
)
_UNKNOWN = (
    "an error in the code that ran on the worker",
    "see the traceback in the file; the same command resumes the run",
)
_DIED = (
    "ended from outside: out of memory (see dmesg and the container's limit), a lost or preempted node, or kill",
    "start the same command again to resume; if memory is the cause, lower train.micro_batch_size or data.decode_workers",
)


@dataclass(frozen=True, kw_only=True)
class Record:
    """An exception on a worker, written by that worker."""

    rank: int
    node: str
    pid: int
    time: float
    kind: str
    message: str
    traceback: str


def record(run_dir: Path, error: BaseException, *, rank: int) -> None:
    """Leave a worker's exception in the run's folder, where the driver finds out who failed first."""
    entry = Record(
        rank=rank,
        node=socket.gethostname(),
        pid=os.getpid(),
        time=time.time(),
        kind=type(error).__name__,
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
    )
    folder = run_dir / _RECORDS
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"rank{rank}.tmp"
    temporary.write_text(json.dumps(asdict(entry)), encoding="utf-8")
    temporary.replace(folder / f"rank{rank}.json")


def clear(run_dir: Path) -> None:
    """Forget the failures of an earlier start."""
    for path in [run_dir / FAILURE, *(run_dir / _RECORDS).glob("rank*.json")]:
        path.unlink(missing_ok=True)


def find_setok_error(error: BaseException | None) -> SetokError | None:
    """The error of ours inside what Ray wrapped around it, if there is one."""
    return next((inner for inner in _chain(error) if isinstance(inner, SetokError)), None)


def explain(run_dir: Path, error: BaseException) -> SetokError:
    """The one error to show for a failed run; also written to the run's ``failure.txt``.

    Errors of ours come out as themselves. Anything else becomes a ``TrainingError`` that names the rank and node that
    failed first, the exception, what it likely means and what to do.
    """
    records = _last_burst(run_dir)
    died = sorted(_failures(error).keys() - {entry.rank for entry in records})
    first = records[0] if records else None
    result = find_setok_error(error)
    if result is None and died:
        meaning, remedy = _DIED
        where = "; ".join(f"rank {rank}{_place(_failures(error)[rank])}" for rank in died)
        result = TrainingError(f"a worker process died without an exception ({where})\n  likely: {meaning}", remedy)
    elif result is None and first is not None:
        meaning, remedy = _meaning(f"{first.kind}: {first.message}")
        where = f"rank {first.rank} on {first.node} (pid {first.pid})"
        result = TrainingError(
            f"{where} failed first: {first.kind}: {_short(first.message)}\n  likely: {meaning}", remedy
        )
    elif result is None:
        meaning, remedy = _meaning(f"{type(error).__name__}: {error}")
        result = TrainingError(f"{type(error).__name__}: {_short(str(error))}\n  likely: {meaning}", remedy)
    _write(run_dir, result, records, error)
    return result


def _write(run_dir: Path, result: SetokError, records: list[Record], error: BaseException) -> None:
    parts = [f"{type(result).__name__}: {result}", ""]
    for entry in records:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.time))
        parts += [f"--- rank {entry.rank} on {entry.node}, pid {entry.pid}, {when}", entry.traceback]
    if not records:
        parts += ["".join(traceback.format_exception(error))]
    (run_dir / FAILURE).write_text("\n".join(parts), encoding="utf-8")


def _last_burst(run_dir: Path) -> list[Record]:
    """The records of the last break-down, earliest first."""
    paths = (run_dir / _RECORDS).glob("rank*.json")
    found = [Record(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    found.sort(key=lambda entry: entry.time)
    return [entry for entry in found if entry.time > found[-1].time - BURST_SECONDS]


def _failures(error: BaseException) -> dict[int, BaseException]:
    return {rank: e for inner in _chain(error) for rank, e in _worker_failures(inner).items()}


def _place(error: BaseException) -> str:
    """Node and process of a worker, where Ray's message names them."""
    host, pid = re.search(r"hostname='([^']+)'", str(error)), re.search(r"\bpid=(\d+)", str(error))
    return (f" on {host.group(1)}" if host else "") + (f", pid {pid.group(1)}" if pid else "")


def _worker_failures(error: BaseException) -> Mapping[int, BaseException]:
    return getattr(error, "worker_failures", {})


def _chain(error: BaseException | None, seen: frozenset[int] = frozenset()) -> Iterator[BaseException]:
    """An exception and all that it wraps, in the ways that Ray and Python wrap them."""
    if not isinstance(error, BaseException) or id(error) in seen:
        return
    seen |= {id(error)}
    yield error
    inner = [
        getattr(error, name, None) for name in ("_base_exc", "cause", "controller_failure", "__cause__", "__context__")
    ]
    for wrapped in [*_worker_failures(error).values(), *inner]:
        yield from _chain(wrapped, seen)


def _meaning(text: str) -> tuple[str, str]:
    for words, meaning, remedy in _MEANINGS:
        if any(word in text for word in words):
            return meaning, remedy
    return _UNKNOWN


def _short(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
