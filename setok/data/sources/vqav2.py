"""VQA v2 (Goyal et al. 2017) and OK-VQA (Marino et al. 2019): open questions on COCO pictures with ten answers each.

    ROOT/v2_OpenEnded_mscoco_train2014_questions.json     OK-VQA: OpenEnded_mscoco_train2014_questions.json
    ROOT/v2_mscoco_train2014_annotations.json             OK-VQA: mscoco_train2014_annotations.json
    IMAGES/train2014/COCO_train2014_%012d.jpg             or any other folder and name of COCO's pictures

Splits: train, val; of VQA v2 also test and test-dev (2015), which have no annotations.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from setok.config import SourceConfig
from setok.data.sources.base import Requirement
from setok.data.sources.pictures import COCO_ORIGIN, PictureFolders, coco_pictures
from setok.data.sources.questions import Question, QuestionSource, read_questions, require_answers
from setok.data.sources.rows import ROW_ERRORS, answers_of, known_split, problem_of, rows_of, words
from setok.errors import DataError


class Vqav2Source(QuestionSource):
    """Questions with the answers of ten people."""

    name: ClassVar[str] = "vqav2"
    origin: ClassVar[str] = "https://visualqa.org/download.html"
    prefix: ClassVar[str] = "v2_"
    splits: ClassVar[dict[str, str]] = {
        "train": "train2014",
        "val": "val2014",
        "test": "test2015",
        "test-dev": "test-dev2015",
    }

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        split = self.splits[known_split(self.name, config.split, self.splits)]
        self._question_file = self.root / f"{self.prefix}OpenEnded_mscoco_{split}_questions.json"
        self._answer_file = self.root / f"{self.prefix}mscoco_{split}_annotations.json"

    @property
    def requirements(self) -> list[Requirement]:
        files = [self._question_file]
        if not self.config.split.startswith("test"):
            files.append(self._answer_file)
        return [Requirement(path=file.name, origin=self.origin) for file in files]

    @property
    def _annotation_files(self) -> list[Path]:
        return [self._question_file, self._answer_file]

    @cached_property
    def picture_files(self) -> PictureFolders:
        return coco_pictures(self.config)

    @property
    def picture_origin(self) -> str:
        return COCO_ORIGIN

    def _questions(self) -> Iterable[Question]:
        answers = self._answers() if self._answer_file.is_file() else None

        def make(row: Any) -> Question:
            question_id = str(row["question_id"])
            if answers is not None and question_id not in answers:
                raise DataError("no answer: the annotations do not have the question", "get both files of one release")
            given, facts, problem = ((), {}, "") if answers is None else answers[question_id]
            return Question(
                id=question_id,
                text=words(row, "question"),
                image=str(row["image_id"]),
                answers=given,
                facts=facts,
                problem=problem,
            )

        return read_questions(rows_of(self._question_file, "questions"), make, "question_id")

    def _answers(self) -> dict[str, tuple[tuple[str, ...], dict[str, str], str]]:
        """By question: answers, the rest of the annotation, and what is wrong with it."""
        table: dict[str, tuple[tuple[str, ...], dict[str, str], str]] = {}
        for row in rows_of(self._answer_file, "annotations"):
            try:
                answers = require_answers(answers_of(answer["answer"] for answer in row["answers"]))
                facts = {key: row[key] for key in ("answer_type", "question_type") if row.get(key)}
                table[str(row["question_id"])] = (answers, facts, "")
            except ROW_ERRORS as error:
                known = row.get("question_id") if isinstance(row, dict) else None
                table[str(known)] = ((), {}, problem_of(error))
        return table


class OkvqaSource(Vqav2Source):
    """Questions that need knowledge from outside the picture."""

    name: ClassVar[str] = "okvqa"
    origin: ClassVar[str] = "https://okvqa.allenai.org/download.html"
    prefix: ClassVar[str] = ""
    splits: ClassVar[dict[str, str]] = {"train": "train2014", "val": "val2014"}
