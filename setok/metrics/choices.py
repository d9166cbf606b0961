"""Which of several choices an answer means."""

from __future__ import annotations

import re
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTER = re.compile(r"\W*([A-Za-z])\s*(?:[.):,]|$)")


def chosen(said: str, choices: Sequence[str]) -> int:
    """The number of the choice that an answer names, counted from 0.

    Looked for, in this order: a choice word for word, a letter that stands alone at the beginning (``B``, ``(b)``, ``B. dogs``),
    the longest choice that stands in the answer, and the choice that shares most words with it, of equals the
    first. So every answer means something, as the submission formats of multiple choice want it.

    Args:
        said: in the words of the model.
        choices: at least one, at most 26.
    """
    plain = [_plain(choice) for choice in choices]
    given = _plain(said)
    if given in plain:
        return plain.index(given)
    found = _LETTER.match(said)
    if found is not None and (number := LETTERS.index(found[1].upper())) < len(choices):
        return number
    named = [number for number, choice in enumerate(plain) if choice and f" {choice} " in f" {given} "]
    if named:
        return max(named, key=lambda number: (len(plain[number]), -number))
    words = set(given.split())
    return max(range(len(plain)), key=lambda number: (len(words & set(plain[number].split())), -number))


def _plain(text: str) -> str:
    """Lower case, words and numbers only."""
    return " ".join(re.findall(r"\w+", text.lower()))
