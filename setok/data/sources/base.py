"""What ingest needs of a data set in its official layout."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from setok.config import SourceConfig
from setok.data.schema import Record
from setok.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


@dataclass(frozen=True, kw_only=True)
class BadRecord:
    """A record that cannot be used; the part of ``reason`` before ``:`` is its kind, by which they are counted."""

    id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A file or folder that must be on disk."""

    path: str
    """Relative to the source's root; a folder ends in ``/``."""
    origin: str
    """Where to get it."""


class Source(ABC):
    """Canonical records of one split of one data set, numbered from 0 in an order that does not change.

    Opening a source reads nothing; ``check`` looks at the disk, and the first use of ``len`` or ``records`` reads the
    annotations. Any process can open the same source and read another range of it.
    """

    name: ClassVar[str]

    def __init__(self, config: SourceConfig) -> None:
        self.config = config
        self.root = Path(config.path)

    @property
    @abstractmethod
    def requirements(self) -> list[Requirement]:
        """What must be on disk for this split."""

    @abstractmethod
    def _count(self) -> int:
        """Records of the split, bad ones included."""

    @abstractmethod
    def _record(self, index: int) -> Record | BadRecord:
        """One record."""

    @abstractmethod
    def _files(self) -> Iterable[Path]:
        """Files and folders whose state decides what the records are."""

    def check(self) -> None:
        """Look whether everything needed is there.

        Raises:
            DataError: naming the first thing that is missing and where to get it, or saying that there are no images.
        """
        if not self.root.is_dir():
            needs = "; ".join(f"{need.path} ({need.origin})" for need in self.requirements)
            raise DataError(
                f"source {self.name!r}: folder {str(self.root)!r} does not exist",
                "correct the path of the source" + (f", or put there: {needs}" if needs else ""),
            )
        for need in self.requirements:
            path = self.root / need.path
            if not (path.is_dir() if need.path.endswith("/") else path.is_file()):
                raise DataError(f"source {self.name!r}: {path} is missing", f"get it from {need.origin}")
        if not len(self):
            raise DataError(
                f"source {self.name!r}: {str(self.root)!r} (split {self.config.split!r}) has no images",
                f"put images there ({', '.join(IMAGE_SUFFIXES)}), or correct the path of the source",
            )

    def fingerprint(self) -> str:
        """Changes when a file of the source is added, removed, resized or written again."""
        digest = hashlib.sha256()
        for path in self._files():
            if path.is_dir():
                with os.scandir(path) as entries:
                    states = sorted((entry.name, _state(entry.stat())) for entry in entries if entry.is_file())
            else:
                states = [(path.name, _state(path.stat()))] if path.exists() else []
            digest.update(repr((os.path.relpath(path, self.root), states)).encode())
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        count = self._count()
        return count if self.config.limit is None else min(count, self.config.limit)

    def records(self, start: int, stop: int) -> Iterator[Record | BadRecord]:
        """Records ``start`` to ``stop`` − 1."""
        for index in range(start, min(stop, len(self))):
            yield self._record(index)


def read_image(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        DataError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"image file missing: {path.name}", "get the file, or leave the record out") from error
    except OSError as error:
        raise DataError(
            f"unreadable file: {path.name}: {error.strerror}", "look at its permissions and the disk"
        ) from error


def is_image(name: str) -> bool:
    """Whether a file name is that of a picture; names that start with a dot are not."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def _state(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns
