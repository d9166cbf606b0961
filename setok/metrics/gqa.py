"""GQA (Hudson & Manning 2019, "GQA: A New Dataset for Real-World Visual Reasoning"): all figures but grounding.

Grounding is left out: it needs the attention over regions of the picture, which a submission need not have.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
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


COMMON = ("color", "material", "shape")
"""What may be answered where a question asks what two things have in common."""


def distribution(pairs: Collection[tuple[str, str, str]]) -> float:
    """How far what was said is from how often each answer is right; 0 is best.

    In each group of questions, χ² of the counts of its right answers, said against true; answers that are never right in the
    group do not count. The groups are weighted by their size, and the mean is divided by 100, as the official evaluation does.

    Args:
        pairs: group, right answer and what was said of every question; at least one.
    """
    said: defaultdict[str, Counter[str]] = defaultdict(Counter)
    true: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for group, answer, given in pairs:
        true[group][answer] += 1
        said[group][given] += 1
    distances = [
        counts.total() * sum((said[group][answer] - count) ** 2 / count for answer, count in sorted(counts.items()))
        for group, counts in true.items()
    ]
    return math.fsum(distances) / len(pairs) / 100


@dataclass(frozen=True)
class _Asked:
    correct: float
    entailed: tuple[str, ...]
    pair: tuple[str, str, str] | None
    """Group, right answer and what was said, of a balanced question that has a group."""


class GqaScores:
    """The figures of balanced questions; others serve the consistency of those that entail them."""

    def __init__(self) -> None:
        self._scores = SampleScores()
        self._asked: dict[str, _Asked] = {}

    def update(
        self,
        question: str,
        said: str,
        annotation: Mapping[str, Any],
        choices: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        """Add an answer.

        Args:
            question: the question's id.
            said: the prediction.
            annotation: the question's entry in the official file: ``answer``, and where the file has them ``types`` with
                ``structural``, ``semantic`` and ``detailed``, ``groups`` with ``global``, ``entailed`` with ids of questions, and
                ``isBalanced``. A question that is not balanced counts for consistency only.
            choices: the question's entry in the official file of choices: which answers are ``valid`` (of the right kind)
                and ``plausible`` (known of such a thing in the training set).

        Raises:
            DataError: this question was added before.
        """
        if question in self._asked:
            raise DataError(f"question {question!r} was scored twice", "merge each worker's scores once")
        correct = exact_match(said, annotation["answer"])
        entailed: Sequence[str] = annotation.get("entailed") or ()
        balanced = annotation.get("isBalanced", True)
        group = (annotation.get("groups") or {}).get("global")
        self._asked[question] = _Asked(
            correct,
            tuple(str(other) for other in entailed if str(other) != question),
            (str(group), annotation["answer"], said) if balanced and group is not None else None,
        )
        if not balanced:
            return
        types = annotation.get("types") or {}
        kinds = {name: str(types[name]) for name in ("structural", "semantic") if types.get(name)}
        if "structural" in kinds:
            kinds["form"] = "open" if kinds["structural"] == "query" else "binary"
        figures = {"accuracy": correct, "containment": containment(said, annotation["answer"])}
        if choices is not None:
            common = "Common" in (types.get("detailed") or "")
            for name, key in (("validity", "valid"), ("plausibility", "plausible")):
                figures[name] = float(said in (COMMON if common else choices[key]))
        self._scores.update(question, figures, kinds)

    def merge(self, other: GqaScores) -> GqaScores:
        """Add another accumulator's questions to this one, and return it."""
        self._scores.merge(other._scores)
        self._asked |= other._asked
        return self

    def compute(self) -> dict[str, Any]:
        """Percent: ``accuracy``, ``containment`` (not official) and splits, and what the annotations allow of the other figures.

        ``validity`` and ``plausibility`` are there with choices, ``distribution`` (no percent; less is better) where questions
        have groups, and ``consistency`` where a right answer entails others.

        Consistency is the mean, over balanced questions answered right, of the share of entailed questions answered right
        too; entailed questions without a prediction are left out, and ``num_consistency`` says over how many it was taken.
        """
        shares = []
        for question in self._scores:
            known = [self._asked[other].correct for other in self._asked[question].entailed if other in self._asked]
            if self._asked[question].correct and known:
                shares.append(sum(known) / len(known))
        result = self._scores.compute()
        pairs = [asked.pair for asked in self._asked.values() if asked.pair is not None]
        if pairs:
            result["distribution"] = distribution(pairs)
        return result | ({"consistency": percent(shares), "num_consistency": len(shares)} if shares else {})
