"""The first cause of a break-down, out of what all ranks left: not the complaint of an innocent one."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ray_jobs.training import failure, history, memory, signs
from ray_jobs.training.failure import Cause, explain, find_cause, record
from ray_jobs.training.signs import Sign
from setok.errors import DataError
from tests.unit.test_pulse import SLEEPS, WAITS, leave

TIMED_OUT = RuntimeError("[gloo] Timed out waiting 5000ms for recv operation to complete")
CLOSED = RuntimeError("Connection closed by peer [127.0.0.1]")
DIED = "The actor died unexpectedly. Worker(hostname='node-1', pid=101)"


class Group(Exception):
    """As Ray's: what the workers raised, by rank."""

    def __init__(self, worker_failures: dict[int, BaseException]) -> None:
        super().__init__("…")
        self.worker_failures = worker_failures


def cause(run_dir: Path, failures: dict[int, BaseException]) -> Cause:
    return find_cause(run_dir, Group(failures), failures)


def test_the_rank_that_was_waited_for_is_the_cause(tmp_path: Path) -> None:
    leave(tmp_path, 0, entered=30, stack=WAITS)
    leave(tmp_path, 1, entered=29, stack=SLEEPS)
    leave(tmp_path, 2, entered=30, stack=WAITS)
    record(tmp_path, TIMED_OUT, rank=0)
    for path in (tmp_path / signs.FOLDER).glob("rank1*"):
        path.unlink()  # Ray has started the worker again before anybody asks
    record(tmp_path, CLOSED, rank=2)
    error = explain(tmp_path, Group({0: TIMED_OUT, 2: CLOSED}))
    assert "rank 1 on node-1 (pid 101), 4 steps done, was in phase 'update' for 20 s" in error.problem
    assert "rank 0 gave up: [gloo] Timed out" in error.problem
    assert "scaling.collective_timeout_s" in error.remedy
    found = json.loads((tmp_path / "failure.json").read_text())
    assert (found["kind"], found["rank"]) == ("late", 1)
    assert "in forward" in found["stack"] and "in forward" in (tmp_path / "failure.txt").read_text()


def test_an_innocent_that_complains_first_is_passed_over(tmp_path: Path) -> None:
    record(tmp_path, CLOSED, rank=0)
    record(tmp_path, ZeroDivisionError("division by zero"), rank=1)
    found = cause(tmp_path, {0: CLOSED, 1: ZeroDivisionError("division by zero")})
    assert (found.kind, found.rank) == ("ZeroDivisionError", 1)
    assert "ZeroDivisionError: division by zero" in found.problem


def test_an_error_of_ours_keeps_its_words_and_gains_its_place(tmp_path: Path) -> None:
    leave(tmp_path, 1, entered=3)
    ours = DataError("bad shard", "ingest again")
    record(tmp_path, CLOSED, rank=0)
    record(tmp_path, ours, rank=1)
    found = cause(tmp_path, {0: CLOSED, 1: ours})
    assert (found.problem, found.remedy) == ("bad shard", "ingest again")
    assert (found.kind, found.rank, found.node, found.pid, found.step, found.phase) == (
        *("DataError", 1, "node-1", 101, 4),
        "update",
    )


def test_a_read_that_times_out_is_not_a_rank_that_is_late(tmp_path: Path) -> None:
    """The rank that complains is itself the one that has come least far."""
    leave(tmp_path, 0, entered=30)
    leave(tmp_path, 1, entered=29)
    error = OSError("read timed out: https://bucket/shard")
    record(tmp_path, error, rank=1)
    found = cause(tmp_path, {1: error})
    assert (found.kind, found.rank) == ("OSError", 1)


@pytest.mark.parametrize(
    ("text", "stack", "meaning", "remedy"),
    [
        (f"{DIED} … the node was running low on memory", "", "Ray's memory monitor", "RAY_memory_usage_threshold"),
        (DIED, f"Fatal Python error: Segmentation fault\n\n{SLEEPS}", "(Segmentation fault)", "top of the stack"),
        (f"{DIED} The node was terminated: preempted", "", "its node was lost", "a node in its place"),
        (DIED, "", "SIGKILL or the like: out of memory", "lower train.micro_batch_size"),
    ],
)
def test_a_process_that_died_says_by_what(tmp_path: Path, text: str, stack: str, meaning: str, remedy: str) -> None:
    leave(tmp_path, 0, entered=30, stack=WAITS)
    leave(tmp_path, 1, entered=30, fatal=stack)
    record(tmp_path, CLOSED, rank=0)
    error = explain(tmp_path, Group({0: CLOSED, 1: RuntimeError(text)}))
    assert "rank 1 on node-1, pid 101" in error.problem and meaning in error.problem
    assert remedy in error.remedy
    found = json.loads((tmp_path / "failure.json").read_text())
    assert (found["kind"], found["rank"], bool(found["stack"])) == ("died", 1, bool(stack))


def test_the_kernels_killer_is_named_where_it_has_acted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(tmp_path, 0, entered=30)
    sign = replace(leave(tmp_path, 1, entered=30), node=socket.gethostname(), oom_kills=3)
    Sign.path(tmp_path, 1).write_text(json.dumps(asdict(sign)))
    for kills, expected in ((3, "SIGKILL or the like"), (4, "the kernel's out-of-memory killer (SIGKILL)")):
        monkeypatch.setattr(failure, "oom_kills", lambda kills=kills: kills)
        assert expected in cause(tmp_path, {1: RuntimeError(DIED)}).problem


def test_nccl_that_ends_the_waiting_ranks_does_not_hide_the_late_one(tmp_path: Path) -> None:
    aborted = f"Fatal Python error: Aborted\n\n{WAITS}"
    for rank in range(3):
        late = rank == 2
        leave(tmp_path, rank, entered=30 - late, stack=SLEEPS if late else WAITS, fatal="" if late else aborted)
    found = cause(tmp_path, {rank: RuntimeError(DIED) for rank in (0, 1)})
    assert (found.kind, found.rank) == ("late", 2)
    assert "NCCL ended the ranks [0, 1]" in found.problem and "in forward" in found.stack


def test_what_an_earlier_start_left_is_forgotten(tmp_path: Path) -> None:
    record(tmp_path, ValueError("old"), rank=1)
    failure.clear_record(tmp_path, rank=1)
    found = cause(tmp_path, {1: RuntimeError(DIED)})
    assert found.kind == "died"


# ---------------------------------------------------------------- history


def test_a_run_says_what_it_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(history.time, "time", lambda: now[0])
    assert history.summary(tmp_path) is None
    history.note_step(tmp_path, resumed_from=0)
    assert history.read_history(tmp_path) == [], "the first start comes after nothing"
    for step, start, seconds in ((41, 30, 8.0), (60, 60, 5.0), (75, 45, 25.0)):
        history.note_failure(tmp_path, Cause(kind="died", problem="p", remedy="r", time=now[0], step=step, rank=1))
        now[0] += seconds
        history.note_step(tmp_path, resumed_from=start)
        history.note_step(tmp_path, resumed_from=start)  # nothing has failed in between
    assert history.summary(tmp_path) == "3 restarts, 41 steps repeated, 38 s lost"
    events = history.read_history(tmp_path)
    assert [event["event"] for event in events] == ["failure", "resumed"] * 3
    assert events[1] | {"time": 0} == {"event": "resumed", "time": 0, "step": 30, "repeated": 11, "downtime_s": 8.0}


def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / history.HISTORY).write_text('{"event": "fail')
    history.note_failure(tmp_path, Cause(kind="died", problem="p", remedy="r", time=1.0))
    assert [event["kind"] for event in history.read_history(tmp_path)] == ["died"]


def test_a_run_that_was_ended_from_outside_is_noted_at_the_next_start(tmp_path: Path) -> None:
    history.note_sudden_end(tmp_path)
    assert history.read_history(tmp_path) == [], "there was no start before"
    sign = leave(tmp_path, 0, entered=9, world_size=1)
    history.note_sudden_end(tmp_path)
    (event,) = history.read_history(tmp_path)
    assert "driver was killed" in event["problem"] and event["step"] == 4 and event["time"] == sign.time
    history.note_sudden_end(tmp_path)
    assert len(history.read_history(tmp_path)) == 1, "once is enough"
    (tmp_path / history.HISTORY).unlink()
    (tmp_path / "metrics.jsonl").write_text('{"step": 5}\n{"step": 6}\n')
    history.note_sudden_end(tmp_path)
    assert history.read_history(tmp_path)[0]["step"] == 6, "it had come further than its last sign"
    (tmp_path / history.HISTORY).unlink()
    Sign.path(tmp_path, 0).write_text(json.dumps(asdict(replace(sign, phase="ended"))))
    history.note_sudden_end(tmp_path)
    assert history.read_history(tmp_path) == [], "it ended by itself"


def test_the_end_of_a_start_is_noted_once(tmp_path: Path) -> None:
    noted = Cause(kind="died", problem="p", remedy="r", time=100.0)
    history.note_failure(tmp_path, noted)
    history.note_end(tmp_path, noted, since=50.0)
    assert len(history.read_history(tmp_path)) == 1
    history.note_end(tmp_path, noted, since=150.0)
    assert len(history.read_history(tmp_path)) == 2


# ---------------------------------------------------------------- the kernel's counter


def test_the_kernels_counter_is_read(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("pgfault 12\noom_kill 7\noom_kill_more 9\n")
    assert memory.oom_kills(tmp_path / "vmstat") == 7
    assert memory.oom_kills(tmp_path / "missing") == 0
