"""Ctrl-C: one line and the exit code that shells have for it, from a command's first import on."""

from __future__ import annotations

import atexit
import os
import sys
from types import TracebackType

EXIT_INTERRUPTED = 130
_told: list[bool] = []


def is_starting() -> bool:
    """Whether ``python -m`` is looking for its module yet, and everything it imports still comes."""
    return sys.argv[:1] == ["-m"]


def end_plainly() -> None:
    """Let Ctrl-C end this process in a line, until ``launch.run`` takes over: there is nothing to save in the seconds before.

    Other exceptions keep their traceback. After an interrupt that ``launch.run`` has told, the exit code is that, too, whatever
    threads of Ray still do: they have crashed Python in its last moments.
    """
    sys.excepthook = _tell
    atexit.register(_leave)  # the first to be registered is the last to be called, when Ray has ended


def note_told() -> None:
    """An interrupt was told to the user, and nothing is left to do."""
    _told.append(True)


def led_to(error: BaseException | None) -> bool:
    """Whether a Ctrl-C led to this: to some libraries, an import that was interrupted is an ``ImportError``."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not led_to(error):
        sys.__excepthook__(kind, error, trace)
        return
    sys.stderr.write("Interrupted.\n")
    note_told()
    _leave()  # Python itself would end by the signal


def _leave() -> None:
    if _told:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_INTERRUPTED)
