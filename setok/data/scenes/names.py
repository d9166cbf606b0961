"""Names of the objects of a scene, when a name is unambiguous, and the scene's caption and concepts."""

from __future__ import annotations

from setok.data.scenes.generate import BACKGROUNDS, COLOURS, SHAPES, TEXTURES, Scene, SceneObject

CLEAR_DISTANCE = 0.06
"""Two centres this far apart (share of the picture's side) are clearly left and right, or above and below."""
CLEAR_AREA_RATIO = 1.3
"""An object of this many times the visible area of another one is clearly the larger one."""
_BOTH_COLOURS_EQUAL = ("striped", "checked", "halved")
_ORDER = {colour: number for number, colour in enumerate(COLOURS)}


def object_name(thing: SceneObject) -> str:
    """``red circle``; with two colours ``striped red and blue circle``, a main colour first."""
    if thing.second_colour is None:
        return f"{thing.colour} {thing.shape}"
    return f"{thing.texture} {colours_of(thing)} {thing.shape}"


def colours_of(thing: SceneObject) -> str:
    """``red``, or ``red and blue``; colours with equal shares come in the order of ``COLOURS``."""
    colours = thing.colours
    if thing.texture in _BOTH_COLOURS_EQUAL:
        colours = tuple(sorted(colours, key=_ORDER.__getitem__))
    return " and ".join(colours)


def object_concepts(thing: SceneObject) -> tuple[str, ...]:
    """The nouns of an object: ``red circle``, or ``striped red circle`` and ``striped blue circle``."""
    if thing.second_colour is None:
        return (f"{thing.colour} {thing.shape}",)
    return tuple(f"{thing.texture} {colour} {thing.shape}" for colour in thing.colours)


def fits(
    thing: SceneObject, *, shape: str | None = None, colours: tuple[str, ...] = (), texture: str | None = None
) -> bool:
    """Whether a lenient reader lets the words pass for the object: a striped red circle is a red circle."""
    return shape in (None, thing.shape) and set(colours) <= set(thing.colours) and texture in (None, thing.texture)


def fits_description_of(thing: SceneObject, other: SceneObject) -> bool:
    """Whether the name of ``other`` would pass for ``thing``."""
    texture = None if other.second_colour is None else other.texture
    return fits(thing, shape=other.shape, colours=other.colours, texture=texture)


def is_unique(scene: Scene, index: int) -> bool:
    """Whether the name of object ``index`` fits no other object."""
    named = scene.objects[index]
    return sum(fits_description_of(thing, named) for thing in scene.objects) == 1


def vocabulary(family: str) -> tuple[str, ...]:
    """All concepts that scenes of a family can show, in a fixed order: things, then backgrounds."""
    textures = ("",) if family == "plain" else ("", *(f"{texture} " for texture in TEXTURES if texture != "solid"))
    things = (f"{texture}{colour} {shape}" for texture in textures for colour in COLOURS for shape in SHAPES)
    return (*things, *(f"{name} background" for name in BACKGROUNDS))


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def article(words: str) -> str:
    """``words`` behind *a* or *an*."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def caption(scene: Scene) -> str:
    """From left to right: ``a red circle and a blue ring on a gray background``."""
    names = [object_name(thing) for thing in sorted(scene.objects, key=lambda thing: thing.cx)]
    return f"{_join([article(name) for name in names])} on {article(scene.background)} background"


def concepts(scene: Scene) -> tuple[str, ...]:
    """Nouns that are true of the scene, each once, in alphabetical order, the background last."""
    nouns = {noun for thing in scene.objects for noun in object_concepts(thing)}
    return (*sorted(nouns), f"{scene.background} background")
