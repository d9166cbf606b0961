"""MME (Fu et al. 2023): fourteen subtasks with two yes-or-no questions per picture.

A subtask scores accuracy (over questions) plus accuracy+ (over pictures, both questions right), in percent, so at most 200;
perception is the sum of ten subtasks and cognition of four.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from setok.errors import DataError, did_you_mean
from setok.metrics.samples import percent

PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
SUBTASKS = (*PERCEPTION, *COGNITION)
QUESTIONS_PER_PICTURE = 2


def read_answer(said: str) -> str:
    """``yes``, ``no`` or ``other``, by the first four characters in lower case, as the official ``calculation.py`` reads it."""
    start = said.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


class MmeScores:
    """Right and wrong answers by subtask and picture."""

    def __init__(self) -> None:
        self._answers: defaultdict[str, defaultdict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))

    def update(self, subtask: str, picture: str, question: str, said: str, truth: str) -> None:
        """Add an answer; ``truth`` is ``Yes`` or ``No`` in any case.

        Raises:
            DataError: MME has no such subtask, or the question was asked about this picture before.
        """
        if subtask not in SUBTASKS:
            raise DataError(f"MME has no subtask {subtask!r}", did_you_mean(subtask, SUBTASKS))
        known = self._answers[subtask][picture]
        if question in known:
            raise DataError(f"{subtask}: {picture!r} is asked {question!r} twice", "keep one line for each question")
        known[question] = float(read_answer(said) == truth.lower())

    def merge(self, other: MmeScores) -> MmeScores:
        """Add another accumulator's answers to this one, and return it.

        Raises:
            DataError: both have the same question.
        """
        for subtask, pictures in other._answers.items():
            for picture, questions in pictures.items():
                known = self._answers[subtask][picture]
                twice = known.keys() & questions.keys()
                if twice:
                    raise DataError(f"{subtask}: {picture!r} is asked {min(twice)!r} twice", "merge each part once")
                known |= questions
        return self

    def compute(self) -> dict[str, Any]:
        """``subtasks`` with accuracy, accuracy+ and score each, and ``perception`` and ``cognition`` where all theirs are there.

        Raises:
            DataError: a picture does not have two questions.
        """
        subtasks: dict[str, dict[str, float]] = {}
        for subtask in sorted(self._answers):
            pictures = self._answers[subtask]
            for picture, questions in pictures.items():
                if len(questions) != QUESTIONS_PER_PICTURE:
                    raise DataError(
                        f"{subtask}: {picture!r} has {len(questions)} question(s), not {QUESTIONS_PER_PICTURE}",
                        "give both answers of every picture: accuracy+ needs the pair",
                    )
            accuracy = percent([right for questions in pictures.values() for right in questions.values()])
            both = percent([min(questions.values()) for questions in pictures.values()])
            subtasks[subtask] = {"accuracy": accuracy, "accuracy_plus": both, "score": accuracy + both}
        result: dict[str, Any] = {}
        for name, parts in (("perception", PERCEPTION), ("cognition", COGNITION)):
            if all(part in subtasks for part in parts):
                result[name] = sum(subtasks[part]["score"] for part in parts)
        num = sum(len(questions) for pictures in self._answers.values() for questions in pictures.values())
        return result | {"subtasks": subtasks, "num_samples": num}
