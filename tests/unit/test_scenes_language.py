"""Captions, questions, phrases and edits of generated scenes: true, and without ambiguity."""

from __future__ import annotations

import re

import numpy as np

from setok.data.scenes.generate import SHAPES, Scene, SceneObject
from setok.data.scenes.language import (
    caption,
    concepts,
    edit_pair,
    object_name,
    questions,
    referring_expressions,
    vocabulary,
)
from tests.drawn import scenes

__all__ = ["scenes"]


def test_captions_and_concepts_name_every_object(scenes: list[Scene]) -> None:
    known = set(vocabulary(scenes[0].family))
    assert len(known) == {"plain": 54, "hard": 294}[scenes[0].family]
    for scene in scenes:
        text, ending = caption(scene).rsplit(" on a", 1)
        assert ending.removeprefix("n").strip() == f"{scene.background} background"
        for shape in SHAPES:
            said = len(re.findall(rf"\b{shape}\b", text))
            assert said == sum(thing.shape == shape for thing in scene.objects)
        last = max(scene.objects, key=lambda thing: thing.cx)
        assert text.endswith(object_name(last))
        assert set(concepts(scene)) <= known
        assert {noun.split()[-1] for noun in concepts(scene)[:-1]} == {thing.shape for thing in scene.objects}


def _words_fit(thing: SceneObject, words: str) -> bool:
    """Whether the words, taken one by one, are all true of the object: written without the library's help."""
    facts = {thing.shape, *thing.colours, thing.texture, "object", "and", "the", "a", "an"}
    return set(words.split()) <= facts


def _answer(scene: Scene, kind: str, question: str) -> str:
    """The answer, worked out from the objects; asserts that there is only one."""
    things = scene.objects
    if kind == "background":
        return scene.background
    if kind == "count":
        return str(len(things))
    if kind == "count_shape":
        shape = re.fullmatch(r"how many (\w+) objects are there\?", question).group(1)
        return str(sum(thing.shape == shape for thing in things))
    if kind == "exists":
        words = re.fullmatch(r"is there an? (.+)\?", question).group(1)
        return "yes" if any(_words_fit(thing, words) for thing in things) else "no"
    if kind == "shape":
        colour = re.search(r"the (\w+) object\?|with (\w+) in it\?", question)
        (only,) = [thing for thing in things if (colour.group(1) or colour.group(2)) in thing.colours]
        return only.shape
    if kind == "larger":
        names = re.fullmatch(r"which is larger, the (.+) or the (.+)\?", question).groups()
        pair = [_only(things, name) for name in names]
        large = max(pair, key=lambda thing: thing.radius)
        assert large is max(pair, key=lambda thing: thing.area)
        return names[pair.index(large)]
    if kind == "left_of":
        named = _only(things, re.fullmatch(r"what is just left of the (.+)\?", question).group(1))
        assert all(abs(thing.cx - named.cx) > 0.05 for thing in things if thing is not named)
        left = sorted((thing for thing in things if thing.cx < named.cx), key=lambda thing: -thing.cx)
        assert len(left) == 1 or left[0].cx - left[1].cx > 0.05
        return object_name(left[0])
    (shape,) = [shape for shape in SHAPES if f" {shape}" in question]
    (only,) = [thing for thing in things if thing.shape == shape]
    if kind == "texture":
        return only.texture
    return " and ".join(sorted(only.colours, key=object_name(only).split().index))


def _only(things: tuple[SceneObject, ...], words: str) -> SceneObject:
    (only,) = [thing for thing in things if _words_fit(thing, words)]
    return only


def test_every_answer_is_the_only_one(scenes: list[Scene]) -> None:
    seen: dict[str, list[str]] = {}
    for scene in scenes:
        asked = questions(scene)
        assert asked == questions(scene)
        assert len({question.kind for question in asked}) == len(asked)
        for question in asked:
            assert question.answer == _answer(scene, question.kind, question.question), question
            seen.setdefault(question.kind, []).append(question.answer)
    expected = {"colour", "shape", "count", "count_shape", "exists", "left_of", "larger", "background"}
    assert set(seen) == expected | ({"colours", "texture"} if scenes[0].family == "hard" else set())
    assert 0.35 < np.mean([answer == "yes" for answer in seen["exists"]]) < 0.65


def test_referring_expressions_fit_one_object(scenes: list[Scene]) -> None:
    extremes = {
        "leftmost": lambda thing: thing.cx,
        "rightmost": lambda thing: -thing.cx,
        "topmost": lambda thing: thing.cy,
        "bottommost": lambda thing: -thing.cy,
        "largest": lambda thing: -thing.area,
        "smallest": lambda thing: thing.area,
    }
    used = set()
    for scene in scenes:
        expressions = referring_expressions(scene)
        assert len({expression.text for expression in expressions}) == len(expressions)
        for expression in expressions:
            _, first, *rest = expression.text.split()
            thing = scene.objects[expression.object_index]
            if first in extremes:
                used.add(first)
                among = sorted((o for o in scene.objects if rest in (["object"], [o.shape])), key=extremes[first])
                assert among[0] is thing
                ahead = extremes[first](among[1]) - extremes[first](among[0])
                assert ahead > (0.15 * among[0].area if "est" in first else 0.05)
            else:
                assert _only(scene.objects, expression.text) is thing
    assert used == set(extremes)


def _may_show(scene: Scene, number: int) -> np.ndarray:
    """Where object ``number`` (0: background) may show: not deep inside another one, not far away."""
    padded = np.pad(scene.mask, 1, mode="edge")
    size = scene.image_size
    around = np.stack([padded[y : y + size, x : x + size] for y in range(3) for x in range(3)])
    shows = ~((around == around[0]).all(0) & (scene.mask != number) & (scene.mask > 0))
    if number == 0:
        return shows
    thing = scene.objects[number - 1]
    y, x = np.mgrid[:size, :size] + 0.5
    return shows & (np.hypot(x - thing.cx * size, y - thing.cy * size) < 1.25 * thing.radius * size + 1.5)


def test_edits_change_their_region_and_nothing_else(scenes: list[Scene]) -> None:
    kinds = set()
    for scene in scenes:
        edit = edit_pair(scene)
        changed = (scene.image != edit.target.image).any(-1)
        kind = edit.instruction.split()[0]
        if edit.instruction.startswith("change the background to"):
            kind, region = "background", _may_show(scene, 0)
            assert edit.target.background == edit.instruction.split()[-1] != scene.background
            assert np.array_equal(edit.target.mask, scene.mask)
        elif kind == "remove":
            (gone,) = [
                number
                for number, thing in enumerate(scene.objects, start=1)
                if (thing.cx, thing.cy) not in {(other.cx, other.cy) for other in edit.target.objects}
            ]
            region = _may_show(scene, gone)
            assert len(edit.target.objects) == len(scene.objects) - 1
        else:
            kind = "recolour"
            pairs = enumerate(zip(scene.objects, edit.target.objects, strict=True), start=1)
            ((number, new),) = [(i, b.colour) for i, (a, b) in pairs if a.colour != b.colour]
            region = _may_show(scene, number)
            assert new == edit.instruction.split()[-1]
            assert np.array_equal(edit.target.mask, scene.mask)
        kinds.add(kind)
        assert changed.any() and not (changed & ~region).any()
        assert not (changed & ~edit.mask).any() and not (edit.mask & ~region).any()
        again = edit_pair(edit.target)
        assert again.target.num_edits == 2 and (again.target.image != edit.target.image).any()
    assert kinds == {"background", "remove", "recolour"}
