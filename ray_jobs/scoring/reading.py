"""Text and JSON from files: UTF-8 with or without a byte order mark, plain or packed by gzip, one document or a line each."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from setok.errors import DataError

SHOWN = 5
"""So many offending ids are named; the rest is counted."""
ALWAYS_UNPACKED = 64 * 2**20
"""Bytes that any packed file may hold."""
MOST_TIMES = 100
"""How many times its own size a packed file may hold beyond that. Annotations hold some 20 times it, a bomb 1000 times."""
_GZIP = b"\x1f\x8b"
_LOOK = "`score --list` shows what each task reads"


def read_text(path: Path) -> str:
    """What is in a text file, which may be packed by gzip, whatever it is called.

    Raises:
        DataError: there is no such file, it is no UTF-8, or its packing is broken or holds far more than files of this kind.
    """
    try:
        data = path.read_bytes()
        return (_unpacked(path, data) if data.startswith(_GZIP) else data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read: it is no text", _LOOK) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} cannot be read: it is packed by gzip, and damaged", "copy it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", _LOOK) from error


def _unpacked(path: Path, data: bytes) -> bytes:
    limit = max(ALWAYS_UNPACKED, MOST_TIMES * len(data))
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        found = file.read(limit + 1)
    if len(found) > limit:
        raise DataError(
            f"{path} holds more than {MOST_TIMES} times its own size, packed by gzip",
            "unpack it first if that is right",
        )
    return found


def read_json(path: Path) -> Any:
    """What is in a JSON file, or the list of what is on the lines of a JSON-lines file.

    Raises:
        DataError: there is no such file, it is neither, or a key comes twice in one object.
    """
    try:
        return _parsed(path, read_text(path))
    except RecursionError:
        raise DataError(f"{path} is nested too deeply", _LOOK) from None


def _parsed(path: Path, text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):  # Python would keep the last one, and say nothing
            twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
            named = ", ".join(twice[:SHOWN]) + (", …" if len(twice) > SHOWN else "")
            raise DataError(f"{path}: {len(twice)} duplicate key(s): {named}", "give each key once")
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as whole:
        rows = []
        for number, line in enumerate(text.split("\n"), 1):  # splitlines would also part texts at marks such as U+2028
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line, object_pairs_hook=unique))
            except json.JSONDecodeError as error:
                wrong = whole if number == 1 else error
                raise DataError(
                    f"{path} is neither JSON nor JSON lines: line {number}: {wrong.msg}", "look at that line"
                ) from error
        return rows
