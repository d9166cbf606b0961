"""GQA (Hudson & Manning 2019, "GQA: A New Dataset for Real-World Visual Reasoning"): accuracy and consistency.

The official evaluation also has validity, plausibility and distribution; they need its ``choices`` file of every answer that
was seen in training and are not computed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from setok.errors import DataError
from setok.metrics.samples import SampleScores, percent


def exact_match(said: str, answer: str) -> float:
    """1 where the answer is said to the letter, as the official evaluation compares: no case, no blank is forgiven."""
    return float(said == answer)


def containment(said: str, answer: str) -> float:
    """1 where the answer stands anywhere in what was said; not an official figure, for models that answer in sentences."""
    return float(answer in said)


@dataclass(frozen=True)
class _Asked:
    correct: float
    entailed: tuple[str, ...]


class GqaScores:
    """Accuracy over all questions, split by structure, and consistency over those that entail others."""

    def __init__(self) -> None:
        self._scores = SampleScores()
        self._asked: dict[str, _Asked] = {}

    def update(self, question: str, said: str, annotation: Mapping[str, Any]) -> None:
        """Add an answer.

        Args:
            question: the question's id.
            said: the prediction.
            annotation: the question's entry in the official file: ``answer``, and where the file has them ``types`` with
                ``structural`` and ``semantic``, ``entailed`` with ids of questions, and ``isBalanced``. A question that is not
                balanced counts for consistency only.

        Raises:
            DataError: this question was added before.
        """
        if question in self._asked:
            raise DataError(f"question {question!r} was scored twice", "merge each worker's scores once")
        correct = exact_match(said, annotation["answer"])
        entailed: Sequence[str] = annotation.get("entailed") or ()
        self._asked[question] = _Asked(correct, tuple(str(other) for other in entailed if str(other) != question))
        if not annotation.get("isBalanced", True):
            return
        types = annotation.get("types") or {}
        kinds = {name: str(types[name]) for name in ("structural", "semantic") if types.get(name)}
        if "structural" in kinds:
            kinds["form"] = "open" if kinds["structural"] == "query" else "binary"
        figures = {"accuracy": correct, "containment": containment(said, annotation["answer"])}
        self._scores.update(question, figures, kinds)

    def merge(self, other: GqaScores) -> GqaScores:
        """Add another accumulator's questions to this one, and return it."""
        self._scores.merge(other._scores)
        self._asked |= other._asked
        return self

    def compute(self) -> dict[str, Any]:
        """Percent: ``accuracy`` (official), ``containment``, splits, and ``consistency`` where a right answer entails others.

        Consistency is the mean, over balanced questions answered right, of the share of entailed questions answered right
        too; entailed questions without a prediction are left out, and ``num_consistency`` says over how many it was taken.
        """
        shares = []
        for question in self._scores:
            known = [self._asked[other].correct for other in self._asked[question].entailed if other in self._asked]
            if self._asked[question].correct and known:
                shares.append(sum(known) / len(known))
        result = self._scores.compute()
        return result | ({"consistency": percent(shares), "num_consistency": len(shares)} if shares else {})
