"""Predictions and annotations by their ids, and everything that is wrong with them at once."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_jobs.scoring.reading import SHOWN, read_json
from setok.errors import DataError

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
    problems: Path | None = None
    """Where every offending id is written, and not the first few alone."""

    @property
    def truth(self) -> Path:
        """The annotations, of a task that needs some (which the command has checked)."""
        if self.annotations is None:
            raise DataError(f"task {self.task!r} needs annotations", "give --annotations")
        return self.annotations


class Complaints:
    """What is wrong with a file, gathered so that a person need not find it piece by piece.

    Args:
        path: the file.
        wanted: the format that it should have.
        of_truth: whether it holds annotations, and not predictions.
    """

    def __init__(self, path: Path, given: Given, wanted: str, *, of_truth: bool = False) -> None:
        self._path, self._file = path, given.problems
        self._where = f"{path} cannot be {'the truth of' if of_truth else 'scored as'} {given.task!r}"
        self._remedy = f"give {wanted}" if of_truth else f"the official format is {wanted}"
        self._problems: list[tuple[str, list[str]]] = []

    def add(self, problem: str, ids: Iterable[str] = ()) -> None:
        """Note a problem, and which samples have it."""
        self._problems.append((problem, list(ids)))

    def __bool__(self) -> bool:
        return bool(self._problems)

    def settle(self) -> None:
        """Go on if nothing was noted.

        Raises:
            DataError: something was; all of it is listed.
        """
        if not self._problems:
            return
        listed = "".join(f"\n  - {problem}{_some(ids)}" for problem, ids in self._problems)
        remedy = self._remedy
        if self._file is not None:
            write_problems(self._file, self._path, self._problems)
            remedy += f"; {self._file} lists every id"
        elif any(len(ids) > SHOWN for _, ids in self._problems):
            remedy += "; --problems FILE writes down every id"
        raise DataError(f"{self._where}:{listed}", remedy)


def _some(ids: Sequence[str]) -> str:
    return ": " + ", ".join(ids[:SHOWN]) + (", …" if len(ids) > SHOWN else "") if ids else ""


def write_problems(file: Path, path: Path, problems: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Write what is wrong with a file, every id of it, as JSON; an empty list where nothing is."""
    listed = [{"file": str(path), "problem": problem, "ids": list(ids)} for problem, ids in problems]
    file.write_text(json.dumps(listed, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- reading


def read_rows(path: Path, complaints: Complaints) -> list[Row]:
    """The objects of a JSON list or of JSON lines; anything else is a complaint, and raised at once."""
    rows = read_list(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        complaints.add(f"it is no list of objects but {_kind_of(rows)}")
        complaints.settle()
    return list(rows)


def read_list(path: Path) -> Any:
    """What a file of JSON lines or with a JSON list holds; of lines there may be just one."""
    tree = read_json(path)
    return [tree] if isinstance(tree, dict) else tree


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
    if twice := _twice(ids):
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


def annotated(
    given: Given,
    what: str,
    pairs: Callable[[], Iterable[tuple[str, Any]]],
    *,
    flaw: Callable[[Any], str] = lambda _: "",
    path: Path | None = None,
) -> dict[str, Any]:
    """Annotations by their ids.

    Args:
        what: the format that the file should have.
        pairs: reads it to ids and annotations.
        flaw: why nothing can be scored against an annotation; empty where something can.
        path: the file; ``None`` means ``given.truth``.

    Raises:
        DataError: there are none, they are not in the format, ids come twice, or some have a flaw; all of it is listed.
    """
    path = path or given.truth
    try:
        found = list(pairs())
        flaws = [flaw(annotation) for _, annotation in found]
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise DataError(f"{path} is not in the format of {what}: {error!r}", f"give {what}") from error
    if not found:
        raise DataError(f"{path} has no annotation to score against", f"give {what}")
    complaints = Complaints(path, given, what, of_truth=True)
    if twice := _twice([sample for sample, _ in found]):
        complaints.add(f"{len(twice)} duplicate id(s)", twice)
    wrong: defaultdict[str, list[str]] = defaultdict(list)
    for (sample, _), told in zip(found, flaws, strict=True):
        wrong[told].append(sample)
    for told in sorted(wrong.keys() - {""}):
        complaints.add(f"{len(wrong[told])} {told}", wrong[told])
    complaints.settle()
    return dict(found)


def _twice(ids: Iterable[str]) -> list[str]:
    return [sample for sample, count in Counter(ids).items() if count > 1]
