"""Generated scenes: drawn as described, the same for the same arguments."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest

from setok.data.scenes.generate import FAMILIES, MIN_VISIBLE, SHAPES, Scene, generate_scene
from setok.data.scenes.language import caption, questions
from setok.errors import ConfigError
from tests.drawn import scenes

__all__ = ["scenes"]


def _digest(job: tuple[int, str]) -> tuple[bytes, bytes, str]:
    scene = generate_scene(job[0], seed=3, family=job[1])
    return scene.image.tobytes(), scene.mask.tobytes(), caption(scene) + str(questions(scene))


def test_a_scene_depends_on_its_arguments_only() -> None:
    jobs = [(index, family) for family in FAMILIES for index in (0, 1, 2)]
    here = [_digest(job) for job in jobs]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = list(pool.map(_digest, reversed(jobs)))
    assert here == there[::-1]
    assert len({image for image, _, _ in here}) == len(jobs)
    assert not np.array_equal(
        generate_scene(0, seed=1, family="plain").image, generate_scene(0, seed=2, family="plain").image
    )


def test_objects_keep_their_share_and_agree_with_the_mask(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.image.shape == (64, 64, 3) and scene.image.dtype == np.uint8
        assert scene.mask.shape == (64, 64) and scene.mask.dtype == np.uint8
        assert 1 <= len(scene.objects) <= 6
        assert set(np.unique(scene.mask)) == set(range(len(scene.objects) + 1))
        for number, thing in enumerate(scene.objects, start=1):
            rows, columns = np.nonzero(scene.mask == number)
            assert thing.area == len(rows) >= MIN_VISIBLE * thing.full_area
            x, y, width, height = thing.bbox
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width - 1, y + height - 1) == (columns.max(), rows.max())


def test_the_plain_family_has_the_statistics_of_the_published_targets() -> None:
    """Uniform counts, shapes and colours; radii 10 to 20 % of the side, 15 % less beyond three objects."""
    scenes = [generate_scene(index, seed=8, family="plain") for index in range(1000)]
    counts = np.bincount([len(scene.objects) for scene in scenes], minlength=7)[1:]
    assert counts.sum() == 1000 and counts.min() > 110 and counts.max() < 230
    things = [thing for scene in scenes for thing in scene.objects]
    assert {thing.texture for thing in things} == {"solid"}
    radii = np.array([thing.radius for thing in things])
    assert 0.085 <= radii.min() < 0.087 and 0.198 < radii.max() <= 0.2
    assert 0.129 < radii.mean() < 0.135
    shapes = np.bincount([SHAPES.index(thing.shape) for thing in things]) / len(things)
    assert shapes.min() > 0.13 and shapes.max() < 0.20
    assert {scene.background_style for scene in scenes} == {"plain", "gradient", "striped", "noisy"}
    shades = np.array([thing.shade for thing in things])
    assert shades.min() >= 0.8 and shades.max() <= 1.15


def test_the_hard_family_defeats_colour() -> None:
    scenes = [generate_scene(index, seed=8, family="hard") for index in range(200)]
    things = [thing for scene in scenes for thing in scene.objects]
    assert np.mean([thing.second_colour is not None for thing in things]) > 0.5
    assert np.mean([scene.background_style in ("blobs", "bands", "patches") for scene in scenes]) > 0.4
    shared = [
        len({thing.colour for thing in scene.objects}) < len(scene.objects)
        for scene in scenes
        if len(scene.objects) > 1
    ]
    assert np.mean(shared) > 0.6


@pytest.mark.parametrize(("size", "low", "high"), [(16, 1, 8), (32, 8, 8), (96, 2, 3)])
def test_sizes_and_counts_are_kept(size: int, low: int, high: int) -> None:
    for family in FAMILIES:
        for index in range(8):
            scene = generate_scene(index, seed=1, family=family, image_size=size, min_objects=low, max_objects=high)
            assert scene.image.shape == (size, size, 3)
            assert low <= len(scene.objects) <= high
            assert all(thing.visible >= MIN_VISIBLE for thing in scene.objects)


@pytest.mark.parametrize(
    ("change", "value", "remedy"),
    [
        ({"family": "plane"}, "'plane'", "did you mean 'plain'?"),
        ({"max_objects": 9}, "max_objects=9", "max_objects=6"),
        ({"min_objects": 4, "max_objects": 3}, "min_objects=4", "min_objects=1"),
        ({"image_size": 8}, "image_size=8", "such as 64"),
        ({"seed": -1}, "seed=-1", "seed such as 1"),
    ],
)
def test_impossible_scenes_are_refused(change: dict[str, Any], value: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as error:
        generate_scene(0, **({"seed": 1, "family": "plain"} | change))
    assert value in error.value.problem and remedy in error.value.remedy
