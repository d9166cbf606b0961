"""Processes that this one starts, and that end when it says so."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Let processes that are started in the block never hear of Ctrl-C, which a terminal sends to them as well.

    They are this process's to end. A handler of their own would come too late: after imports of seconds, in which each would
    show where Python was.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
