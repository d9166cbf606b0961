"""One line that tells how a run goes.

Rank 0 writes ``progress.json`` into the run's folder; whoever started the run reads it there and shows it. The folder is
shared storage anyway, since checkpoints go there, so no channel through Ray is needed.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.status import Status

PROGRESS = "progress.json"
PLAIN_SECONDS = 10.0
"""Where the output is no terminal, a line comes this often."""
QUIET_SECONDS = 20.0
ENDED = ("stopped", "done")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands, for people."""

    step: int
    steps: int
    phase: str
    """``starting``, ``training``, ``saving``, ``evaluating``, ``stopped`` or ``done``."""
    time: float
    """When this was written, in seconds since 1970."""
    resumed_from: int = 0
    """Step of the checkpoint this start went on from; 0 for none."""
    loss: float | None = None
    psnr: float | None = None
    images_per_second: float | None = None
    seconds_left: float | None = None
    wait_fraction: float | None = None
    """Share of the time spent waiting for data."""

    def line(self, *, now: float | None = None) -> str:
        """As one line of text; ``now`` lets it say that nothing was heard for a while."""
        parts = [f"step {self.step}/{self.steps}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if self.psnr is not None:
            parts.append(f"psnr {self.psnr:.2f}")
        if self.images_per_second is not None:
            parts.append(f"{self.images_per_second:.1f} images/s")
        if self.wait_fraction is not None:
            parts.append(f"waiting for data {self.wait_fraction:.0%}")
        if self.seconds_left is not None and self.phase not in ENDED:
            parts.append(f"{_duration(self.seconds_left)} left")
        if self.resumed_from:
            parts.append(f"resumed from {self.resumed_from}")
        if self.phase != "training":
            parts.append(self.phase)
        if now is not None and self.phase not in ENDED and now - self.time > QUIET_SECONDS:
            parts.append(f"no news for {now - self.time:.0f} s: a slow step, or workers that start again")
        return " · ".join(parts)


def write_progress(run_dir: Path, progress: Progress) -> None:
    """Replace the run's ``progress.json`` in one move."""
    temporary = run_dir / (PROGRESS + ".tmp")
    temporary.write_text(json.dumps(asdict(progress)), encoding="utf-8")
    temporary.replace(run_dir / PROGRESS)


def read_progress(run_dir: Path) -> Progress | None:
    """What ``write_progress`` wrote last, if anything that can be read."""
    try:
        return Progress(**json.loads((run_dir / PROGRESS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


class ProgressView:
    """Shows a run's progress from a thread while a ``with`` block runs.

    Args:
        messages: gives what else there is to be shown, each line once.
    """

    def __init__(
        self,
        run_dir: Path,
        console: Console,
        *,
        poll_seconds: float = 0.5,
        messages: Callable[[], list[str]] = list,
    ) -> None:
        self._run_dir, self._console, self._poll, self._messages = run_dir, console, poll_seconds, messages
        self._since = time.time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> ProgressView:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _watch(self) -> None:
        status = self._console.status("starting workers") if self._console.is_terminal else None
        if status:
            status.start()
        shown: tuple[int, str] | None = None
        last_line = 0.0
        while True:
            stopping = self._stop.wait(self._poll)
            for message in self._messages():
                self._console.print(message, markup=False)
            now = read_progress(self._run_dir)
            if now is not None and now.time >= self._since:
                shown, last_line = self._show(now, status, shown, last_line, final=stopping)
            if stopping:
                break
        if status:
            status.stop()

    def _show(
        self, now: Progress, status: Status | None, shown: tuple[int, str] | None, last_line: float, *, final: bool
    ) -> tuple[tuple[int, str] | None, float]:
        key = (now.step, now.phase)
        if status:
            status.update(now.line(now=time.time()))
        due = time.monotonic() - last_line >= PLAIN_SECONDS
        if key != shown and ((final) or (status is None and due)):
            self._console.print(now.line())
            return key, time.monotonic()
        return shown, last_line


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
