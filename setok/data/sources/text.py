"""Plain text to go on learning language from: a document on each line.

    ROOT/**/*.jsonl   {"text": "…", "id": …} on each line; ``id`` may be left out
    ROOT/**/*.txt     the document itself on each line

or the same compressed, ending in ``.gz`` or ``.zst``. ``path`` is a folder or one such file; ``split`` is not used. Empty
lines are passed over. Where the lines begin is found once in each process, 16 bytes for each; a line is read when it is
asked for. Going back in a compressed file means reading it again from its beginning. A document longer than
``MAX_CHARACTERS`` goes to quarantine: put its parts on lines of their own.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from setok.config import SourceConfig
from setok.data.schema import Record
from setok.data.sources.annotations import text_of
from setok.data.sources.base import BadRecord, Requirement, Source
from setok.errors import DataError

SUFFIXES = tuple(kind + packed for kind in (".jsonl", ".txt") for packed in ("", ".gz", ".zst"))
MAX_LINE_BYTES = 2**24
"""A longer line is not read."""
_CHUNK = 2**20


class TextSource(Source):
    """Documents without pictures; the text is the record's ``caption``."""

    name: ClassVar[str] = "text"
    has_image_files: ClassVar[bool] = False
    holds: ClassVar[tuple[str, str]] = ("lines of text", ".jsonl or .txt, also with .gz or .zst")

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._file = self.root.name if self.root.name.endswith(SUFFIXES) else ""
        self.root = self.root.parent if self._file else self.root

    @property
    def requirements(self) -> list[Requirement]:
        return [Requirement(path=self._file, origin="where the text comes from")] if self._file else []

    @cached_property
    def _paths(self) -> list[Path]:
        found = [self.root / self._file] if self._file else self.root.rglob("*")
        return sorted(
            path for path in found if path.name.endswith(SUFFIXES) and not path.name.startswith(".") and path.is_file()
        )

    def _files(self) -> Iterable[Path]:
        return self._paths

    @cached_property
    def _lines(self) -> list[Int64[np.ndarray, "lines 2"]]:
        return [line_spans(path) for path in self._paths]

    @cached_property
    def _ends(self) -> list[int]:
        return np.cumsum([len(lines) for lines in self._lines], dtype=np.int64).tolist()

    @cached_property
    def _readers(self) -> dict[Path, _Reader]:
        return {}

    def _count(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _record(self, index: int) -> Record | BadRecord:
        number = bisect.bisect_right(self._ends, index)
        path = self._paths[number]
        place = index - (self._ends[number - 1] if number else 0)
        file = path.relative_to(self.root).as_posix()
        record_id = f"text/{file}/{place}"
        try:
            text, own_id = _document(self._read(path, *self._lines[number][place].tolist()), path)
        except DataError as error:
            return BadRecord(id=record_id, reason=error.problem)
        return Record(
            id=record_id,
            source=self.name,
            task="text",
            caption=text,
            provenance={"file": file} | ({"id": own_id} if own_id else {}),
        )

    def _read(self, path: Path, start: int, stop: int) -> bytes:
        """The bytes of a line; the file stays open for the next one, and only one file does."""
        if stop - start > MAX_LINE_BYTES:
            raise DataError(f"text too long: a line of {stop - start} bytes, {MAX_LINE_BYTES} are allowed")
        try:
            if path not in self._readers:
                self._readers.clear()
                self._readers[path] = _Reader(path)
            return self._readers[path].read(start, stop)
        except OSError as error:
            raise DataError(f"unreadable file: {path.name}: {error}", "look at its permissions and the disk") from error


def line_spans(path: Path) -> Int64[np.ndarray, "lines 2"]:
    """First byte of every line of a (decompressed) file that is not empty, and the byte after its last.

    Raises:
        DataError: the file cannot be read or decompressed.
    """
    newlines, returns, position, before = [], [], 0, b"\n"
    for chunk in _chunks(path):
        found = np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n"))
        newlines.append(found + position)
        returns.append(np.frombuffer(before[-1:] + chunk, np.uint8)[found] == ord("\r"))
        position, before = position + len(chunk), chunk
    ends = np.concatenate([*newlines, [position]]).astype(np.int64)
    starts = np.concatenate([[0], ends[:-1] + 1])
    ends -= np.concatenate([*returns, [False]])
    return np.stack([starts, ends], axis=1)[ends > starts]


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}", "get the file again; the download may be cut off") from error


class _Reader:
    """One file, open: spans of it, cheaply in rising order."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_packed = path.suffix in (".gz", ".zst")
        self._open()

    def _open(self) -> None:
        self._stream = pa.input_stream(str(self._path), compression="detect")
        self._position = 0

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` − 1 of the decompressed file."""
        if not self._is_packed:
            self._stream.seek(start)
        else:
            if start < self._position:
                self._open()
            while self._position < start:
                self._take(min(_CHUNK, start - self._position))
        return self._take(stop - start)

    def _take(self, size: int) -> bytes:
        data: bytes = self._stream.read(size)
        self._position += len(data)
        if len(data) < size:
            raise DataError(f"{self._path} has become shorter while it was read", "start again when it is whole")
        return data


def _document(line: bytes, path: Path) -> tuple[str, str]:
    """A line's text and id, which may be empty."""
    try:
        text = line.decode("utf-8-sig")
        row: Any = json.loads(text) if ".jsonl" in path.suffixes else {"text": text}
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error.reason} at byte {error.start} of the line") from error
    except ValueError as error:
        raise DataError(f"no valid JSON: {error}") from error
    text = text_of(row, "text")
    if not text.strip():
        raise DataError("empty text: nothing but white space")
    return text, str(row.get("id", ""))
