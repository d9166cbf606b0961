"""MME (Fu et al. 2023), for evaluation: fourteen subtasks, two questions on every picture, one yes and one no.

    ROOT/artwork/images/10002.jpg + ROOT/artwork/questions_answers_YN/10002.txt     artwork, celebrity, landmark, posters, scene
    ROOT/color/000000006723.jpg + ROOT/color/000000006723.txt                       the other nine

A line of a text file is the question, a tab, and Yes or No. The set has one split, ``test``. Its score counts a picture only
if both of its questions are answered rightly, so the provenance has subtask and picture. The questions end in "Please answer yes
or no.", which is kept: it is part of the set.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from setok.config import SourceConfig
from setok.data.sources.annotations import one_line
from setok.data.sources.base import Requirement
from setok.data.sources.pictures import PictureFolders, picture_root
from setok.data.sources.questions import Question, QuestionSource, read_questions
from setok.data.sources.rows import known_split
from setok.errors import DataError, did_you_mean

SUBTASKS = (
    *"artwork celebrity landmark posters scene code_reasoning color commonsense_reasoning count".split(),
    *"existence numerical_calculation OCR position text_translation".split(),
)
"""Those of ``setok.metrics.mme``, which sources do not import; a test compares them."""
_TEXTS = "questions_answers_YN"
_ORIGIN = "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models/tree/Evaluation (MME_Benchmark_release_version)"


class _SubtaskPictures(PictureFolders):
    """Pictures by SUBTASK/STEM."""

    def __init__(self, root: Path, subtasks: Iterable[str]) -> None:
        self._by_subtask = {name: PictureFolders([root / name / "images", root / name]) for name in subtasks}
        super().__init__([folder for pictures in self._by_subtask.values() for folder in pictures.folders])

    def __bool__(self) -> bool:
        return any(self._by_subtask.values())

    def path(self, key: str) -> Path:
        subtask, stem = key.split("/")
        return self._by_subtask[subtask].path(stem)


class MmeSource(QuestionSource):
    """Questions that are answered yes or no."""

    name: ClassVar[str] = "mme"

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        known_split(self.name, config.split, ("test",))

    @property
    def requirements(self) -> list[Requirement]:
        return [] if self._annotation_files else [Requirement(path="color/", origin=_ORIGIN)]

    @cached_property
    def _annotation_files(self) -> list[Path]:
        files = sorted([*self.root.glob("*/*.txt"), *self.root.glob(f"*/{_TEXTS}/*.txt")])
        for name in sorted({self._subtask(path) for path in files} - set(SUBTASKS)):
            raise DataError(f"{self.root / name}: MME has no subtask {name!r}", did_you_mean(name, SUBTASKS))
        return files

    @cached_property
    def picture_files(self) -> PictureFolders:
        subtasks = sorted({self._subtask(path) for path in self._annotation_files})
        return _SubtaskPictures(picture_root(self.config), subtasks)

    @property
    def picture_origin(self) -> str:
        return _ORIGIN

    def _subtask(self, path: Path) -> str:
        return path.relative_to(self.root).parts[0]

    def _questions(self) -> Iterable[Question]:
        for path in self._annotation_files:
            key = f"{self._subtask(path)}/{path.stem}"
            lines = [line for line in path.read_bytes().splitlines() if line.strip()]
            rows = [{"id": f"{key}/{number}", "line": line, "key": key} for number, line in enumerate(lines)]
            yield from read_questions(rows, self._question, "id")

    @staticmethod
    def _question(row: Any) -> Question:
        question, _, answer = row["line"].decode().rpartition("\t")
        answer = answer.strip().lower()
        if answer not in ("yes", "no") or not question.strip():
            raise DataError(
                f"no answer: line {row['line'][:80]!r} is no question, tab, Yes or No", "get the official file"
            )
        return Question(
            id=row["id"],
            text=one_line(question),
            image=row["key"],
            answers=(answer.capitalize(),),
            facts={"subtask": row["key"].split("/")[0]},
        )
