"""A-OKVQA (Schwenk et al. 2022): questions on COCO pictures with four choices, ten direct answers and three rationales.

    ROOT/aokvqa_v1p0_train.json           val, test
    IMAGES/train2017/%012d.jpg            or any other folder and name of COCO's pictures

``answers`` holds the right choice and behind it the ten direct answers: multiple choice is scored with ``answers[0]`` and
``choices``, direct answers with ``answers[1:]``. The test split has choices only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from setok.config import SourceConfig
from setok.data.sources.base import Requirement
from setok.data.sources.pictures import COCO_ORIGIN, PictureFolders, coco_pictures
from setok.data.sources.questions import Question, QuestionSource, read_questions, require_answers, right_choice
from setok.data.sources.rows import answers_of, known_split, rows_of, words


class AokvqaSource(QuestionSource):
    """Questions with choices and direct answers."""

    name: ClassVar[str] = "aokvqa"

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._file = self.root / f"aokvqa_v1p0_{known_split(self.name, config.split, ('train', 'val', 'test'))}.json"

    @property
    def requirements(self) -> list[Requirement]:
        origin = "https://prior-datasets.s3.us-east-2.amazonaws.com/aokvqa/aokvqa_v1p0.tar.gz"
        return [Requirement(path=self._file.name, origin=origin)]

    @property
    def _annotation_files(self) -> list[Path]:
        return [self._file]

    @cached_property
    def picture_files(self) -> PictureFolders:
        return coco_pictures(self.config)

    @property
    def picture_origin(self) -> str:
        return COCO_ORIGIN

    def _questions(self) -> Iterable[Question]:
        return read_questions(rows_of(self._file), self._question, "question_id")

    def _question(self, row: Any) -> Question:
        choices = answers_of(row["choices"])
        answers: tuple[str, ...] = ()
        facts = {}
        if self.config.split != "test":
            choices, right = right_choice(row["choices"], row["correct_choice_idx"])
            answers = (right, *require_answers(answers_of(row["direct_answers"])))
            facts["rationales"] = json.dumps(row.get("rationales", []), ensure_ascii=False)
            facts["difficult_direct_answer"] = json.dumps(bool(row.get("difficult_direct_answer")))
        return Question(
            id=str(row["question_id"]),
            text=words(row, "question"),
            image=str(row["image_id"]),
            answers=answers,
            choices=choices,
            facts=facts,
        )
