"""Soft accuracy of an answer against the answers of ten people, as the official evaluators of the question sets compute it.

* VQAv2, OK-VQA and VizWiz: Antol et al. 2015, "VQA: Visual Question Answering", with the rules of the official evaluation
  code to the question (``vqa_accuracy``);
* TextVQA: Singh et al. 2019, "Towards VQA Models That Can Read", whose evaluator also normalises what people said
  (``textvqa_accuracy``);
* A-OKVQA: Schwenk et al. 2022 (``aokvqa_direct``), which normalises nothing but case.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32
"""The official code passes a flag of ``re`` where the greatest number of replacements belongs; this is the flag's number."""
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBERS = {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
_NUMBERS["none"] = "0"

_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's how'd
how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock oughtn't
'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd
who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've
you'll you're you've
""".split()


def _contractions() -> dict[str, str]:
    """What a word with one apostrophe forgotten stands for; ``somebody'd`` the other way round, as the official table has it."""
    table = {"somebody'd": "somebodyd"}
    for word in _CONTRACTED:
        for place in (i for i, letter in enumerate(word) if letter == "'"):
            table[word[:place] + word[place + 1 :]] = word
    return table


_CONTRACTIONS = _contractions()


@functools.lru_cache(maxsize=65536)
def strip_punctuation(text: str) -> str:
    """The official evaluator's first step: without most marks, and without periods that no digit follows.

    A mark with a blank beside it anywhere in the text, and any mark in a text with a number like 1,000, goes without a trace;
    else it leaves a blank. Colons and apostrophes stay.
    """
    grouped = _COMMA_IN_NUMBER.search(text) is not None
    kept = text
    for mark in _MARKS:
        if mark in text:
            beside_blank = f"{mark} " in text or f" {mark}" in text
            kept = kept.replace(mark, "" if beside_blank or grouped else " ")
    return _PERIOD.sub("", kept, count=_MOST_PERIODS)


def strip_articles(text: str) -> str:
    """The official evaluator's second step: lower case, number words to ten as digits, no articles, apostrophes put back."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def vqa_accuracy(said: str, answers: Sequence[str]) -> float:
    """Accuracy of one answer (VQAv2, OK-VQA, VizWiz): min(1, agreeing others / 3), averaged over leaving out each person.

    What was said goes through both steps of the normaliser, always. What people answered loses its punctuation, and only where
    they do not all agree to the letter: so ``"2,"`` never equals ten times ``"2,"``, which the official code has as well.
    """
    given = strip_articles(strip_punctuation(_one_line(said)))
    # `set` on what people wrote, before anything is stripped from it
    written = [strip_punctuation(answer) for answer in answers] if len(set(answers)) > 1 else list(answers)
    return leave_one_out(sum(answer == given for answer in written), len(written))


def textvqa_accuracy(said: str, answers: Sequence[str]) -> float:
    """Accuracy of one answer (TextVQA): the same mean, with both sides normalised alike (``textvqa_normalize``)."""
    given = textvqa_normalize(said)
    return leave_one_out(sum(textvqa_normalize(answer) == given for answer in answers), len(answers))


@functools.lru_cache(maxsize=65536)
def textvqa_normalize(text: str) -> str:
    """An answer as TextVQA's evaluator compares it: no commas nor question marks, 's set apart, then both official steps."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return strip_articles(strip_punctuation(_one_line(text.strip())))


def leave_one_out(agreeing: int, people: int) -> float:
    """min(1, agreeing others / 3) averaged over leaving out each of the people, of whom ``agreeing`` said the same."""
    with_it, without_it = min(1.0, (agreeing - 1) / 3), min(1.0, agreeing / 3)
    return (agreeing * with_it + (people - agreeing) * without_it) / people if agreeing else 0.0


def aokvqa_direct(said: str, answers: Sequence[str]) -> float:
    """Accuracy of a direct answer (A-OKVQA): min(1, people who said the same / 3), compared in lower case and nothing else."""
    return min(1.0, Counter(answer.lower() for answer in answers)[said.lower()] / 3)


def aokvqa_choice(said: str, choices: Sequence[str], correct: int) -> float:
    """Whether the right choice was named, to the letter (A-OKVQA, multiple choice)."""
    return float(said == choices[correct])
