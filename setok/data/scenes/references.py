"""Pointing at objects of a generated scene in words, and changing them on an instruction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from setok.data.scenes.generate import BACKGROUNDS, COLOURS, Scene, SceneObject, redraw
from setok.data.scenes.names import CLEAR_AREA_RATIO, CLEAR_DISTANCE, fits, is_unique, object_name


@dataclass(frozen=True, kw_only=True)
class Expression:
    """Words that fit exactly one object of a scene."""

    text: str
    object_index: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Edit:
    """An instruction and the scene after it."""

    instruction: str
    target: Scene
    mask: Bool[np.ndarray, "size size"]
    """True where the picture changes, and on the whole edited object or background."""


# ---------------------------------------------------------------- referring expressions


def referring_expressions(scene: Scene) -> tuple[Expression, ...]:
    """All expressions that fit exactly one object: by name, by shape or colour alone, by place or size."""
    found = {}
    for index, thing in enumerate(scene.objects):
        if is_unique(scene, index):
            found[f"the {object_name(thing)}"] = index
        if sum(fits(other, shape=thing.shape) for other in scene.objects) == 1:
            found[f"the {thing.shape}"] = index
        if thing.second_colour is None:
            if sum(fits(other, colours=thing.colours) for other in scene.objects) == 1:
                found[f"the {thing.colour} object"] = index
        elif sum(fits(other, texture=thing.texture) for other in scene.objects) == 1:
            found[f"the {thing.texture} object"] = index
    everything = list(range(len(scene.objects)))
    _add_extremes(found, scene, everything, noun="object")
    for shape in dict.fromkeys(thing.shape for thing in scene.objects):
        _add_extremes(found, scene, [i for i in everything if scene.objects[i].shape == shape], noun=shape)
    return tuple(Expression(text=text, object_index=index) for text, index in found.items())


def _add_extremes(found: dict[str, int], scene: Scene, among: list[int], *, noun: str) -> None:
    """Add the leftmost, largest, … object of two or more, where the lead over the next one is clear."""
    if len(among) < 2:
        return
    for word, lead in _EXTREMES.items():
        first, second = sorted(among, key=lambda index: lead.key(scene.objects[index]))[:2]
        if lead.is_clear(scene.objects[first], scene.objects[second], [scene.objects[index] for index in among]):
            found[f"the {word} {noun}"] = first


@dataclass(frozen=True)
class _Lead:
    """An order of objects, and when the first of them is clearly the first."""

    key: Callable[[SceneObject], float]
    is_clear: Callable[[SceneObject, SceneObject, list[SceneObject]], bool]


def _by_place(sign: int, *, axis: int) -> _Lead:
    """Centres must lie apart, and the outer edges must agree with the centres."""

    def centre(thing: SceneObject) -> float:
        return sign * (thing.cx, thing.cy)[axis]

    def edge(thing: SceneObject) -> int:
        return thing.bbox[axis] if sign > 0 else -(thing.bbox[axis] + thing.bbox[axis + 2])

    def is_clear(first: SceneObject, second: SceneObject, among: list[SceneObject]) -> bool:
        apart = centre(second) - centre(first) >= CLEAR_DISTANCE
        return apart and edge(first) == min(edge(thing) for thing in among)

    return _Lead(key=centre, is_clear=is_clear)


def _by_size(sign: int) -> _Lead:
    """Visible areas must differ by ``CLEAR_AREA_RATIO``, and the radii must agree with them."""

    def area(thing: SceneObject) -> float:
        return float(sign * thing.area)

    def is_clear(first: SceneObject, second: SceneObject, among: list[SceneObject]) -> bool:
        small, large = sorted((first.area, second.area))
        apart = large >= CLEAR_AREA_RATIO * small
        return apart and sign * first.radius == min(sign * thing.radius for thing in among)

    return _Lead(key=area, is_clear=is_clear)


_EXTREMES = {
    "leftmost": _by_place(1, axis=0),
    "rightmost": _by_place(-1, axis=0),
    "topmost": _by_place(1, axis=1),
    "bottommost": _by_place(-1, axis=1),
    "largest": _by_size(-1),
    "smallest": _by_size(1),
}


# ---------------------------------------------------------------- edits


def edit_pair(scene: Scene) -> Edit:
    """An edit that suits the scene: recolour an object, remove one, or change the background.

    Source and target differ only where they must. Editing the target again gives the next turn of a session.
    """
    rng = scene.generator("edit")
    named = {expression.object_index: expression.text for expression in reversed(referring_expressions(scene))}
    kinds = ["background"] + ["recolour"] * (2 if named else 0) + ["remove"] * (len(scene.objects) > 1 and bool(named))
    kind = kinds[int(rng.integers(len(kinds)))]
    if kind == "background":
        return _change_background(scene, rng)
    index = sorted(named)[int(rng.integers(len(named)))]
    edit = _recolour if kind == "recolour" else _remove
    return edit(scene, rng, index=index, words=named[index])


def _finish(scene: Scene, target: Scene, *, edited: Bool[np.ndarray, "size size"], instruction: str) -> Edit:
    mask = (scene.image != target.image).any(-1) | edited
    return Edit(instruction=instruction, target=target, mask=mask)


def _change_background(scene: Scene, rng: np.random.Generator) -> Edit:
    others = [name for name in BACKGROUNDS if name != scene.background]
    name = others[int(rng.integers(len(others)))]
    target = redraw(scene, objects=scene.objects, backdrop=replace(scene.backdrop, name=name))
    return _finish(scene, target, edited=scene.mask == 0, instruction=f"change the background to {name}")


def _recolour(scene: Scene, rng: np.random.Generator, *, index: int, words: str) -> Edit:
    thing = scene.objects[index]
    others = [colour for colour in COLOURS if colour not in thing.colours]
    colour = others[int(rng.integers(len(others)))]
    if thing.second_colour is None:
        instruction = f"make {words} {colour}"
    else:
        instruction = f"change the {thing.colour} of {words} to {colour}"
    objects = (*scene.objects[:index], replace(thing, colour=colour), *scene.objects[index + 1 :])
    target = redraw(scene, objects=objects, backdrop=scene.backdrop)
    return _finish(scene, target, edited=scene.mask == index + 1, instruction=instruction)


def _remove(scene: Scene, rng: np.random.Generator, *, index: int, words: str) -> Edit:
    objects = (*scene.objects[:index], *scene.objects[index + 1 :])
    target = redraw(scene, objects=objects, backdrop=scene.backdrop)
    return _finish(scene, target, edited=scene.mask == index + 1, instruction=f"remove {words}")
