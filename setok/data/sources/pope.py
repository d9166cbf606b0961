"""POPE (Li et al. 2023), for evaluation: is a thing in the picture or not, for pictures of COCO val2014.

    ROOT/coco_pope_random.json           popular, adversarial: JSON lines, for all the name says
    IMAGES/val2014/COCO_val2014_%012d.jpg      or any other folder and name of COCO's pictures

The splits are the three ways in which absent things were chosen; ``test`` is all three. Questions of different categories
do not share a conversation, because most of them are the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from setok.config import SourceConfig
from setok.data.sources.base import Requirement
from setok.data.sources.pictures import COCO_ORIGIN, PictureFolders, coco_key, coco_pictures
from setok.data.sources.questions import Question, QuestionSource, read_questions
from setok.data.sources.rows import known_split, read_json_lines, words
from setok.errors import DataError

CATEGORIES = ("random", "popular", "adversarial")


class PopeSource(QuestionSource):
    """Questions that are answered yes or no."""

    name: ClassVar[str] = "pope"

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        known_split(self.name, config.split, (*CATEGORIES, "test"))
        self._categories = CATEGORIES if config.split == "test" else (config.split,)

    @property
    def requirements(self) -> list[Requirement]:
        origin = "https://github.com/RUCAIBox/POPE/tree/main/output/coco"
        return [Requirement(path=path.name, origin=origin) for path in self._annotation_files]

    @property
    def _annotation_files(self) -> list[Path]:
        return [self.root / f"coco_pope_{category}.json" for category in self._categories]

    @cached_property
    def picture_files(self) -> PictureFolders:
        return coco_pictures(self.config)

    @property
    def picture_origin(self) -> str:
        return COCO_ORIGIN

    def _questions(self) -> Iterable[Question]:
        for category, path in zip(self._categories, self._annotation_files, strict=True):

            def make(row: Any, category: str = category) -> Question:
                label = words(row, "label").lower()
                if label not in ("yes", "no"):
                    raise DataError(f"no answer: label {label!r} is neither yes nor no", "get the official file")
                return Question(
                    id=f"{category}/{row['question_id']}",
                    text=words(row, "text"),
                    image=coco_key(Path(words(row, "image")).stem),
                    topic=category,
                    answers=(label,),
                    facts={"category": category},
                )

            yield from read_questions(read_json_lines(path), make, "question_id", prefix=f"{category}/")
