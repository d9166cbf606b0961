"""Rows of annotation files: lists of them, what is in them, and in words what is wrong with one."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from setok.data.sources.annotations import one_line, read_json, text_of
from setok.errors import ConfigError, DataError, did_you_mean

ROW_ERRORS = (DataError, KeyError, TypeError, ValueError, AttributeError, IndexError)
"""What reading a damaged row may raise; ``problem_of`` says it in words."""
_REMEDY = "get the file again; the download may be cut off"


def read_json_lines(path: Path) -> list[Any]:
    """The values of a file with one JSON value on each line; empty lines are passed over.

    Raises:
        DataError: it is missing, or a line, which is named, is no valid JSON.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing", "run the source's check first") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                rows.append(json.loads(line))
        except ValueError as error:
            raise DataError(f"{path}, line {number}, is no valid JSON: {error}", _REMEDY) from error
    return rows


def rows_of(path: Path, key: str | None = None) -> list[Any]:
    """The list that a JSON file is, or has under ``key``.

    Raises:
        DataError: as ``read_json``, or there is no list.
    """
    tree = read_json(path)
    rows = tree.get(key) if key is not None and isinstance(tree, Mapping) else tree
    if not isinstance(rows, list):
        raise DataError(f"{path} has no list" + (f" {key!r}" if key else ""), "get the official file")
    return rows


def words(row: Any, key: str) -> str:
    """The text that a row has under ``key``, on one line.

    Raises:
        DataError: there is none, or it is empty.
    """
    text = one_line(text_of(row, key))
    if not text:
        raise DataError(f"empty text: {key!r}", "correct the row, or leave it out")
    return text


def answers_of(values: Iterable[Any]) -> tuple[str, ...]:
    """Answers as texts on one line, the empty ones left out; equal ones are one object, since millions are alike."""
    texts = (one_line(str(value)) for value in values)
    return tuple(sys.intern(text) for text in texts if text)


def problem_of(error: Exception) -> str:
    """What is wrong with a row, given what reading it raised; the part before ``:`` is the kind."""
    if isinstance(error, DataError):
        return error.problem
    if isinstance(error, KeyError):
        return f"missing key: {error.args[0]!r}"
    return f"damaged row: {error}"


def known_split(source: str, split: str, splits: Collection[str]) -> str:
    """``split``, if it is one of ``splits``.

    Raises:
        ConfigError: it is not.
    """
    if split not in splits:
        raise ConfigError(f"{source} has no split {split!r}", did_you_mean(split, splits))
    return split
