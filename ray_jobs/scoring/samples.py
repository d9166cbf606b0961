"""What a model made of the samples of a set, on the way to a benchmark's official format."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from setok.data.schema import Mask, Record


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One thing that was asked, and what came of it."""

    record: Record
    """Where it comes from, without its pictures' contents."""
    asks: str
    """How it was asked, as ``Run.asks`` names it."""
    said: str = ""
    mask: Mask | None = None
    """In the size of the record's picture."""
    drawn: bytes = b""
    """PNG."""
    truth: bytes = b""
    """PNG of what should have been drawn."""

    @property
    def fact(self) -> Mapping[str, str]:
        """Official ids, and what else the set's own format needs."""
        return self.record.provenance


@dataclass(frozen=True, kw_only=True)
class Written:
    """A submission, and what it is scored against."""

    predictions: Path
    annotations: Path | None
    """``None`` where the records have no answers, as those of test splits."""


Write = Callable[[Iterable[Sample], Path, str], Written]
"""Writes ``predictions/NAME…`` and ``annotations/NAME…`` below a folder."""


def places(folder: Path, name: str, ending: str = "") -> tuple[Path, Path]:
    """Where predictions and annotations go; their folders are made."""
    both = folder / "predictions" / f"{name}{ending}", folder / "annotations" / f"{name}{ending}"
    for path in both:
        path.parent.mkdir(parents=True, exist_ok=True)
    return both


def write_json(path: Path, tree: Any) -> None:
    """Write one JSON document."""
    path.write_text(json.dumps(tree, ensure_ascii=False) + "\n", encoding="utf-8")


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON document a line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def number(text: str) -> int | str:
    """An id as the official files have it: a number where it is one."""
    return int(text) if text.isdecimal() and str(int(text)) == text else text


def file_name(text: str) -> str:
    """A record's id as the name of a file."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text)


def written(predictions: Path, said: Any, annotations: Path, truth: Any, *, answered: bool) -> Written:
    """Write a submission and its truth as JSON; without the truth where it is not known."""
    write_json(predictions, said)
    if not answered:
        annotations.unlink(missing_ok=True)
        return Written(predictions=predictions, annotations=None)
    write_json(annotations, truth)
    return Written(predictions=predictions, annotations=annotations)
