"""GQA (Hudson and Manning 2019): questions made from scene graphs of Visual Genome pictures.

    ROOT/train_balanced_questions.json         train_all_questions.json, val_…, testdev_…, test_…, challenge_…, submission_…
    ROOT/train_all_questions/*.json            the unbalanced training questions are split over ten files
    ROOT/images/2331963.jpg, n578564.jpg       ids are strings

The split ``train`` means ``train_balanced`` (943 thousand questions) and so on; ``train_all`` has 14 million, whose texts and
answers need about 10 GB of memory in every process that reads them. Files with the full schema and with questions and
answers only are both read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from setok.config import SourceConfig
from setok.data.sources.base import Requirement
from setok.data.sources.pictures import PictureFolders, picture_root
from setok.data.sources.questions import Question, QuestionSource, read_questions, require_answers
from setok.data.sources.rows import answers_of, known_split, read_json, words
from setok.errors import DataError

_PARTS = ("train", "val", "testdev", "test", "challenge", "submission")
_WITHOUT_ANSWERS = ("test", "challenge", "submission")
SPLITS = {f"{part}{size}": f"{part}{size or '_balanced'}" for part in _PARTS for size in ("", "_balanced", "_all")}


class GqaSource(QuestionSource):
    """Questions with one short answer and one in a sentence."""

    name: ClassVar[str] = "gqa"

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._stem = f"{SPLITS[known_split(self.name, config.split, SPLITS)]}_questions"
        self._answered = self._stem.split("_")[0] not in _WITHOUT_ANSWERS

    @property
    def requirements(self) -> list[Requirement]:
        folder = (self.root / self._stem).is_dir()
        path = f"{self._stem}/" if folder else f"{self._stem}.json"
        return [Requirement(path=path, origin="https://downloads.cs.stanford.edu/nlp/data/gqa/questions1.2.zip")]

    @property
    def _annotation_files(self) -> list[Path]:
        """The single file, or the parts in numeric order."""
        folder = self.root / self._stem
        if not folder.is_dir():
            return [self.root / f"{self._stem}.json"]
        return sorted(folder.glob("*.json"), key=lambda path: (len(path.name), path.name))

    @cached_property
    def picture_files(self) -> PictureFolders:
        root = picture_root(self.config)
        return PictureFolders([root / "images", root])

    @property
    def picture_origin(self) -> str:
        return "https://downloads.cs.stanford.edu/nlp/data/gqa/images.zip"

    def _questions(self) -> Iterable[Question]:
        for path in self._annotation_files:  # one after the other: only one is in memory as a tree
            rows = read_json(path)
            if not isinstance(rows, dict):
                raise DataError(f"{path} has no questions by id", "get the official file")
            yield from read_questions(({"id": key, "row": row} for key, row in rows.items()), self._question, "id")

    def _question(self, item: Any) -> Question:
        row = item["row"]
        answers = answers_of([row["answer"]] if "answer" in row else [])
        if self._answered:
            require_answers(answers)
        return Question(
            id=item["id"],
            text=words(row, "question"),
            image=str(row["imageId"]),
            answers=answers,
            facts=_facts(row),
        )


def _facts(row: dict[str, Any]) -> dict[str, str]:
    """What the official evaluation looks at beside the answer, as far as the row has it."""
    facts = {key: row[key] for key in ("fullAnswer",) if row.get(key)}
    facts |= {key: row["types"][key] for key in ("structural", "semantic", "detailed") if row.get("types")}
    if "isBalanced" in row:
        facts["isBalanced"] = json.dumps(row["isBalanced"])
    if row.get("groups", {}).get("global"):
        facts["global_group"] = row["groups"]["global"]
    if "semantic" in row:
        facts["num_steps"] = str(len(row["semantic"]))
    if row.get("entailed"):
        facts["entailed"] = json.dumps(row["entailed"])
    return facts
