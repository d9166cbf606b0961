"""VizWiz VQA (Gurari et al. 2018): questions that blind people asked about pictures they took, ten answers each.

    ROOT/Annotations/train.json              val, test; or without the folder
    ROOT/train/VizWiz_train_00000000.jpg     val, test

A question that the picture cannot answer has the answer "unanswerable"; whether one can be answered, and of which type its
answer is, goes to the provenance. The test split has no answers.
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
from setok.data.sources.rows import answers_of, known_split, rows_of, words

_ORIGIN = "https://vizwiz.cs.colorado.edu/VizWiz_final"


class VizwizSource(QuestionSource):
    """One question on every picture."""

    name: ClassVar[str] = "vizwiz"

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        known_split(self.name, config.split, ("train", "val", "test"))

    @property
    def requirements(self) -> list[Requirement]:
        path = self._annotation_files[0].relative_to(self.root).as_posix()
        return [Requirement(path=path, origin=f"{_ORIGIN}/vqa_data/Annotations.zip")]

    @property
    def _annotation_files(self) -> list[Path]:
        bare = self.root / f"{self.config.split}.json"
        return [bare if bare.is_file() else self.root / "Annotations" / bare.name]

    @cached_property
    def picture_files(self) -> PictureFolders:
        root = picture_root(self.config)
        return PictureFolders([root / self.config.split, root])

    @property
    def picture_origin(self) -> str:
        return f"{_ORIGIN}/images/{self.config.split}.zip"

    def _questions(self) -> Iterable[Question]:
        return read_questions(rows_of(self._annotation_files[0]), self._question, "image")

    def _question(self, row: Any) -> Question:
        image = Path(words(row, "image")).stem
        answers = answers_of(answer["answer"] for answer in row.get("answers", []))
        if self.config.split != "test":
            require_answers(answers)
        facts = {"answer_type": row["answer_type"]} if row.get("answer_type") else {}
        if "answerable" in row:
            facts["answerable"] = json.dumps(bool(row["answerable"]))
        return Question(id=image, text=words(row, "question"), image=image, answers=answers, facts=facts)
