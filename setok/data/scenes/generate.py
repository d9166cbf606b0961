"""Generated scenes with known truth: coloured shapes on a backdrop, a mask per object, and a description of
everything drawn.

``generate_scene`` is a pure function, so any process can make any index. Two families:

* ``plain``: objects of one colour on a plain, gradient, striped or noisy backdrop;
* ``hard``: where colour alone does not tell objects apart: two-coloured and textured objects, touching
  neighbours that share a colour, and backdrops with regions in the colours and textures of the objects.

What the scenes are called in words is in ``setok.data.scenes.language``.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from setok.data.scenes.drawing import DISTRACTOR_STYLES, PLAIN_STYLES, SHAPES, TEXTURES
from setok.data.scenes.objects import (
    BACKGROUNDS,
    COLOURS,
    FAMILIES,
    Backdrop,
    Layer,
    Scene,
    SceneObject,
    coverage_of,
    paint,
    redraw,
)
from setok.errors import ConfigError, did_you_mean

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "FAMILIES",
    "LARGEST_NUM_OBJECTS",
    "MIN_VISIBLE",
    "SHAPES",
    "SMALLEST_IMAGE_SIZE",
    "TEXTURES",
    "Backdrop",
    "Scene",
    "SceneObject",
    "check_request",
    "generate_scene",
    "redraw",
]

LARGEST_NUM_OBJECTS = 8
SMALLEST_IMAGE_SIZE = 16
MIN_VISIBLE = 0.7
"""Every object keeps at least this share of its pixels."""
_TRIES = 20


def generate_scene(
    index: int,
    *,
    seed: int,
    family: str,
    image_size: int = 64,
    min_objects: int = 1,
    max_objects: int = 6,
) -> Scene:
    """Scene number ``index``: a pure function of the arguments.

    Args:
        index: which scene, from 0.
        seed: scenes of different seeds have nothing in common.
        family: one of ``FAMILIES``.
        image_size: height and width in pixels.
        min_objects: fewest objects.
        max_objects: most objects, at most ``LARGEST_NUM_OBJECTS``; now and then one finds no place and is
        left out.

    Raises:
        ConfigError: an unknown family or a number out of range.
    """
    check_request(
        seed=seed,
        family=family,
        image_size=image_size,
        min_objects=min_objects,
        max_objects=max_objects,
        index=index,
    )
    key = np.random.SeedSequence([seed, FAMILIES.index(family), index])
    rng = np.random.Generator(np.random.Philox(key))
    num_objects = int(rng.integers(min_objects, max_objects + 1))
    layers = _place_objects(rng, family=family, image_size=image_size, num_objects=num_objects, min_objects=min_objects)
    backdrop = _draw_backdrop(rng, family=family, objects=[drawn for drawn, _ in layers])
    image, mask, objects = paint(backdrop, layers, image_size)
    return Scene(index=index, seed=seed, family=family, image=image, mask=mask, objects=objects, backdrop=backdrop)


def check_request(
    *, seed: int, family: str, image_size: int, min_objects: int, max_objects: int, index: int = 0
) -> None:
    """Refuse what ``generate_scene`` cannot draw.

    Raises:
        ConfigError: an unknown family or a number out of range.
    """
    if family not in FAMILIES:
        raise ConfigError(f"there is no scene family {family!r}", did_you_mean(family, FAMILIES))
    if seed < 0 or index < 0:
        raise ConfigError(f"seed={seed}, index={index}: both must be 0 or more", "choose a seed such as 1")
    if image_size < SMALLEST_IMAGE_SIZE:
        raise ConfigError(
            f"image_size={image_size} is too small for shapes, {SMALLEST_IMAGE_SIZE} is the least",
            "use a size such as 64",
        )
    if not 1 <= min_objects <= max_objects <= LARGEST_NUM_OBJECTS:
        raise ConfigError(
            f"min_objects={min_objects}, max_objects={max_objects}: "
            f"1 ≤ min_objects ≤ max_objects ≤ {LARGEST_NUM_OBJECTS} is allowed",
            "use for example min_objects=1, max_objects=6",
        )


# ---------------------------------------------------------------- drawing lots


def _place_objects(
    rng: np.random.Generator, *, family: str, image_size: int, num_objects: int, min_objects: int
) -> list[Layer]:
    """Draw objects until they fit: each keeps ``MIN_VISIBLE`` of itself; what fits nowhere is left out."""
    layers: list[Layer] = []
    mask = np.zeros((image_size, image_size), np.uint8)
    full_areas: list[int] = []
    for _ in range(num_objects):
        tries = 0
        while tries < _TRIES or len(layers) < min_objects:
            shrink = 0.9 ** max(0, tries - _TRIES + 1)
            tries += 1
            drawn = _draw_object(rng, family=family, crowd=num_objects, shrink=shrink, others=layers)
            cover = coverage_of(drawn, image_size)
            inside = cover > 0.5
            if not inside.any():
                continue
            after = np.where(inside, np.uint8(len(layers) + 1), mask)
            areas = np.bincount(after.ravel(), minlength=len(layers) + 2)[1:]
            if all(area >= MIN_VISIBLE * full for area, full in zip(areas, full_areas, strict=False)):
                layers.append((drawn, cover))
                full_areas.append(int(inside.sum()))
                mask = after
                break
    return layers


def _choose(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _draw_object(
    rng: np.random.Generator, *, family: str, crowd: int, shrink: float, others: list[Layer]
) -> SceneObject:
    """One object as the family has them; where ``crowd``, the number wanted, is above 3, they are smaller."""
    low, high = (0.10, 0.20) if family == "plain" else (0.12, 0.21)
    radius = rng.uniform(low, high) * (1.0 if crowd <= 3 else 0.85) * shrink
    cx, cy = rng.uniform(radius, 1 - radius, 2)
    drawn = SceneObject(
        shape=_choose(rng, SHAPES),
        colour=_choose(rng, tuple(COLOURS)),
        cx=float(cx),
        cy=float(cy),
        radius=float(radius),
        angle=float(rng.uniform(-0.4, 0.4)),
        shade=float(np.clip(1 + 0.12 * rng.standard_normal(), 0.8, 1.15)),
    )
    if family == "plain":
        return drawn
    texture = _choose(rng, ("solid", *TEXTURES))
    if others and rng.random() < 0.5:
        drawn, texture = _beside(rng, drawn, texture=texture, other=others[int(rng.integers(len(others)))][0])
    if texture == "solid":
        return drawn
    second = _choose(rng, tuple(colour for colour in COLOURS if colour != drawn.colour))
    return replace(drawn, texture=texture, second_colour=second, texture_angle=float(rng.uniform(0, math.pi)))


def _beside(
    rng: np.random.Generator, drawn: SceneObject, *, texture: str, other: SceneObject
) -> tuple[SceneObject, str]:
    """Move ``drawn`` so that it touches ``other``, and give it the same colour but another texture."""
    direction = rng.uniform(0, 2 * math.pi)
    distance = (drawn.radius + other.radius) * rng.uniform(0.8, 1.0)
    cx = float(np.clip(other.cx + distance * math.cos(direction), drawn.radius, 1 - drawn.radius))
    cy = float(np.clip(other.cy + distance * math.sin(direction), drawn.radius, 1 - drawn.radius))
    if texture == other.texture:
        texture = _choose(rng, tuple(name for name in TEXTURES if name != texture))
    return replace(drawn, cx=cx, cy=cy, colour=other.colour), texture


def _draw_backdrop(rng: np.random.Generator, *, family: str, objects: list[SceneObject]) -> Backdrop:
    """A backdrop as the family has them; distractors take the colours of the objects more often than not."""
    styles = PLAIN_STYLES if family == "plain" else PLAIN_STYLES + 2 * DISTRACTOR_STYLES
    style = _choose(rng, styles)
    present = tuple(dict.fromkeys(colour for drawn in objects for colour in drawn.colours))
    colours = tuple(
        _choose(rng, present if rng.random() < 0.7 else tuple(COLOURS)) for _ in range(2 * (style in DISTRACTOR_STYLES))
    )
    return Backdrop(
        name=_choose(rng, tuple(BACKGROUNDS)),
        style=style,
        angle=float(rng.uniform(0, 2 * math.pi)),
        frequency=float(rng.uniform(4, 8)),
        colours=colours,
        seed=int(rng.integers(2**31)),
    )
