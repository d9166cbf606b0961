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

from ray_jobs.training import signs
from ray_jobs.training.memory import MEMORY_MONITOR, SIGNS, oom_kills
from setok.errors import SetokError, TrainingError

FAILURE = "failure.txt"
FAILURE_JSON = "failure.json"
_RECORDS = "failures"
BURST_SECONDS = 120.0
"""Failures within this time of the last one belong to the same break-down."""

_TIMED_OUT = ("timed out", "Timed out", "timeout", "TimeoutError")
_INNOCENT = ("Connection closed by peer", "Connection reset", "NCCL", "Broken pipe", *_TIMED_OUT)
"""Words of errors by which a rank notices that another one is gone or late."""
_MEANINGS = (
    (
        ("No space left", "Disk quota"),
        "the disk is full",
        "free space, or give the run another output_dir; the same command then resumes it",
    ),
    (
        SIGNS,
        "the memory of the machine or device is exhausted",
        "lower train.micro_batch_size or data.decode_workers, or raise deepspeed.zero_stage",
    ),
    (
        _INNOCENT,
        "another worker ended or the network between the workers broke; this worker only noticed it first",
        "start the same command again to resume; if it comes back, see the other workers' logs in the run's ray folder",
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
_LESS_MEMORY = "lower train.micro_batch_size or data.decode_workers, or use nodes with more memory"
_AGAIN = "start the same command again to resume"
_LATE = (
    "look at that node and at the stack in failure.txt, then start the same command again to resume; if the pause was"
    " meant (a slow disk, a long download), raise scaling.collective_timeout_s"
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
    late_rank: int | None = None
    """Where the worker waited in vain: the rank that it waited for, if that can be told."""
    late: str = ""
    """What that rank was doing."""
    late_stack: str = ""

    @property
    def text(self) -> str:
        return f"{self.kind}: {self.message}"

    @property
    def is_innocent(self) -> bool:
        """Whether it only says that another rank is gone or late."""
        return any(word in self.text for word in _INNOCENT)


@dataclass(frozen=True, kw_only=True)
class Cause:
    """What ended the workers: the first cause, and not what followed from it. The content of ``failure.json``."""

    kind: str
    """Name of the exception; ``died`` for a process that ended without one, ``late`` for a rank that others gave up on."""
    problem: str
    remedy: str
    time: float
    step: int | None = None
    """Optimizer steps that were done."""
    rank: int | None = None
    node: str | None = None
    pid: int | None = None
    phase: str | None = None
    stack: str = ""
    """Of the rank's main thread, where it could be had."""


def record(run_dir: Path, error: BaseException, *, rank: int) -> None:
    """Leave a worker's exception in the run's folder, where the driver finds out who failed first."""
    late = signs.find_late(run_dir) if any(word in str(error) for word in _TIMED_OUT) else None
    if late is not None and late.rank == rank:
        late = None  # it waited for something else
    entry = Record(
        rank=rank,
        node=socket.gethostname(),
        pid=os.getpid(),
        time=time.time(),
        kind=type(error).__name__,
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
        late_rank=late.rank if late else None,
        late=signs.describe_late(run_dir, late) if late else "",
        late_stack=signs.stack_of(run_dir, late.rank) if late else "",
    )
    folder = run_dir / _RECORDS
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"rank{rank}.tmp"
    temporary.write_text(json.dumps(asdict(entry)), encoding="utf-8")
    temporary.replace(folder / f"rank{rank}.json")


def clear(run_dir: Path) -> None:
    """Forget the failures of an earlier start of the run."""
    for path in [run_dir / FAILURE, run_dir / FAILURE_JSON, *(run_dir / _RECORDS).glob("rank*.json")]:
        path.unlink(missing_ok=True)


def clear_record(run_dir: Path, *, rank: int) -> None:
    """Forget what a worker of this rank left before Ray started the workers anew."""
    (run_dir / _RECORDS / f"rank{rank}.json").unlink(missing_ok=True)


def find_setok_error(error: BaseException | None) -> SetokError | None:
    """The error of ours inside what Ray wrapped around it, if there is one."""
    return next((inner for inner in _chain(error) if isinstance(inner, SetokError)), None)


def failures_of(error: BaseException) -> dict[int, BaseException]:
    """What the workers raised, by rank, as Ray tells it."""
    return {rank: e for inner in _chain(error) for rank, e in _worker_failures(inner).items()}


def find_cause(run_dir: Path, error: BaseException, failures: Mapping[int, BaseException]) -> Cause:
    """The first cause of a break-down.

    Args:
        run_dir: folder of the run, with the workers' records and signs of life.
        error: what was raised.
        failures: what the workers raised, by rank, as Ray tells it; a process that died has its place here, and no record.
    """
    records = _last_burst(run_dir)
    guilty = next((entry for entry in records if not entry.is_innocent), None)
    waiting = next((entry for entry in records if entry.late_rank is not None), None)
    died = sorted(failures.keys() - {entry.rank for entry in records})
    ours = next((found for e in [error, *failures.values()] if (found := find_setok_error(e))), None)
    if ours is not None:
        source = next((entry for entry in records if entry.kind == type(ours).__name__), None)
        return _cause(run_dir, type(ours).__name__, ours.problem, ours.remedy, source.rank if source else None)
    if died:
        return _of_the_dead(run_dir, died, failures)
    if guilty is None and waiting is not None:
        problem = f"{waiting.late}; rank {waiting.rank} gave up: {_short(waiting.message)}"
        return _cause(run_dir, "late", problem, _LATE, waiting.late_rank, stack=waiting.late_stack)
    first = guilty or (records[0] if records else None)
    if first is not None:
        meaning, remedy = _meaning(first.text)
        where = f"rank {first.rank} on {first.node} (pid {first.pid})"
        problem = f"{where} failed first: {first.kind}: {_short(first.message)}\n  likely: {meaning}"
        return _cause(run_dir, first.kind, problem, remedy, first.rank)
    text = f"{type(error).__name__}: {error}"
    meaning, remedy = _meaning(text)
    return _cause(run_dir, type(error).__name__, f"{text[:300]}\n  likely: {meaning}", remedy, None)


def explain(run_dir: Path, error: BaseException) -> SetokError:
    """The one error to show for a failed run; also written to the run's ``failure.txt`` and ``failure.json``.

    Errors of ours come out as themselves. Anything else becomes a ``TrainingError`` that names the rank and node that
    failed first, the exception, what it likely means and what to do.
    """
    cause = find_cause(run_dir, error, failures_of(error))
    result = find_setok_error(error) or TrainingError(cause.problem, cause.remedy)
    _write(run_dir, result, cause, error)
    return result


def _cause(run_dir: Path, kind: str, problem: str, remedy: str, rank: int | None, *, stack: str = "") -> Cause:
    everyone = signs.read_signs(run_dir)
    sign = next((sign for sign in everyone if sign.rank == rank), None)
    return Cause(
        kind=kind,
        problem=problem,
        remedy=remedy,
        time=time.time(),
        step=max((sign.step for sign in everyone), default=None),
        rank=rank,
        node=sign.node if sign else None,
        pid=sign.pid if sign else None,
        phase=sign.phase if sign else None,
        stack=stack,
    )


def _of_the_dead(run_dir: Path, died: list[int], failures: Mapping[int, BaseException]) -> Cause:
    """The cause where processes ended without an exception."""
    signals = {rank: signs.fatal_signal(run_dir, rank) for rank in died}
    late = signs.find_late(run_dir)
    if late is not None and late.rank not in died and all("Abort" in signal for signal in signals.values()):
        # NCCL ends the processes that wait in vain, and leaves the one that they wait for.
        problem = f"{signs.describe_late(run_dir, late)}; NCCL ended the ranks {died}"
        return _cause(run_dir, "late", problem, _LATE, late.rank, stack=signs.stack_of(run_dir, late.rank))
    where = "; ".join(f"rank {rank}{_place(failures[rank])}" for rank in died)
    meaning, remedy = _how_it_died(run_dir, died[0], str(failures[died[0]]), signals[died[0]])
    problem = f"a worker process died without an exception ({where})\n  likely: {meaning}"
    stack = signs.fatal_report(run_dir, died[0]) if signals[died[0]] else ""
    return _cause(run_dir, "died", problem, remedy, died[0], stack=stack)


def _how_it_died(run_dir: Path, rank: int, text: str, signal: str) -> tuple[str, str]:
    if MEMORY_MONITOR in text:
        return (
            "Ray's memory monitor ended it (SIGKILL), because its node was about to run out of memory",
            f"{_LESS_MEMORY}; RAY_memory_usage_threshold says when the monitor acts",
        )
    if signal:
        return (
            f"a fatal signal ({signal}) in native code; the stack is in {FAILURE}",
            f"{_AGAIN}; if it comes back, look at the library at the top of the stack, and at the device's health",
        )
    sign = next((sign for sign in signs.read_signs(run_dir) if sign.rank == rank), None)
    if sign is not None and sign.node == socket.gethostname() and oom_kills() > sign.oom_kills:
        return f"the kernel's out-of-memory killer (SIGKILL), which acted on {sign.node} since the start", _LESS_MEMORY
    if re.search(r"\bnode\b[^.]*\b(died|dead|terminated|preempted|lost)", text, re.IGNORECASE):
        return "its node was lost or taken back", f"{_AGAIN}, once the cluster has a node in its place"
    return (
        "ended from outside by SIGKILL or the like: out of memory (see dmesg and the container's limit), a lost or"
        " preempted node, or kill",
        f"{_AGAIN}; if memory is the cause, {_LESS_MEMORY}",
    )


def _write(run_dir: Path, result: SetokError, cause: Cause, error: BaseException) -> None:
    records = _last_burst(run_dir)
    parts = [f"{type(result).__name__}: {result}", ""]
    if cause.rank is not None and cause.node is not None:
        doing = f"{cause.step} steps done, in phase {cause.phase!r}"
        parts += [f"first cause: rank {cause.rank} on {cause.node}, pid {cause.pid}, {doing}", ""]
    if cause.stack:
        parts += [f"--- stack of rank {cause.rank}", cause.stack, ""]
    for entry in records:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.time))
        parts += [f"--- rank {entry.rank} on {entry.node}, pid {entry.pid}, {when}", entry.traceback]
    if not records:
        parts += ["".join(traceback.format_exception(error))]
    (run_dir / FAILURE).write_text("\n".join(parts), encoding="utf-8")
    (run_dir / FAILURE_JSON).write_text(json.dumps(asdict(cause), indent=1) + "\n", encoding="utf-8")


def _last_burst(run_dir: Path) -> list[Record]:
    """The records of the last break-down, earliest first."""
    paths = (run_dir / _RECORDS).glob("rank*.json")
    found = [Record(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    found.sort(key=lambda entry: entry.time)
    return [entry for entry in found if entry.time > found[-1].time - BURST_SECONDS]


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
