"""Reads files of predictions and annotations, and says everything that is wrong with them at once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from setok.errors import DataError

SHOWN = 5
"""So many offending ids are named; the rest is counted."""
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the command was given."""

    task: str
    predictions: Path
    annotations: Path | None = None
    questions: Path | None = None
    choices: Path | None = None
    split: str | None = None
    lpips: Path | None = None
    inception: Path | None = None
    variant: str | None = None
    clip: Path | None = None
    dino: Path | None = None
    meteor: bool = False

    @property
    def truth(self) -> Path:
        """The annotations, of a task that needs some (which the command has checked)."""
        if self.annotations is None:
            raise DataError(f"task {self.task!r} needs annotations", "give --annotations")
        return self.annotations


class Complaints:
    """What is wrong with a file, gathered so that a person need not find it piece by piece."""

    def __init__(self, path: Path, given: Given, wanted: str) -> None:
        self._where = f"{path} cannot be scored as {given.task!r}"
        self._wanted = wanted
        self._problems: list[str] = []

    def add(self, problem: str, ids: Collection[str] = ()) -> None:
        """Note a problem, and which samples have it."""
        shown = ", ".join(list(ids)[:SHOWN]) + (", …" if len(ids) > SHOWN else "")
        self._problems.append(f"{problem}: {shown}" if ids else problem)

    def __bool__(self) -> bool:
        return bool(self._problems)

    def settle(self) -> None:
        """Go on if nothing was noted.

        Raises:
            DataError: something was; all of it is listed.
        """
        if self._problems:
            listed = "".join(f"\n  - {problem}" for problem in self._problems)
            raise DataError(f"{self._where}:{listed}", f"the official format is {self._wanted}")


# ---------------------------------------------------------------- reading


def read_text(path: Path) -> str:
    """What is in a text file.

    Raises:
        DataError: there is no such file, or it is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise DataError(f"{path} cannot be read: {reason}", "`score --list` shows what each task reads") from error


def read_json(path: Path) -> Any:
    """What is in a JSON file, or the list of what is on the lines of a JSON-lines file.

    Raises:
        DataError: there is no such file, it is neither, or a key comes twice in one object.
    """
    try:
        return _parsed(path, read_text(path))
    except RecursionError:
        raise DataError(f"{path} is nested too deeply", "`score --list` shows what each task reads") from None


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
        for number, line in enumerate(text.splitlines(), 1):
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


def read_rows(path: Path, complaints: Complaints) -> list[Row]:
    """The objects of a JSON list or of JSON lines; anything else is a complaint, and raised at once."""
    tree = read_json(path)
    rows = [tree] if isinstance(tree, dict) else tree
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        complaints.add(f"it is no list of objects but {_kind_of(tree)}")
        complaints.settle()
    return list(rows)


def read_object(path: Path, what: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DataError: the file holds something else.
    """
    tree = read_json(path)
    if not isinstance(tree, dict):
        raise DataError(f"{path} is no JSON object but {_kind_of(tree)}", f"give {what}")
    return tree


def section(path: Path, name: str, what: str) -> list[Row]:
    """The list of objects under a key of an annotation file, as COCO, VQA and TextVQA have it.

    Raises:
        DataError: the file has no such list.
    """
    rows = read_object(path, what).get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} has no list {name!r}", f"give {what}")
    return rows


def _kind_of(tree: Any) -> str:
    if isinstance(tree, dict):
        return f"an object with {', '.join(sorted(map(str, tree))[:SHOWN])}"
    if isinstance(tree, list) and tree:
        other = next((type(row).__name__ for row in tree if not isinstance(row, dict)), "objects")
        return f"a list of {other}"
    return type(tree).__name__


# ---------------------------------------------------------------- ids


def by_id(rows: Sequence[Row], key: str, texts: Iterable[str], complaints: Complaints) -> dict[str, Row]:
    """Predictions by their id, as text; rows without an id or a text, and ids that come twice, are complaints.

    Args:
        key: the field with the id.
        texts: fields that must hold text.
    """
    needed = (key, *texts)
    lacking = [i for i, row in enumerate(rows, 1) if any(name not in row for name in needed)]
    if lacking:
        has = ", ".join(sorted(rows[lacking[0] - 1])[:8])
        complaints.add(
            f"{len(lacking)} row(s) without {' and '.join(needed)} (the first has {has})", [f"row {i}" for i in lacking]
        )
        complaints.settle()
    ids = [str(row[key]) for row in rows]
    for name in texts:
        wrong = [sample for sample, row in zip(ids, rows, strict=True) if not isinstance(row[name], str)]
        if wrong:
            complaints.add(f"{len(wrong)} {name}(s) that are no text", wrong)
    twice = [sample for sample, count in Counter(ids).items() if count > 1]
    if twice:
        complaints.add(f"{len(twice)} duplicate {key}(s)", twice)
    return dict(zip(ids, rows, strict=True))


def compare_ids(
    found: Iterable[str], expected: Collection[str], complaints: Complaints, *, known: Collection[str] | None = None
) -> None:
    """Ids that lack a prediction, and predictions for what was not asked, are complaints.

    Args:
        known: ids that may have a prediction and need none, beside ``expected``.
    """
    found = dict.fromkeys(found)
    missing = [sample for sample in expected if sample not in found]
    allowed = set(expected) | set(known or ())
    extra = [sample for sample in found if sample not in allowed]
    if missing:
        complaints.add(f"{len(missing)} of {len(expected)} missing", missing)
    if extra:
        complaints.add(f"{len(extra)} that the annotations do not have", extra)


def checked(path: Path, what: str, build: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Annotations as ``build`` reads them; a field that is missing is told with the file's name.

    Raises:
        DataError: the annotations are not in the format.
    """
    try:
        found = build()
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(f"{path} is not in the format of {what}: {error!r}", f"give {what}") from error
    if not found:
        raise DataError(f"{path} has no annotation to score against", f"give {what}")
    return found
