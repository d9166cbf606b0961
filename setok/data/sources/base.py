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
from setok.data.schema import IMAGE_SLOT, MASK_SLOT, Record
from setok.errors import ConfigError, DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
MAX_CHARACTERS = 100_000
"""A caption, turn or answer of this length or more goes to quarantine: it is a fault of the collector, or a book.

Nothing is cut, because a cut answer teaches to stop in the middle.
"""


@dataclass(frozen=True, kw_only=True)
class BadRecord:
    """A record that cannot be used; the part of ``reason`` before ``:`` is its kind, by which they are counted."""

    id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A file or folder that must be on disk."""

    path: str
    """Relative to the source's root; a folder ends in ``/``; with ``*``, at least one file must match."""
    origin: str
    """Where to get it."""

    def is_met(self, root: Path) -> bool:
        """Whether it is there."""
        if "*" in self.path:
            return next(root.glob(self.path), None) is not None
        path = root / self.path
        return path.is_dir() if self.path.endswith("/") else path.is_file()


class Source(ABC):
    """Canonical records of one split of one data set, numbered from 0 in an order that does not change.

    Opening a source reads nothing; ``check`` looks at the disk, and the first use of ``len`` or ``records`` reads the
    annotations. Any process can open the same source and read another range of it.
    """

    name: ClassVar[str]
    has_image_files: ClassVar[bool] = True
    """Whether the pictures are files of their own, so that ``config.images`` can say where they are."""
    holds: ClassVar[tuple[str, str]] = ("images", ", ".join(IMAGE_SUFFIXES))
    """What the records are made of, and as which files, for the message that there are none."""

    def __init__(self, config: SourceConfig) -> None:
        if config.images is not None and not self.has_image_files:
            raise ConfigError(
                f"images={config.images!r}: source {self.name!r} has no folder of pictures", "leave images out"
            )
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
            if not need.is_met(self.root):
                raise DataError(
                    f"source {self.name!r}: {self.root / need.path} is missing", f"get it from {need.origin}"
                )
        if self.config.images is not None and not Path(self.config.images).is_dir():
            raise DataError(
                f"source {self.name!r}: images={self.config.images!r} is no folder",
                "give the folder that holds the pictures, or leave images out if they are below path",
            )
        if not len(self):
            what, files = self.holds
            raise DataError(
                f"source {self.name!r}: {str(self.root)!r} (split {self.config.split!r}) has no {what}",
                f"put {what} there ({files}), or correct the path of the source",
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
        """Records ``start`` to ``stop`` − 1; one whose parts do not fit together is a bad one."""
        for index in range(start, min(stop, len(self))):
            yield _checked(self._record(index))

    def _pictures(self, default: Path) -> Path:
        """The folder of the pictures: what the settings say, or where the official layout has it."""
        return Path(self.config.images) if self.config.images is not None else default


def _checked(item: Record | BadRecord) -> Record | BadRecord:
    """The record, if its slots, images, masks and texts fit together and can be stored."""
    if isinstance(item, BadRecord):
        return item
    try:
        item.check()
        _check_texts(item)
    except DataError as error:
        return BadRecord(id=item.id, reason=error.problem)
    return item


def _check_texts(record: Record) -> None:
    turns = [(f"turn {number} ({turn.role})", turn.text) for number, turn in enumerate(record.conversation, 1)]
    loose = [("the caption", record.caption), *(("an answer", answer) for answer in record.answers)]
    for what, text in turns + loose:
        if len(text) >= MAX_CHARACTERS:
            raise DataError(f"text too long: {what} has {len(text)} characters, less than {MAX_CHARACTERS} are allowed")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"text is not Unicode: {what} has half a surrogate pair at {error.start}") from error
    for what, text in loose:
        for slot in (IMAGE_SLOT, MASK_SLOT):
            if slot in text:
                raise DataError(f"stray {slot}: in {what}, where nothing can stand for it")
    for (what, text), turn in zip(turns, record.conversation, strict=True):
        if turn.role == "assistant" and not text.strip():
            raise DataError(f"empty answer: {what}")


def read_image(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        DataError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except ValueError as error:
        raise DataError(
            f"impossible file name: {path.name!r}: {error}", "correct the name in the annotations"
        ) from error
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
