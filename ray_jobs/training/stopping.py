"""How a run is asked to stop: the file ``stop`` in its folder, which the driver leaves when it gets a signal.

A person may do the same: ``touch runs/NAME/stop``.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from ray_jobs.launch import Stopped, error_console

STOP = "stop"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def is_asked_to_stop(run_dir: Path) -> bool:
    """Whether somebody wants the run to stop."""
    return (run_dir / STOP).exists()


def forget_request(run_dir: Path) -> None:
    """Let the run start, whatever was asked of it before."""
    (run_dir / STOP).unlink(missing_ok=True)


@contextlib.contextmanager
def stop_on_signal(run_dir: Path) -> Iterator[None]:
    """Make the first SIGTERM or Ctrl-C ask the run to save and stop; the second ends this process at once.

    Signals stay as they are outside of the main thread, where Python allows no other.

    Raises:
        Stopped: at the end of the block, if it was left because a stop was asked for; the caller checks that the run had
            not come to its end anyway.
    """
    received: list[int] = []

    def on_signal(number: int, _: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        (run_dir / STOP).touch()
        name = signal.Signals(number).name
        error_console().print(f"{name}: stopping, after a save where a step is running. Once more to end at once.")

    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, on_signal) for number in _SIGNALS if here}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if is_asked_to_stop(run_dir):
        raise Stopped(run_dir, signal.SIGINT if received == [signal.SIGINT] else signal.SIGTERM)
