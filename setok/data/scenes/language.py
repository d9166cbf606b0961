"""What a generated scene is called: captions, concepts, questions, referring expressions and edits.

Everything is a function of the scene, and nothing is said that a careful viewer could dispute: a
description is used for an object only where no other object fits it, and *left of*, *largest* and the like
only where the difference is plain to see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from setok.data.scenes.generate import COLOURS, SHAPES, TEXTURES, Scene, SceneObject
from setok.data.scenes.names import (
    CLEAR_AREA_RATIO,
    CLEAR_DISTANCE,
    article,
    caption,
    colours_of,
    concepts,
    fits,
    fits_description_of,
    is_unique,
    object_concepts,
    object_name,
    vocabulary,
)
from setok.data.scenes.references import Edit, Expression, edit_pair, referring_expressions

__all__ = [
    "Edit",
    "Expression",
    "Question",
    "caption",
    "concepts",
    "edit_pair",
    "object_concepts",
    "object_name",
    "questions",
    "referring_expressions",
    "vocabulary",
]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about a scene and its only answer."""

    kind: str
    """colour, colours, texture, shape, count, count_shape, exists, left_of, larger or background."""
    question: str
    answer: str
    """Lower case; numbers in digits; ``yes`` or ``no``."""
    question_type: str
    """First words of the question, as VQAv2 groups questions."""
    objects: tuple[int, ...] = ()
    """Indices of the objects that the question names or is about."""

    @property
    def answer_type(self) -> str:
        """``yes/no``, ``number`` or ``other``, as VQAv2 has them."""
        if self.answer in ("yes", "no"):
            return "yes/no"
        return "number" if self.answer.isdigit() else "other"


def questions(scene: Scene) -> tuple[Question, ...]:
    """At most one question of each kind; kinds without a clear answer in this scene are left out."""
    rng = scene.generator("questions")
    asked = [ask(scene, rng) for ask in _ASK]
    return tuple(question for question in asked if question is not None)


def _pick(rng: np.random.Generator, choices: list[int]) -> int:
    return choices[int(rng.integers(len(choices)))]


def _of_unique_shape(scene: Scene) -> list[int]:
    shapes = [thing.shape for thing in scene.objects]
    return [index for index, shape in enumerate(shapes) if shapes.count(shape) == 1]


def _unique(scene: Scene) -> list[int]:
    return [index for index in range(len(scene.objects)) if is_unique(scene, index)]


def _ask_colour(scene: Scene, rng: np.random.Generator) -> Question | None:
    candidates = _of_unique_shape(scene)
    if not candidates:
        return None
    index = _pick(rng, candidates)
    thing = scene.objects[index]
    if thing.second_colour is None:
        kind, words = "colour", "what colour is the"
        question = f"{words} {thing.shape}?"
    else:
        kind, words = "colours", "what two colours"
        question = f"{words} does the {thing.shape} have?"
    return Question(kind=kind, question=question, answer=colours_of(thing), question_type=words, objects=(index,))


def _ask_texture(scene: Scene, rng: np.random.Generator) -> Question | None:
    candidates = _of_unique_shape(scene)
    if scene.family == "plain" or not candidates:
        return None
    index = _pick(rng, candidates)
    thing = scene.objects[index]
    return Question(
        kind="texture",
        question=f"what pattern does the {thing.shape} have?",
        answer=thing.texture,
        question_type="what pattern",
        objects=(index,),
    )


def _ask_shape(scene: Scene, rng: np.random.Generator) -> Question | None:
    choices = [
        (index, colour)
        for index, thing in enumerate(scene.objects)
        for colour in thing.colours
        if sum(fits(other, colours=(colour,)) for other in scene.objects) == 1
    ]
    if not choices:
        return None
    index, colour = choices[_pick(rng, list(range(len(choices))))]
    words = (
        f"what shape is the {colour} object?"
        if scene.objects[index].second_colour is None
        else (f"what shape is the object with {colour} in it?")
    )
    return Question(
        kind="shape",
        question=words,
        answer=scene.objects[index].shape,
        question_type="what shape is the",
        objects=(index,),
    )


def _ask_count(scene: Scene, rng: np.random.Generator) -> Question:
    return Question(
        kind="count",
        question="how many objects are there?",
        answer=str(len(scene.objects)),
        question_type="how many",
        objects=tuple(range(len(scene.objects))),
    )


def _ask_count_shape(scene: Scene, rng: np.random.Generator) -> Question:
    shapes = [thing.shape for thing in scene.objects]
    likely = rng.random() < 0.7
    shape = shapes[int(rng.integers(len(shapes)))] if likely else SHAPES[int(rng.integers(len(SHAPES)))]
    counted = tuple(index for index, other in enumerate(shapes) if other == shape)
    return Question(
        kind="count_shape",
        question=f"how many {shape} objects are there?",
        answer=str(len(counted)),
        question_type="how many",
        objects=counted,
    )


def _ask_exists(scene: Scene, rng: np.random.Generator) -> Question:
    index = int(rng.integers(len(scene.objects)))
    about: tuple[int, ...] = ()
    if rng.random() < 0.5:
        name, answer, about = object_name(scene.objects[index]), "yes", (index,)
    else:
        name, answer = _hard_negative(scene, index, rng), "no"
    return Question(
        kind="exists",
        question=f"is there {article(name)}?",
        answer=answer,
        question_type="is there a",
        objects=about,
    )


def _hard_negative(scene: Scene, index: int, rng: np.random.Generator) -> str:
    """Name of something absent that differs from object ``index`` in one attribute.

    Seven other objects of at most two colours cannot stand in the way of all other shapes and colours: one
    is always left.
    """
    present = scene.objects[index]
    others: list[SceneObject] = []
    if rng.random() < 0.5:
        others = [replace(present, shape=shape) for shape in SHAPES]
    elif present.second_colour is not None and rng.random() < 0.5:
        others = [replace(present, texture=texture) for texture in TEXTURES if texture != "solid"]
    fallback = [replace(present, colour=colour) for colour in COLOURS if colour != present.second_colour]
    fallback += [replace(present, shape=shape) for shape in SHAPES]
    for candidates in (others, fallback):
        absent = [
            object_name(other)
            for other in candidates
            if not any(fits_description_of(thing, other) for thing in scene.objects)
        ]
        if absent:
            return absent[int(rng.integers(len(absent)))]
    raise AssertionError("unreachable: fewer objects than alternatives")


def _ask_left_of(scene: Scene, rng: np.random.Generator) -> Question | None:
    """The neighbour is clear when nothing is level with it or with the object that is named."""
    order = sorted(range(len(scene.objects)), key=lambda index: scene.objects[index].cx)
    places = [-1.0] + [scene.objects[index].cx for index in order] + [2.0]
    clear = [right - left >= CLEAR_DISTANCE for left, right in pairwise(places)]
    choices = [
        rank
        for rank in range(1, len(order))
        if clear[rank - 1] and clear[rank] and clear[rank + 1] and is_unique(scene, order[rank])
    ]
    if not choices:
        return None
    rank = _pick(rng, choices)
    named, neighbour = order[rank], order[rank - 1]
    return Question(
        kind="left_of",
        question=f"what is just left of the {object_name(scene.objects[named])}?",
        answer=object_name(scene.objects[neighbour]),
        question_type="what is",
        objects=(named, neighbour),
    )


def _ask_larger(scene: Scene, rng: np.random.Generator) -> Question | None:
    unique = _unique(scene)
    pairs = [(a, b) for a in unique for b in unique if a < b and _clearly_differ_in_size(scene, a, b)]
    if not pairs:
        return None
    first, second = pairs[_pick(rng, list(range(len(pairs))))]
    if rng.random() < 0.5:
        first, second = second, first
    larger = max(first, second, key=lambda index: scene.objects[index].area)
    names = [object_name(scene.objects[index]) for index in (first, second)]
    return Question(
        kind="larger",
        question=f"which is larger, the {names[0]} or the {names[1]}?",
        answer=object_name(scene.objects[larger]),
        question_type="which",
        objects=(first, second),
    )


def _clearly_differ_in_size(scene: Scene, first: int, second: int) -> bool:
    """One is larger by radius, by pixels and by visible pixels, the last by ``CLEAR_AREA_RATIO``."""
    small, large = sorted((scene.objects[first], scene.objects[second]), key=lambda thing: thing.area)
    return (
        large.area >= CLEAR_AREA_RATIO * small.area
        and large.radius > small.radius
        and large.full_area > small.full_area
    )


def _ask_background(scene: Scene, rng: np.random.Generator) -> Question:
    return Question(
        kind="background",
        question="what colour is the background?",
        answer=scene.background,
        question_type="what colour is the",
    )


_ASK: tuple[Callable[[Scene, np.random.Generator], Question | None], ...] = (
    _ask_colour,
    _ask_texture,
    _ask_shape,
    _ask_count,
    _ask_count_shape,
    _ask_exists,
    _ask_left_of,
    _ask_larger,
    _ask_background,
)
