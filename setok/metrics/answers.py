"""How well short answers fit, whatever set the questions are of; and what fits without looking at the picture."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from setok.metrics.choices import chosen
from setok.metrics.vqa import leave_one_out, textvqa_normalize

FEW = 3
"""With fewer people than this an answer is right where one of them gave it."""


def answer_accuracy(said: str, references: Sequence[str], choices: Sequence[str] = ()) -> float:
    """Share of agreement with people's answers: TextVQA's, whose normaliser treats both sides alike (``textvqa_accuracy``).

    Args:
        references: with fewer than three, 1 if the answer is among them.
        choices: where there are some, whether the right one, which is the first reference, is meant.
    """
    if choices:
        return float(choices[chosen(said, choices)] == references[0])
    agreeing = sum(textvqa_normalize(answer) == textvqa_normalize(said) for answer in references)
    return float(agreeing > 0) if len(references) < FEW else leave_one_out(agreeing, len(references))


class AnswerTable:
    """What can be answered without looking: the most frequent training answer, to any question of a type, or to the same words.

    The second is the best that a model can do that reads the question and sees nothing, on questions that training has.
    """

    def __init__(self, examples: Iterable[tuple[str, str, str]]) -> None:
        """``examples`` are type, question and answer of training."""
        by_type: defaultdict[str, Counter[str]] = defaultdict(Counter)
        by_words: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for kind, question, answer in examples:
            by_type[kind][answer] += 1
            by_words[textvqa_normalize(question)][answer] += 1
        self._by_type = {kind: _most_frequent(counts) for kind, counts in by_type.items()}
        self._by_words = {words: _most_frequent(counts) for words, counts in by_words.items()}

    def constant(self, kind: str) -> str:
        """One answer for all questions of a type; empty for a type that training lacks."""
        return self._by_type.get(kind, "")

    def blind(self, kind: str, question: str) -> str:
        """The answer that fits the words of the question best, or the type's constant."""
        return self._by_words.get(textvqa_normalize(question), self.constant(kind))


def _most_frequent(counts: Counter[str]) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer))
