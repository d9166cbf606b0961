"""ScienceQA (Lu et al. 2022): multiple choice from school books, half of the questions with a picture.

    ROOT/problems.json
    ROOT/pid_splits.json
    ROOT/images/train/PID/image.png      val, test; or without the folder ``images``

A question's hint (the passage it is about) stands before it in the user's turn; lecture and solution, with which a model
can learn to reason, go to the provenance. Splits: those of ``pid_splits.json``, such as train, val, test, minival.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from setok.data.sources.annotations import inside, one_line, read_json
from setok.data.sources.base import Requirement
from setok.data.sources.pictures import PictureFolders, picture_root
from setok.data.sources.questions import Question, QuestionSource, read_questions, right_choice
from setok.data.sources.rows import known_split, words
from setok.errors import DataError

_FACTS = ("subject", "topic", "category", "skill", "grade", "task", "lecture", "solution")


class _ProblemPictures(PictureFolders):
    """Every picture has a folder of its own: the key is SPLIT/PID/FILE."""

    def __init__(self, root: Path) -> None:
        self._root = root / "images" if (root / "images").is_dir() else root
        super().__init__(sorted(path for path in self._root.glob("*/*") if path.is_dir()))

    def __bool__(self) -> bool:
        return bool(self.folders)

    def path(self, key: str) -> Path:
        return self._root / inside(key)


class ScienceqaSource(QuestionSource):
    """Questions with two to five choices."""

    name: ClassVar[str] = "scienceqa"

    @property
    def requirements(self) -> list[Requirement]:
        origin = "https://github.com/lupantech/ScienceQA/tree/main/data/scienceqa"
        return [Requirement(path=path.name, origin=origin) for path in self._annotation_files]

    @property
    def _annotation_files(self) -> list[Path]:
        return [self.root / "problems.json", self.root / "pid_splits.json"]

    @cached_property
    def picture_files(self) -> PictureFolders:
        return _ProblemPictures(picture_root(self.config))

    @property
    def picture_origin(self) -> str:
        return "https://scienceqa.s3.us-west-1.amazonaws.com/images/{train,val,test}.zip"

    def _questions(self) -> Iterable[Question]:
        problems, splits = (read_json(path) for path in self._annotation_files)
        if not isinstance(problems, dict) or not isinstance(splits, dict):
            raise DataError(
                f"{self.root}: problems.json and pid_splits.json are no tables by id", "get the official files"
            )
        numbers = splits[known_split(self.name, self.config.split, splits)]
        rows = ({"pid": str(number), "row": problems.get(str(number))} for number in numbers)
        return read_questions(rows, self._question, "pid")

    def _question(self, item: Any) -> Question:
        row, number = item["row"], item["pid"]
        question = words(row, "question")
        choices, right = right_choice(row["choices"], row["answer"])
        hint = one_line(row.get("hint") or "")
        return Question(
            id=number,
            text=f"{hint}\n{question}" if hint else question,
            image=f"{row['split']}/{number}/{row['image']}" if row.get("image") else None,
            answers=(right,),
            choices=choices,
            facts={key: row[key] for key in _FACTS if row.get(key)},
        )
