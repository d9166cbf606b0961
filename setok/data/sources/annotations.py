"""Reading annotation files so that what is wrong is said with the file's name, and a bad row costs only itself."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from setok.errors import DataError


def read_json(path: Path) -> Any:
    """What a JSON file holds; it must be UTF-8.

    Raises:
        DataError: the file is missing, unreadable, cut off or not UTF-8.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing", "run the source's check first") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "look at its permissions and the disk") from error
    except ValueError as error:
        raise DataError(
            f"{path} is no valid JSON: {error}", "get the file again; the download may be cut off"
        ) from error


def read_rows(path: Path, *, origin: str) -> list[Any]:
    """The rows of a JSON file that is one list; whether each is an object is for ``text_of`` to say.

    Raises:
        DataError: as ``read_json``, or it is no list.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path} is no list of rows but {type(rows).__name__}", f"get the official file: {origin}")
    return rows


def text_of(row: Any, key: str) -> str:
    """A row's text under ``key``.

    Raises:
        DataError: the row is no object, has no such key, or has no text there.
    """
    if not isinstance(row, dict):
        raise DataError(f"row is no object: {_short(row)}", "correct or remove the row")
    if key not in row:
        raise DataError(f"missing key: {key!r}, the row has {sorted(map(str, row))}", "correct or remove the row")
    value = row[key]
    if not isinstance(value, str):
        raise DataError(f"not text: {key!r} is {_short(value)}", "correct or remove the row")
    return value


def read_text(path: Path) -> str:
    """A small text file beside a picture, its white space made single spaces.

    Raises:
        DataError: it is missing, unreadable or not UTF-8.
    """
    try:
        return one_line(path.read_bytes().decode())
    except UnicodeDecodeError as error:
        raise DataError(f"caption is not UTF-8: {path.name}", "save the caption as UTF-8") from error
    except OSError as error:
        raise DataError(
            f"unreadable file: {path.name}: {error.strerror}", "look at its permissions and the disk"
        ) from error


def one_line(text: str) -> str:
    """The text with every run of white space made one space."""
    return " ".join(text.split())


def inside(name: str) -> str:
    """A relative path that annotations name.

    Raises:
        DataError: it is empty, absolute, or leads out of its folder.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise DataError(f"image path leaves its folder: {name!r}", "correct or remove the row")
    return name


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
