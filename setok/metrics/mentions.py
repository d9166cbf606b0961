"""Which things a caption names, and whether they are there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence


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
    """How well a caption names the things of its reference, and whether it is word for word the same.

    Args:
        phrases: what things are called (``red circle``); each counts as often as it is said, at most as often as is true.

    Returns:
        ``f1``, the harmonic mean of the next two, so that naming everything does not win; ``recall`` (NaN where the
        reference names none, as ``f1``); ``precision`` (0 where nothing is named); ``exact``.
    """
    told, true = phrase_counts(said, phrases), phrase_counts(reference, phrases)
    both = sum((told & true).values())
    num_told, num_true = sum(told.values()), sum(true.values())
    return {
        "f1": 2 * both / (num_told + num_true) if true else float("nan"),
        "recall": both / num_true if true else float("nan"),
        "precision": both / num_told if told else 0.0,
        "exact": float(_words(said) == _words(reference)),
    }


def _words(text: str) -> str:
    """Lower case, without punctuation, one blank between words."""
    return " ".join(re.findall(r"[\w-]+", text.lower()))
