"""Ctrl-C: one line and the exit code that shells have for it, from a command's first import on."""

from __future__ import annotations

import os
import sys
from types import TracebackType

EXIT_INTERRUPTED = 130


def is_starting() -> bool:
    """Whether ``python -m`` is looking for its module yet, and everything it imports still comes."""
    return sys.argv[:1] == ["-m"]


def end_imports_plainly() -> None:
    """Let Ctrl-C end this process in a line, until ``launch.run`` takes over: there is nothing to save in the seconds before.

    Other exceptions keep their traceback.
    """
    sys.excepthook = _tell


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
    sys.stderr.flush()
    os._exit(EXIT_INTERRUPTED)  # Python itself would end by the signal
