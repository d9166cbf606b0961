"""Signs of life: what each rank is doing, left in the run's folder, so that one that hangs or lags can be named.

The loop only says which phase it enters, which costs a microsecond. A thread writes it down at most twice a second, and at
least every ``IDLE_SECONDS`` so that a process that has stopped can be told from one that waits. If a phase takes long,
it writes the loop's stack beside it. (It does so itself, under Python's lock: ``faulthandler.dump_traceback_later`` reads the
frames of threads that run on meanwhile, and has crashed healthy processes here.)
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple

import torch

from ray_jobs.training.memory import oom_kills
from ray_jobs.training.signs import IDLE_SECONDS, Phase, Sign, fatal_path, stack_path

WRITE_SECONDS = 0.5


class _Now(NamedTuple):
    """What changes in a sign."""

    step: int
    phase: Phase
    since: float
    entered: int


class Pulse:
    """This rank's sign of life and stopwatch; a context manager around the loop.

    Args:
        run_dir: folder of the run, which all ranks share.
        device: what the forward passes run on; on a GPU its own clock measures them, without waiting for it.
        stall_seconds: a phase that takes longer leaves the stack of the thread that entered this; ``None`` for never, and then
            fatal signals leave nothing either.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        rank: int,
        world_size: int,
        device: torch.device,
        stall_seconds: float | None,
    ) -> None:
        self._path, self._stack_path = Sign.path(run_dir, rank), stack_path(run_dir, rank)
        self._fatal_path = fatal_path(run_dir, rank)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        now = time.time()
        self._sign = Sign(
            rank=rank,
            world_size=world_size,
            node=socket.gethostname(),
            pid=os.getpid(),
            step=0,
            phase="starting",
            since=now,
            time=now,
            entered=0,
            oom_kills=oom_kills(),
        )
        self._now = _Now(0, "starting", now, 0)
        self._stall_seconds = stall_seconds
        self._fatal: IO[str] | None = None
        self._loop_thread = 0
        self._enabled_before = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="pulse", daemon=True)
        self._uses_events = device.type == "cuda"
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._began = time.perf_counter()
        self._seconds = {"waiting for data": 0.0, "forward": 0.0}

    def __enter__(self) -> Pulse:
        self._loop_thread = threading.get_ident()  # under Ray it is not the process's main thread
        self._stack_path.unlink(missing_ok=True)  # of an earlier start
        if self._stall_seconds is not None:
            self._fatal = self._fatal_path.open("w", encoding="utf-8")
            self._enabled_before = faulthandler.is_enabled()
            faulthandler.enable(self._fatal, all_threads=False)  # a fatal signal leaves its name and the stack there
        self._write(self._now)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        if self._fatal is not None:
            if self._enabled_before and sys.__stderr__ is not None:
                faulthandler.enable(sys.__stderr__)
            else:
                faulthandler.disable()
            self._fatal.close()
        if kind is None:
            self._now = _Now(self._now.step, "ended", time.time(), self._now.entered + 1)
        self._write(self._now)

    @property
    def step(self) -> int:
        """Optimizer steps that are done."""
        return self._now.step

    @property
    def phase(self) -> Phase:
        """What this rank is doing."""
        return self._now.phase

    def enter(self, phase: Phase, step: int) -> None:
        """Say what comes next, with ``step`` optimizer steps done."""
        now = time.perf_counter()
        before = self._now.phase
        if before in self._seconds and not (self._uses_events and before == "forward"):
            self._seconds[before] += now - self._began
        if self._uses_events and before == "forward":
            self._events[-1][1].record()
        if self._uses_events and phase == "forward":
            self._events.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
            self._events[-1][0].record()
        self._began = now
        self._now = _Now(step, phase, time.time(), self._now.entered + 1)  # in one piece: the thread reads it

    def take_own_seconds(self) -> tuple[float, float]:
        """Seconds that this rank has waited for data and computed forward since the last call.

        They are this rank's own: what follows contains waiting for other ranks, who all have to be there for the sum of
        gradients. (Under ZeRO-3 the forward pass has some of it too.)
        """
        done = [pair for pair in self._events if pair[1].query()]
        self._events = self._events[len(done) :]
        self._seconds["forward"] += sum(begin.elapsed_time(end) for begin, end in done) / 1e3
        own = self._seconds["waiting for data"], self._seconds["forward"]
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        return own

    # ---------------------------------------------------------------- the thread

    def _work(self) -> None:
        written, last, told = self._now, time.monotonic(), False
        while not self._ended.wait(WRITE_SECONDS):
            now = self._now
            if now != written and told:
                self._stack_path.unlink(missing_ok=True)
                told = False
            if self._stall_seconds is not None and not told and time.time() - now.since > self._stall_seconds:
                self._write_stack()
                told = True
            if now != written or time.monotonic() - last >= IDLE_SECONDS:
                self._write(now)
                written, last = now, time.monotonic()

    def _write(self, now: _Now) -> None:
        sign = replace(self._sign, **now._asdict(), time=time.time())
        temporary = self._path.with_suffix(".tmp")
        with suppress(OSError):  # a full disk is for what must be written to complain about
            temporary.write_text(json.dumps(asdict(sign)), encoding="utf-8")
            temporary.replace(self._path)

    def _write_stack(self) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        if frame is not None:
            with suppress(OSError):
                self._stack_path.write_text("".join(traceback.format_stack(frame)), encoding="utf-8")
