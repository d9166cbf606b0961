"""Noun concepts of captions and names of panoptic categories."""

from __future__ import annotations

import pytest

from setok.data.concepts import (
    MAX_CONCEPTS,
    concept_of_category,
    concepts_of_caption,
    concepts_of_captions,
    merge_concepts,
)


@pytest.mark.parametrize(
    ("caption", "concepts"),
    [
        (
            "a red circle, a striped blue star and a green ring on a gray background",
            ["red circle", "striped blue star", "green ring", "gray background"],
        ),
        ("a striped red and blue circle on a navy background", None),
        ("A bath and a toilet in a small room.", ["bath", "toilet", "room"]),
        ("A camera sits on a tripod connected to a laptop.", ["camera", "tripod", "laptop"]),
        ("A cat laying on top of a couch next to a computer mouse.", ["cat", "couch", "computer mouse"]),
        ("Three dogs parked in the living room of a building", ["dogs", "living room", "building"]),
        ("A very cute giraffe looking at a group of people", ["giraffe", "people"]),
        ("", []),
        ("!!! 42 …", []),
    ],
)
def test_captions(caption: str, concepts: list[str] | None) -> None:
    expected = concepts or (
        [] if concepts is not None else ["striped red circle", "striped blue circle", "navy background"]
    )
    assert concepts_of_caption(caption) == expected


def test_at_most_eight_and_each_once() -> None:
    names = [f"a thing{i} box" for i in range(12)]
    assert len(concepts_of_caption(", ".join(names))) == MAX_CONCEPTS
    assert concepts_of_caption("a dog and a dog") == ["dog"]


def test_what_most_captions_name_comes_first() -> None:
    assert concepts_of_captions(["a lamp and a dog", "a dog", "a dog on a chair"]) == ["dog", "lamp", "chair"]


@pytest.mark.parametrize(
    ("category", "concept"),
    [
        ("person", "person"),
        ("tree-merged", "tree"),
        ("wall-brick", "brick wall"),
        ("wall-other-merged", "wall"),
        ("floor-wood", "wood floor"),
        ("window-blind", "window blind"),
        ("dining table", "dining table"),
        ("red circle", "red circle"),
    ],
)
def test_category_names(category: str, concept: str) -> None:
    assert concept_of_category(category) == concept


def test_merge_keeps_order() -> None:
    assert merge_concepts(["b", "a"], ["a", "c"]) == ["b", "a", "c"]


def test_scene_captions_give_the_concepts_of_the_scene() -> None:
    scenes = pytest.importorskip("setok.data.scenes.generate")
    language = pytest.importorskip("setok.data.scenes.language")
    num_compared = 0
    for family in scenes.FAMILIES:
        for index in range(40):
            scene = scenes.generate_scene(index, seed=3, family=family)
            expected = set(language.concepts(scene))
            if len(expected) <= MAX_CONCEPTS:
                assert set(concepts_of_caption(language.caption(scene))) == expected
                num_compared += 1
    assert num_compared >= 50
