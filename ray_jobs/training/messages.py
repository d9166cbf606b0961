"""What the ranks of a run warn of, in the run's folder: a save that failed, a damaged checkpoint, an update left out.

Ray keeps the output of its processes in files of its own, where nobody looks. So every rank adds its warnings to
``messages/rankN.log`` as well, and whoever started the run shows what is new there.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

FOLDER = "messages"
MOST_BYTES = 2**20
"""A rank's file grows no further: who warns that often has said it."""
_LOGGERS = ("setok", "ray_jobs")


@contextlib.contextmanager
def warnings_kept(run_dir: Path, rank: int) -> Iterator[None]:
    """Add the project's warnings of this process to the rank's file, while the block runs."""
    file = run_dir / FOLDER / f"rank{rank}.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = _Bounded(file, encoding="utf-8", delay=True)
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    handler.setLevel(logging.WARNING)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for one in loggers:
        one.addHandler(handler)
    try:
        yield
    finally:
        for one in loggers:
            one.removeHandler(handler)
        handler.close()


class Messages:
    """Reads what ranks have added since the last look; what was there before the first counts as known."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / FOLDER
        self._read = {file: file.stat().st_size for file in self._files()}

    def new(self) -> list[str]:
        """Whole lines that have come, those of rank 0 first, each with its rank."""
        found = []
        for file in self._files():
            with contextlib.suppress(OSError), file.open("rb") as stream:
                stream.seek(self._read.get(file, 0))
                whole = stream.read(MOST_BYTES).rpartition(b"\n")[0]
                self._read[file] = self._read.get(file, 0) + len(whole) + (1 if whole else 0)
                lines = whole.decode("utf-8", "replace").splitlines()
                found += [f"{file.stem.replace('rank', 'rank ')}: {line.split(' ', 2)[-1]}" for line in lines]
        return found

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("rank*.log"), key=lambda file: (len(file.name), file.name))


class _Bounded(logging.FileHandler):
    """A file that takes no more than ``MOST_BYTES``; a disk that takes nothing is no reason to stop training."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            if not Path(self.baseFilename).is_file() or Path(self.baseFilename).stat().st_size < MOST_BYTES:
                super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the name is logging's)
        """Nothing: the record is on stderr too."""


class _OneLine(logging.Formatter):
    """Every message on one line, so that a line is a message."""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(super().format(record).split())
