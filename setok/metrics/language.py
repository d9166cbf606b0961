"""How well words fit: answers to questions, and captions; and what fits without looking at the picture."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

ARTICLES = frozenset(("a", "an", "the"))
NUMBERS = dict(
    zip("zero one two three four five six seven eight nine ten".split(), (str(n) for n in range(11)), strict=True)
)


def normalize_answer(text: str) -> str:
    """An answer as it is compared: lower case, no punctuation, no articles, number words as digits (as VQAv2 does)."""
    words = re.sub(r"[^\w\s]", " ", text.lower().replace("'", "")).split()
    return " ".join(NUMBERS.get(word, word) for word in words if word not in ARTICLES)


def answer_accuracy(said: str, references: Sequence[str]) -> float:
    """Share of agreement with people's answers (Antol et al. 2015): min(1, agreeing others / 3), averaged over leaving out each.

    With fewer than three references, 1 if the answer is among them.
    """
    answers = [normalize_answer(reference) for reference in references]
    given = normalize_answer(said)
    if len(answers) < 3:
        return float(given in answers)
    agree = [sum(other == given for j, other in enumerate(answers) if j != i) for i in range(len(answers))]
    return sum(min(1.0, number / 3) for number in agree) / len(answers)


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
            by_words[normalize_answer(question)][answer] += 1
        self._by_type = {kind: _most_frequent(counts) for kind, counts in by_type.items()}
        self._by_words = {words: _most_frequent(counts) for words, counts in by_words.items()}

    def constant(self, kind: str) -> str:
        """One answer for all questions of a type; empty for a type that training lacks."""
        return self._by_type.get(kind, "")

    def blind(self, kind: str, question: str) -> str:
        """The answer that fits the words of the question best, or the type's constant."""
        return self._by_words.get(normalize_answer(question), self.constant(kind))


def _most_frequent(counts: Counter[str]) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer))


def phrase_counts(text: str, phrases: Iterable[str]) -> Counter[str]:
    """How often each phrase stands in a text, as whole words; a longer phrase keeps its words from the shorter ones in it."""
    rest = f" {_words(text)} "
    found: Counter[str] = Counter()
    for phrase in sorted(set(phrases), key=lambda phrase: (-len(phrase), phrase)):
        needle = f" {_words(phrase)} "
        if not needle.strip():
            continue
        while needle in rest:
            rest = rest.replace(needle, " | ", 1)
            found[phrase] += 1
    return found


def caption_scores(said: str, reference: str, phrases: Sequence[str]) -> dict[str, float]:
    """Recall and precision of the things that a caption names, and whether it is word for word the reference.

    Args:
        phrases: what things are called (``red circle``); each counts as often as it is said, at most as often as is true.

    Returns:
        ``recall`` (NaN where the reference names none), ``precision`` (0 where nothing is named), ``exact``.
    """
    told, true = phrase_counts(said, phrases), phrase_counts(reference, phrases)
    both = sum((told & true).values())
    return {
        "recall": both / sum(true.values()) if true else float("nan"),
        "precision": both / sum(told.values()) if told else 0.0,
        "exact": float(_words(said) == _words(reference)),
    }


def _words(text: str) -> str:
    """Lower case, without punctuation, one blank between words."""
    return " ".join(re.findall(r"[\w-]+", text.lower()))


def by_kind(values: Sequence[float], kinds: Sequence[str]) -> Mapping[str, float]:
    """Mean by kind, in alphabetical order."""
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for value, kind in zip(values, kinds, strict=True):
        groups[kind].append(value)
    return {kind: sum(groups[kind]) / len(groups[kind]) for kind in sorted(groups)}
