"""POPE (Li et al. 2023, "Evaluating Object Hallucination in Large Vision-Language Models"): yes or no, is it in the picture?

Answers are read as the official ``evaluate.py`` reads them; other harnesses read the same sentences otherwise and give other
figures, so a score must name its scorer.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

_NEGATIONS = frozenset(("No", "no", "not"))


def says_yes(said: str) -> bool:
    """Whether an answer counts as yes: no word of its first sentence is ``No``, ``no`` or ``not``.

    Only the text before the first period counts, without its commas, cut at blanks: ``"There are none"`` is a yes.
    """
    return _NEGATIONS.isdisjoint(said.split(".")[0].replace(",", "").split(" "))


class PopeScores:
    """Counts of right and wrong answers, yes being the positive class."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[bool, bool]] = Counter()

    def update(self, said: str, label: str) -> None:
        """Add an answer; ``label`` is ``"yes"`` or ``"no"``."""
        self._counts[says_yes(said), label != "no"] += 1

    def merge(self, other: PopeScores) -> PopeScores:
        """Add another accumulator's counts to this one, and return it."""
        self._counts += other._counts
        return self

    def compute(self) -> dict[str, Any]:
        """``accuracy``, ``precision``, ``recall``, ``f1`` and ``yes_ratio`` in [0, 1], and the four counts.

        A figure whose denominator is 0 is 0.
        """
        hits, alarms = self._counts[True, True], self._counts[True, False]
        misses, rejections = self._counts[False, True], self._counts[False, False]
        total = hits + alarms + misses + rejections
        precision, recall = _share(hits, hits + alarms), _share(hits, hits + misses)
        return {
            "accuracy": _share(hits + rejections, total),
            "precision": precision,
            "recall": recall,
            "f1": _share(2 * precision * recall, precision + recall),
            "yes_ratio": _share(hits + alarms, total),
            "true_positives": hits,
            "false_positives": alarms,
            "true_negatives": rejections,
            "false_negatives": misses,
            "num_samples": total,
        }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
