"""Pickles of plain data, read without running anything that is in them.

A pickle is a program: it may name any importable function and have it called. Old annotation files (``refs(unc).p`` of
REFER, written by Python 2) are pickles all the same, of nothing but lists, dictionaries, numbers and text. So everything
that would reach beyond those is refused: names of classes and functions (GLOBAL, STACK_GLOBAL, INST), persistent ids,
and extension codes. Without one of them nothing callable can get onto the stack, and REDUCE, OBJ, NEWOBJ and BUILD have
nothing to work on.

What remains: None, bool, int, float, str, list, tuple and dict in every protocol, bytes from protocol 3 on, set and
frozenset from 4 on, bytearray from 5 on; before those, pickle itself writes them as calls of a function.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

from setok.errors import DataError

MAX_BYTES = 2**30
"""Far more than any published file of references has."""
_EXTENSIONS = {"EXT1": b"\x82", "EXT2": b"\x83", "EXT4": b"\x84"}
_DAMAGED = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError),
    *(OverflowError, RecursionError, MemoryError),
)
_REMEDY = "get the file from the data set's own page; write your own files as JSON"


class _PlainUnpickler(pickle.Unpickler):
    """Finds no class and no persistent object."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise DataError(f"pickle refused: it names {module_name}.{global_name}, which is not plain data", _REMEDY)

    def persistent_load(self, pid: Any) -> Any:
        raise DataError(f"pickle refused: it has the persistent id {str(pid)[:80]!r}, which is not plain data", _REMEDY)


def load(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """The plain data in a pickle file; see ``loads``.

    Raises:
        DataError: as ``loads``, and when the file is missing or larger than ``max_bytes``; the path is named.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise DataError(f"pickle refused: {size} bytes, at most {max_bytes} are read", _REMEDY)
        return loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "look at the path and its permissions") from error
    except DataError as error:
        raise DataError(f"{path}: {error.problem}", error.remedy) from error


def loads(data: bytes) -> Any:
    """The plain data in a pickle. Byte strings of Python 2 become text: UTF-8 where all of them are, else Latin-1.

    Raises:
        DataError: it holds something else than plain data, which is named and was not touched; or it is damaged.
    """
    _refuse_extensions(data)
    try:
        return _unpickle(data, encoding="utf-8")
    except UnicodeDecodeError:
        return _unpickle(data, encoding="latin-1")


def _unpickle(data: bytes, *, encoding: str) -> Any:
    try:
        return _PlainUnpickler(io.BytesIO(data), encoding=encoding).load()
    except UnicodeDecodeError:
        raise
    except _DAMAGED as error:
        raise DataError(f"pickle is damaged: {error or type(error).__name__}", _REMEDY) from error


def _refuse_extensions(data: bytes) -> None:
    """Extension codes bypass ``find_class`` when the process has used them before, so they are looked for by opcode.

    Telling opcodes from text takes seconds per 10 MB; a file without these bytes anywhere, as REFER's, need not be walked.
    """
    if not any(code in data for code in _EXTENSIONS.values()):
        return
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in _EXTENSIONS:
                raise DataError(f"pickle refused: it has the extension code {argument}, not plain data", _REMEDY)
    except _DAMAGED as error:
        raise DataError(f"pickle is damaged: {error or type(error).__name__}", _REMEDY) from error
