"""Scenes that several files of tests look at."""

from __future__ import annotations

import pytest

from setok.data.scenes.generate import FAMILIES, Scene, generate_scene

NUM_SCENES = 150


@pytest.fixture(scope="module", params=FAMILIES)
def scenes(request: pytest.FixtureRequest) -> list[Scene]:
    """Of one family after the other."""
    return [generate_scene(index, seed=5, family=request.param) for index in range(NUM_SCENES)]
