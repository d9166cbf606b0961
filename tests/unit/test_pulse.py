"""Signs of life: what a rank was doing, its stack when it stalls, and which one the others wait for."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from ray_jobs.training.pulse import Pulse
from ray_jobs.training.signs import (
    SILENT_SECONDS,
    Sign,
    clear,
    describe_late,
    fatal_path,
    fatal_report,
    fatal_signal,
    find_late,
    read_signs,
    stack_of,
    stack_path,
)


def pulse(run_dir: Path, *, rank: int = 0, stall_seconds: float | None = None) -> Pulse:
    return Pulse(run_dir, rank=rank, world_size=2, device=torch.device("cpu"), stall_seconds=stall_seconds)


def wait_for(what, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)


def test_what_a_rank_is_doing_is_on_disk_while_it_does_it(tmp_path: Path) -> None:
    with pulse(tmp_path) as mine:
        (sign,) = read_signs(tmp_path)
        assert (sign.phase, sign.step, sign.entered) == ("starting", 0, 0)
        mine.enter("waiting for data", 7)
        mine.enter("forward", 7)
        wait_for(lambda: read_signs(tmp_path)[0].phase == "forward")
        (sign,) = read_signs(tmp_path)
        assert (sign.rank, sign.step, sign.entered) == (0, 7, 2)
        assert sign.since <= sign.time
        assert str(sign) == f"rank 0 on {sign.node} (pid {sign.pid})"
    assert read_signs(tmp_path)[0].phase == "ended"
    assert not any(thread.name == "pulse" for thread in threading.enumerate())


def test_an_error_leaves_the_phase_that_it_came_in(tmp_path: Path) -> None:
    def work() -> None:
        with pulse(tmp_path) as mine:
            mine.enter("backward", 3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert read_signs(tmp_path)[0].phase == "backward"
    clear(tmp_path)
    assert read_signs(tmp_path) == []


def fall_asleep_until(what) -> None:
    wait_for(what)


def test_a_phase_that_stalls_leaves_the_stack_of_the_loop(tmp_path: Path) -> None:
    other = threading.Event()
    thread = threading.Thread(target=other.wait, daemon=True)
    thread.start()
    with pulse(tmp_path, stall_seconds=1.0) as mine:
        mine.enter("forward", 0)
        fall_asleep_until(lambda: "in wait_for" in stack_of(tmp_path, 0))
        stack = stack_of(tmp_path, 0)
        assert "in fall_asleep_until" in stack and "test_pulse.py" in stack
        assert "in _work" not in stack, "other threads are in the file, and not in the answer"
        mine.enter("backward", 0)
        wait_for(lambda: stack_of(tmp_path, 0) == "")
    other.set()
    assert stack_of(tmp_path, 1) == "" == fatal_signal(tmp_path, 1)


def test_a_fatal_signal_leaves_its_name_and_the_stack(tmp_path: Path) -> None:
    code = (
        "import ctypes, sys, torch\n"
        "from pathlib import Path\n"
        "from ray_jobs.training.pulse import Pulse\n"
        "with Pulse(Path(sys.argv[1]), rank=0, world_size=2, device=torch.device('cpu'), stall_seconds=60.0):\n"
        "    ctypes.string_at(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, capture_output=True)
    assert done.returncode != 0
    assert fatal_signal(tmp_path, 0) == "Segmentation fault"
    assert "string_at" in fatal_report(tmp_path, 0)


def test_own_time_is_that_of_data_and_forward_passes(tmp_path: Path) -> None:
    mine = pulse(tmp_path)
    for phase in ("waiting for data", "preparing", "forward", "backward", "forward", "update"):
        mine.enter(phase, 0)
        time.sleep(0.02)
    waiting, computing = mine.take_own_seconds()
    assert waiting >= 0.02 and computing >= 0.04
    assert mine.take_own_seconds() == (0.0, 0.0), "it starts anew"


# ---------------------------------------------------------------- who is late


def leave(
    run_dir: Path, rank: int, *, entered: int, age: float = 0.0, world_size: int = 3, stack: str = "", fatal: str = ""
) -> Sign:
    now = 1_000_000.0
    sign = Sign(
        rank=rank,
        world_size=world_size,
        node=f"node-{rank}",
        pid=100 + rank,
        step=4,
        phase="update",
        since=now - 20,
        time=now - age,
        entered=entered,
        oom_kills=0,
    )
    path = Sign.path(run_dir, rank)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(sign)))
    stack_path(run_dir, rank).write_text(stack)
    fatal_path(run_dir, rank).write_text(fatal)
    return sign


WAITS = '  File "/lib/torch/distributed/distributed_c10d.py", line 9, in all_reduce'
SLEEPS = '  File "model.py", line 1, in forward'


def test_the_rank_that_has_come_least_far_is_late(tmp_path: Path) -> None:
    signs = [leave(tmp_path, rank, entered=30 - (rank == 1)) for rank in range(3)]
    late = find_late(tmp_path)
    assert late == signs[1]
    assert "rank 1 on node-1 (pid 101), 4 steps done, was in phase 'update' for 20 s" in describe_late(tmp_path, late)


def test_two_ranks_that_lag_are_not_told_apart_by_their_place(tmp_path: Path) -> None:
    for rank in range(3):
        leave(tmp_path, rank, entered=30 - (rank > 0))
    assert find_late(tmp_path) is None


def test_in_the_same_phase_the_silent_one_is_late(tmp_path: Path) -> None:
    signs = [leave(tmp_path, rank, entered=30, age=SILENT_SECONDS + 1 if rank == 2 else 0.0) for rank in range(3)]
    assert find_late(tmp_path) == signs[2]
    assert "gives no sign of life" in describe_late(tmp_path, signs[2])


def test_in_the_same_phase_the_one_whose_stack_is_outside_of_collectives_is_late(tmp_path: Path) -> None:
    signs = [leave(tmp_path, rank, entered=30, stack=SLEEPS if rank == 0 else WAITS) for rank in range(3)]
    assert find_late(tmp_path) == signs[0]
    leave(tmp_path, 0, entered=30, stack=WAITS)
    assert find_late(tmp_path) is None, "all wait: for the network"


def test_signs_of_ranks_that_are_no_more_do_not_count(tmp_path: Path) -> None:
    leave(tmp_path, 2, entered=1, age=900.0)
    kept = [leave(tmp_path, rank, entered=30 + rank, world_size=2) for rank in range(2)]
    Sign.path(tmp_path, 3).write_text('{"rank": 3, ')
    assert read_signs(tmp_path) == kept
    assert find_late(tmp_path) == replace(kept[0])
