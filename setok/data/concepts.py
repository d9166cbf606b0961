"""Noun concepts of a caption, by default by a rule that needs no model and no download.

The published recipe takes the nouns of a caption from a part-of-speech tagger. This one reads off noun phrases instead:

1. Words are cut into phrases at punctuation and at words that no noun phrase contains (prepositions, pronouns,
   conjunctions, auxiliaries, common verbs, words in -ing and -ly that are not known nouns).
2. *and*/*or* between two colours stays inside the phrase: ``a striped red and blue circle`` is a ``striped red circle``
   and a ``striped blue circle``.
3. Determiners, numbers and adjectives of size or opinion are dropped, as are nouns about the picture itself
   (*picture, group, top …*).
4. A phrase that is left with one to three words is a concept; of a longer one the last three words, for the head of an
   English noun phrase comes last. A phrase of one word that no determiner, number or adjective introduces must not look
   like a verb or an adverb.

It errs on the side of leaving out, and it is no parser: a verb it does not know stays (``signs glow``). Where a parser is
to be had, ``setok.data.noun_chunks`` finds the phrases instead of step 1, and the other steps stay.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

MAX_CONCEPTS = 8
_MAX_WORDS = 3


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_COLOURS = _words(
    "red green blue yellow purple orange cyan pink gray grey white black brown navy olive gold golden silver tan beige"
    " teal violet maroon"
)
_INTRODUCERS = _words(
    "a an the some this that these those his her its their my your our another each every one two three four five six"
    " seven eight nine ten several many few multiple various both all no any"
)
_VAGUE = _words(
    "big small large little tiny huge giant tall short long wide narrow really very so quite other different same nice"
    " beautiful pretty cute good great old new young open closed full empty close single double own certain colorful"
    " colourful bright dark light whole entire lone partially medium sized lots only just also left right busy lovely"
    " main such most more less next first second last top"
)
_BREAKS = _words(
    # prepositions, conjunctions, pronouns, auxiliaries, and the verbs that captions are full of
    "about above across adorn adorns after against along alongside am among amongst and appear appears are around"
    " as at ate atop attached away back be because been before behind being below beneath beside besides between"
    " beyond built but by can carried carries carry contain contains could covered covers crossing cut cuts"
    " decorated did displayed do does down dressed drink drinks drive drives drove during eat eats except feature"
    " features feed feeds fill filled flew flies fly for forward from gathered get gets give gives go goes got"
    " graze grazes had hang hangs has have having he held here herself him himself hold holds hung i if in include"
    " includes inside into is it itself jump jumped jumps laid lay lays lead leads lean leaned leans lie lies"
    " lined lit loaded located look looked looks made make makes may me might mounted must near nearby nor not of"
    " off on onto or out outside over own owns parked past per piled placed play played plays point points pose"
    " posed poses prepare prepares pull pulled pulls push pushes put puts ran reach reaches rest rests ride rides"
    " rode run runs sat seated seem seems seen set sets she should show showed shown shows sit sits sleep sleeps"
    " smile smiles stacked stand stands stood surround surrounded surrounds swim swims swing swings swung take"
    " taken takes than them themselves then there they though through throughout tied to together took topped"
    " toward towards tried tries try turned under underneath until up upon us use used uses via walk walked walks"
    " was watch watches we wear wears went were what when where which while who whose will with within without"
    " wore would you"
)
_NO_CONCEPT = _words(
    "area background bottom bunch center centre close-up closeup corner couple day distance edge end focus"
    " foreground front group image it's item items kind lot lots middle number others pair part photo photograph"
    " picture piece pieces place rest row scene set shot side sides someone something stuff thing things time top"
    " type variety view way"
)
_NOUNS_IN_ING = _words(
    "awning bedding building ceiling clearing clothing crossing dining drawing dressing duckling dumpling earring"
    " evening flooring frosting icing king lighting living morning painting parking pudding railing ring serving"
    " sibling siding sling spring string stuffing swing thing topping wedding wing"
)
_ADJECTIVES_IN_ING = _words("dining living parking wedding washing swimming cutting baking")
_NOUNS_IN_LY = _words("fly family belly jelly lily butterfly trolley assembly")
_TOKEN = re.compile(r"[a-z0-9]+(?:['’-][a-z0-9]+)*|[^\sa-z0-9]")

PhraseFinder = Callable[[str], Iterable[Sequence[str]]]
"""From a caption to its noun phrases, each a list of words in lower case."""
_phrase_finder: ContextVar[PhraseFinder | None] = ContextVar("phrase_finder", default=None)


@contextmanager
def phrases_found_by(finder: PhraseFinder | None) -> Iterator[None]:
    """Inside the block, captions are cut into noun phrases by ``finder``; ``None`` means by the rule above.

    This is how one setting of an ingest reaches the readers of all data sets, each of which calls ``concepts_of_caption``.
    """
    token = _phrase_finder.set(finder)
    try:
        yield
    finally:
        _phrase_finder.reset(token)


def concepts_of_caption(caption: str) -> list[str]:
    """Noun concepts of one caption in the order they are named, each once, at most ``MAX_CONCEPTS``."""
    found: dict[str, None] = {}
    for phrase in (_phrase_finder.get() or _phrases_of_rules)(caption):
        for concept in _concepts_of_phrase(phrase):
            found.setdefault(concept)
    return list(found)[:MAX_CONCEPTS]


def concepts_of_captions(captions: Iterable[str]) -> list[str]:
    """Noun concepts of several captions of one picture, those that most captions name first."""
    votes = Counter(concept for caption in captions for concept in concepts_of_caption(caption))
    return [concept for concept, _ in votes.most_common(MAX_CONCEPTS)]


def concept_of_category(name: str) -> str:
    """A COCO panoptic category in words: ``wall-brick`` is a ``brick wall``, ``tree-merged`` a ``tree``."""
    head, *rest = [part for part in name.replace("_", " ").split("-") if part not in ("merged", "other", "stuff")]
    return " ".join([*rest, head] if head in ("wall", "floor") else [head, *rest])


def merge_concepts(*groups: Sequence[str]) -> list[str]:
    """All concepts of the groups in order, each once."""
    return list(dict.fromkeys(concept for group in groups for concept in group))


def _phrases_of_rules(caption: str) -> list[list[str]]:
    return _phrases(_TOKEN.findall(caption.lower()))


def _phrases(tokens: list[str]) -> list[list[str]]:
    """Runs of words that may be one noun phrase."""
    phrases: list[list[str]] = [[]]
    for index, token in enumerate(tokens):
        neighbours = (tokens[index - 1] if index else "", tokens[index + 1] if index + 1 < len(tokens) else "")
        if token in ("and", "or") and all(word in _COLOURS for word in neighbours):
            phrases[-1].append("and")
        elif token in _INTRODUCERS:
            phrases.append([token])
        elif not token[0].isalnum() or _is_break(token, following=neighbours[1]):
            phrases.append([])
        else:
            phrases[-1].append(token)
    return [phrase for phrase in phrases if phrase]


def _is_break(word: str, *, following: str) -> bool:
    if word in _BREAKS:
        return True
    if word.endswith("ing") and len(word) > 4:
        continues = bool(following) and following[0].isalnum() and following not in _BREAKS | _INTRODUCERS
        return word not in _NOUNS_IN_ING and not (word in _ADJECTIVES_IN_ING and continues)
    return word.endswith("ly") and len(word) > 3 and word not in _NOUNS_IN_LY


def _concepts_of_phrase(phrase: Sequence[str]) -> list[str]:
    introduced = phrase[0] in _INTRODUCERS | _VAGUE or phrase[0].isdigit()
    words = [word for word in phrase if word not in _INTRODUCERS | _VAGUE and not word.isdigit()]
    while words and (words[-1].endswith("ed") and len(words) > 1 and words[-1] not in ("bed", "shed", "sled")):
        words.pop()
    if not words or (words[-1] in _NO_CONCEPT and len(words) == 1):
        return []
    if len(words) == 1 and not introduced and words[0].endswith(("ed", "est")):
        return []
    if words[-1] in _COLOURS or len(words[-1]) < 2:
        return []
    return [" ".join(variant[-_MAX_WORDS:]) for variant in _split_colours(words)]


def _split_colours(words: list[str]) -> list[list[str]]:
    """``striped red and blue circle`` as ``striped red circle`` and ``striped blue circle``."""
    if "and" not in words:
        return [words]
    first = words.index("and")
    start, end = first - 1, first + 1
    while end + 2 < len(words) and words[end + 1] == "and":
        end += 2
    colours = words[start : end + 1 : 2]
    return [[*words[:start], colour, *words[end + 1 :]] for colour in colours]
