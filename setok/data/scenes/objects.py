"""What a generated scene is made of, and how it becomes a picture and a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from setok.data.scenes.drawing import coverage, paint_backdrop, pattern

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 225),
    "yellow": (240, 215, 50),
    "purple": (150, 55, 180),
    "orange": (245, 140, 30),
    "cyan": (60, 205, 220),
    "pink": (250, 150, 190),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "gray": (128, 128, 128),
    "white": (235, 235, 235),
    "black": (25, 25, 25),
    "brown": (120, 85, 55),
    "navy": (25, 35, 80),
    "olive": (95, 105, 50),
}
FAMILIES = ("plain", "hard")
_SMALL_BELOW, _LARGE_FROM = 0.125, 0.16


@dataclass(frozen=True, kw_only=True)
class Backdrop:
    """What lies behind the objects."""

    name: str
    """One of ``BACKGROUNDS``."""
    style: str
    angle: float = 0.0
    frequency: float = 0.0
    colours: tuple[str, ...] = ()
    """Colours of the distractor regions (hard family only)."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One object, in the order of drawing: later objects lie over earlier ones.

    ``cx``, ``cy`` and ``radius`` are shares of the side of the picture; angles are radians; the last three
    fields are pixels.
    """

    shape: str
    colour: str
    second_colour: str | None = None
    texture: str = "solid"
    cx: float
    cy: float
    radius: float
    angle: float
    texture_angle: float = 0.0
    shade: float
    """Factor on the colours of ``COLOURS``."""
    bbox: tuple[int, int, int, int] = (0, 0, 0, 0)
    """x, y, width and height of the visible pixels."""
    area: int = 0
    """Number of visible pixels."""
    full_area: int = 0
    """Number of pixels without what lies over the object."""

    @property
    def colours(self) -> tuple[str, ...]:
        """Its one or two colours."""
        return (self.colour,) if self.second_colour is None else (self.colour, self.second_colour)

    @property
    def size(self) -> str:
        """``small``, ``medium`` or ``large``, by radius."""
        if self.radius < _SMALL_BELOW:
            return "small"
        return "medium" if self.radius < _LARGE_FROM else "large"

    @property
    def visible(self) -> float:
        """Share of its pixels that nothing lies over."""
        return self.area / self.full_area


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A picture and the truth about it."""

    index: int
    seed: int
    family: str
    image: UInt8[np.ndarray, "size size 3"]
    mask: UInt8[np.ndarray, "size size"]
    """0 is background, i + 1 is ``objects[i]``."""
    objects: tuple[SceneObject, ...]
    backdrop: Backdrop
    num_edits: int = 0
    """How many edits lie between the generated scene and this one."""

    @property
    def background(self) -> str:
        """Name of the colour of the backdrop."""
        return self.backdrop.name

    @property
    def background_style(self) -> str:
        """One of ``PLAIN_STYLES``, in the hard family also of ``DISTRACTOR_STYLES``."""
        return self.backdrop.style

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.image.shape[0]

    def generator(self, purpose: str) -> np.random.Generator:
        """Random numbers that belong to this scene and ``purpose``, the same in every process."""
        key = [self.seed, FAMILIES.index(self.family), self.index, self.num_edits, *purpose.encode()]
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


# ---------------------------------------------------------------- painting

Layer = tuple[SceneObject, Float[np.ndarray, "size size"]]


def redraw(scene: Scene, *, objects: tuple[SceneObject, ...], backdrop: Backdrop) -> Scene:
    """``scene`` with other objects or another backdrop; whatever stays is drawn exactly as before."""
    layers = [(drawn, coverage_of(drawn, scene.image_size)) for drawn in objects]
    image, mask, measured = paint(backdrop, layers, scene.image_size)
    return replace(scene, image=image, mask=mask, objects=measured, backdrop=backdrop, num_edits=scene.num_edits + 1)


def coverage_of(drawn: SceneObject, size: int) -> Float[np.ndarray, "size size"]:
    """Share of every pixel that the object covers in a picture of ``size`` pixels."""
    return coverage(
        drawn.shape,
        cx=drawn.cx * size,
        cy=drawn.cy * size,
        radius=drawn.radius * size,
        angle=drawn.angle,
        size=size,
    )


def _paint_object(drawn: SceneObject, size: int) -> Float[np.ndarray, "*size 3"]:
    """Colour of the object at every pixel, or one colour for all of them."""
    first = np.array(COLOURS[drawn.colour], np.float32) * drawn.shade
    if drawn.second_colour is None:
        return first
    second = np.array(COLOURS[drawn.second_colour], np.float32) * drawn.shade
    share = pattern(
        drawn.texture,
        shape=drawn.shape,
        cx=drawn.cx * size,
        cy=drawn.cy * size,
        radius=drawn.radius * size,
        angle=drawn.angle,
        texture_angle=drawn.texture_angle,
        size=size,
    )[..., None]
    return first * (1 - share) + second * share


def paint(
    backdrop: Backdrop, layers: list[Layer], size: int
) -> tuple[UInt8[np.ndarray, "size size 3"], UInt8[np.ndarray, "size size"], tuple[SceneObject, ...]]:
    """Paint the layers over the backdrop; returns picture, mask, and the objects with boxes and areas."""
    canvas = paint_backdrop(
        np.array(BACKGROUNDS[backdrop.name], np.float32),
        style=backdrop.style,
        angle=backdrop.angle,
        frequency=backdrop.frequency,
        colours=[np.array(COLOURS[colour], np.float32) for colour in backdrop.colours],
        seed=backdrop.seed,
        size=size,
    )
    mask = np.zeros((size, size), np.uint8)
    for number, (drawn, cover) in enumerate(layers, start=1):
        share = cover[..., None]
        canvas = canvas * (1 - share) + _paint_object(drawn, size) * share
        mask[cover > 0.5] = number
    objects = []
    for number, (drawn, cover) in enumerate(layers, start=1):
        here = mask == number
        rows, columns = np.flatnonzero(here.any(1)), np.flatnonzero(here.any(0))
        top, left = int(rows[0]), int(columns[0])
        bbox = (left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1)
        area, full_area = int(here.sum()), int((cover > 0.5).sum())
        objects.append(replace(drawn, bbox=bbox, area=area, full_area=full_area))
    return np.clip(canvas, 0, 255).astype(np.uint8), mask, tuple(objects)


def contact_sheet(scenes: Sequence[Scene], *, columns: int = 10, scale: int = 2) -> Image.Image:
    """A grid of pictures, each ``scale`` times enlarged, with its mask in colours below it."""
    palette = np.array([(40, 40, 40), *COLOURS.values()], np.uint8)
    tiles = [np.concatenate([scene.image, palette[scene.mask]]) for scene in scenes]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[first : first + columns], axis=1) for first in range(0, len(tiles), columns)]
    sheet = Image.fromarray(np.concatenate(rows))
    return sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)
