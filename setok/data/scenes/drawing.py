"""How the generated scenes are drawn: coverage of shapes, patterns on them, and backdrops.

Coordinates are pixels, x to the right and y down, (0, 0) the upper left corner of the upper left pixel.
Everything is a pure function of its arguments.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

OVERSAMPLING = 2
"""Shapes are drawn this much larger and averaged, which gives their edges soft pixels."""

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
TEXTURES = ("solid", "striped", "checked", "dotted", "halved", "bordered")
PLAIN_STYLES = ("plain", "gradient", "striped", "noisy")
DISTRACTOR_STYLES = ("blobs", "bands", "patches")
_DISTRACTOR_STRENGTH = 0.6

_POLYGONS: dict[str, tuple[int, tuple[float, ...], float]] = {
    "square": (4, (1.15,), math.pi / 4),
    "triangle": (3, (1.25,), -math.pi / 2),
    "star": (10, (1.25, 0.55), -math.pi / 2),
}
"""Number of corners, their distances from the centre in radii (in turn), and the angle of the first."""


def _corners(shape: str, radius: float) -> Float[np.ndarray, "corners 2"]:
    """Corners of a polygonal shape of ``radius`` around the origin, upright."""
    if shape == "cross":
        reach, half_width = 1.1 * radius, 0.4 * radius
        arm = np.array([(-half_width, -reach), (half_width, -reach), (half_width, -half_width)])
        quarter_turn = np.array([(0.0, 1.0), (-1.0, 0.0)])
        return np.concatenate([arm @ np.linalg.matrix_power(quarter_turn, turn) for turn in range(4)])
    count, reaches, start = _POLYGONS[shape]
    angles = start + 2 * math.pi * np.arange(count) / count
    distances = radius * np.resize(np.array(reaches), count)
    return np.stack([distances * np.cos(angles), distances * np.sin(angles)], axis=1)


def coverage(
    shape: str, *, cx: float, cy: float, radius: float, angle: float, size: int
) -> Float[np.ndarray, "size size"]:
    """Share of every pixel, 0 to 1, that a shape covers.

    Args:
        shape: one of ``SHAPES``.
        cx: centre in pixels; ``cy`` likewise.
        radius: nominal radius in pixels; corners reach up to 1.25 times as far.
        angle: rotation in radians.
        size: height and width of the picture in pixels.
    """
    canvas = Image.new("L", (size * OVERSAMPLING, size * OVERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    cx, cy, radius = cx * OVERSAMPLING, cy * OVERSAMPLING, radius * OVERSAMPLING
    if shape in ("circle", "ring"):
        draw.ellipse([cx - radius, cy - radius, cx + radius, cy + radius], fill=255)
        if shape == "ring":
            hole = radius * 0.5
            draw.ellipse([cx - hole, cy - hole, cx + hole, cy + hole], fill=0)
    else:
        cos, sin = math.cos(angle), math.sin(angle)
        turned = _corners(shape, radius) @ np.array([(cos, sin), (-sin, cos)]) + (cx, cy)
        draw.polygon([tuple(corner) for corner in turned.tolist()], fill=255)
    return _shrink(np.asarray(canvas, np.float32)) / 255


def _shrink(fine: Float[np.ndarray, "fine fine"]) -> Float[np.ndarray, "size size"]:
    """Mean over every block of ``OVERSAMPLING`` × ``OVERSAMPLING`` pixels."""
    step = OVERSAMPLING
    shifted = [fine[row::step, column::step] for row in range(step) for column in range(step)]
    return np.add.reduce(shifted) / np.float32(step * step)


def pattern(
    texture: str,
    *,
    shape: str,
    cx: float,
    cy: float,
    radius: float,
    angle: float,
    texture_angle: float,
    size: int,
) -> Float[np.ndarray, "size size"]:
    """Share of every pixel, 0 to 1, that takes the second colour of a texture of ``TEXTURES``.

    The pattern scales with the object, so it looks the same at every size. ``texture_angle`` turns it, in
    radians; the other arguments are those of ``coverage``.
    """
    if texture == "solid":
        return np.zeros((size, size), np.float32)
    if texture == "bordered" and shape != "ring":
        return coverage(shape, cx=cx, cy=cy, radius=radius * 0.6, angle=angle, size=size)
    axis = (np.arange(size * OVERSAMPLING, dtype=np.float32) + 0.5) / OVERSAMPLING
    x, y = (axis[None, :] - cx) / radius, (axis[:, None] - cy) / radius
    cos, sin = math.cos(texture_angle), math.sin(texture_angle)
    u, v = x * cos + y * sin, y * cos - x * sin
    if texture == "bordered":
        second = np.hypot(x, y) < 0.76
    elif texture == "halved":
        second = u > 0
    elif texture == "striped":
        second = np.mod(u / 0.72 + 0.25, 1.0) > 0.5
    elif texture == "checked":
        second = np.mod(np.floor(u / 0.5) + np.floor(v / 0.5), 2.0) > 0.5
    else:
        second = np.hypot(np.mod(u / 0.62, 1.0) - 0.5, np.mod(v / 0.62, 1.0) - 0.5) < 0.33
    return _shrink(second.astype(np.float32))


def _smooth_noise(rng: np.random.Generator, size: int) -> Float[np.ndarray, "size size"]:
    """Noise whose lumps are about a fourth of the picture wide."""
    coarse = Image.fromarray(rng.standard_normal((6, 6)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def _distract(
    canvas: Float[np.ndarray, "size size 3"],
    *,
    style: str,
    colours: list[Float[np.ndarray, " 3"]],
    angle: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, "size size 3"]:
    """Lay regions in muted object colours and textures over a backdrop; most of it stays as it was.

    No region looks like an object: blobs have no shape of ``SHAPES``, bands cross the picture, patches are
    textured and lie at its edge.
    """
    size = canvas.shape[0]
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.broadcast_to(axis[None, :], (size, size)), np.broadcast_to(axis[:, None], (size, size))
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    stripes = np.clip(0.5 + 2 * np.sin(u * (2 * math.pi * 7)), 0, 1)
    checks = np.clip(0.5 + 2 * np.sin(u * (2 * math.pi * 5)) * np.sin(v * (2 * math.pi * 5)), 0, 1)
    textures = [stripes, checks] if style == "patches" else [stripes, checks, np.ones_like(u)]
    for colour in colours:
        if style == "blobs":
            noise = _smooth_noise(rng, size)
            region = noise > np.quantile(noise, 0.78)
        elif style == "bands":
            region = np.mod(u * rng.uniform(1.6, 2.6) + rng.uniform(), 1.0) < 0.22
        else:
            start, reach, depth = rng.uniform(0.0, 0.5), rng.uniform(0.4, 0.7), rng.uniform(0.2, 0.4)
            away, along = [(x, y), (1 - x, y), (y, x), (1 - y, x)][int(rng.integers(4))]
            region = (away < depth) & (along > start) & (along < start + reach)
        texture = textures[int(rng.integers(len(textures)))]
        strength = (_DISTRACTOR_STRENGTH * texture * region)[..., None]
        canvas = canvas * (1 - strength) + colour * strength
    return canvas


def paint_backdrop(
    base: Float[np.ndarray, " 3"],
    *,
    style: str,
    angle: float,
    frequency: float,
    colours: list[Float[np.ndarray, " 3"]],
    seed: int,
    size: int,
) -> Float[np.ndarray, "size size 3"]:
    """A backdrop as float RGB on the scale 0 to 255, not yet clipped.

    Args:
        base: the colour it is named after.
        style: one of ``PLAIN_STYLES`` or ``DISTRACTOR_STYLES``.
        angle: direction of gradient, stripes and bands in radians.
        frequency: stripes along the side of the picture.
        colours: what distractor regions are painted with.
        seed: of noise and of the places of distractor regions.
        size: height and width in pixels.
    """
    canvas = np.tile(base.astype(np.float32), (size, size, 1))
    if style in ("gradient", "striped"):
        axis = np.arange(size, dtype=np.float32) / size
        along = axis[None, :] * math.cos(angle) + axis[:, None] * math.sin(angle)
        if style == "gradient":
            change = (along - along.mean()) * 60
        else:
            change = np.sin(along * (2 * math.pi * frequency)) * 16
        return canvas + change[..., None]
    rng = np.random.Generator(np.random.Philox(seed))
    if style == "noisy":
        return canvas + rng.normal(0, 12, (size, size, 1)).astype(np.float32)
    if style in DISTRACTOR_STYLES:
        return _distract(canvas, style=style, colours=colours, angle=angle, rng=rng)
    return canvas
