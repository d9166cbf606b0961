"""The polygon rasteriser, against cocoapi itself where it is installed and against known answers everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setok.data import rle
from setok.data.polygons import annotation_counts, fill
from setok.data.scenes.outlines import polygons as outlines
from setok.errors import DataError

numbers = st.floats(-20, 40, allow_nan=False).map(lambda value: round(value, 2))
polygon = st.lists(st.one_of(numbers, numbers.map(round)), min_size=6, max_size=24).filter(lambda xy: len(xy) % 2 == 0)


def by_cocoapi(segmentation: Any, height: int, width: int) -> np.ndarray:
    coco = pytest.importorskip("pycocotools.mask")
    coded = coco.frPyObjects(segmentation, height, width)
    return coco.decode(coco.merge(coded) if isinstance(coded, list) else coded).astype(bool)


def test_rectangles_on_pixel_edges_and_between() -> None:
    mask = fill([[1, 2, 4, 2, 4, 5, 1, 5]], 7, 6)
    assert mask.sum() == 9
    assert mask[2:5, 1:4].all()
    assert fill([[0, 0, 6, 0, 6, 7, 0, 7]], 7, 6).all()
    assert not fill([[1.1, 1.1, 1.3, 1.1, 1.2, 1.3]], 7, 6).any()
    two = fill([[0, 0, 2, 0, 2, 2, 0, 2], [1, 1, 3, 1, 3, 3, 1, 3]], 4, 4)
    assert two.sum() == 7, "overlapping polygons are one region"


@settings(max_examples=300, deadline=None)
@given(st.lists(polygon, min_size=1, max_size=3), st.integers(20, 50), st.integers(20, 50))
def test_equals_cocoapi(drawn: list[list[float]], height: int, width: int) -> None:
    np.testing.assert_array_equal(fill(drawn, height, width), by_cocoapi(drawn, height, width))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32))
def test_outlines_along_pixel_edges_give_the_mask_back(height: int, width: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    np.testing.assert_array_equal(fill(outlines(mask), height, width), mask)


def test_the_three_forms_of_a_segmentation() -> None:
    square = [[1, 1, 3, 1, 3, 3, 1, 3]]
    counts = annotation_counts(square, 4, 5)
    assert counts == [5, 2, 2, 2, 9]
    assert annotation_counts({"size": [4, 5], "counts": counts}, 4, 5) == counts
    compressed = "52207"  # from the fourth on, differences to the one two before
    assert annotation_counts({"size": [4, 5], "counts": compressed}, 4, 5) == counts


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[50, 50, 60, 50, 60, 60]], r"a corner at \(50, 50\) of 5 × 4 pixels"),
        ([[float("nan"), 1, 3, 1, 3, 3]], r"a corner at \(nan, 1\)"),
        ([[6, 1, 8, 1, 8, 3]], r"none of its pixels is in 4 × 5"),
        ([], r"none of its pixels"),
        ([[1, 1, 3, 1]], r"a polygon of 4 coordinates"),
        ([[1, 1, 3, 1, 3, 3, 1]], r"a polygon of 7 coordinates"),
        ({"size": [5, 4], "counts": [20]}, r"it has 5 × 4 pixels, the picture 4 × 5"),
        ({"size": [4, 5], "counts": [3, 4]}, r"runs sum to 7"),
        ({"size": [4, 5], "counts": [20]}, r"none of its pixels"),
    ],
)
def test_masks_that_cannot_be_used(segmentation: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        annotation_counts(segmentation, 4, 5)


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_annotations_equal_cocoapi(realdata: Path, split: str) -> None:
    tree = json.loads((realdata / f"coco/annotations/instances_{split}2017.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in tree["images"]}
    crowds = 0
    for row in tree["annotations"]:
        height, width = sizes[row["image_id"]]
        mask = rle.decode(annotation_counts(row["segmentation"], height, width), height, width)
        np.testing.assert_array_equal(mask, by_cocoapi(row["segmentation"], height, width))
        if row["iscrowd"]:  # its area counts what was cut out of it, so it is no measure
            crowds += 1
        elif row["area"] > 400:  # the surface of the polygon, not a count of pixels
            assert mask.sum() == pytest.approx(row["area"], rel=0.05)
    assert (len(tree["annotations"]), crowds) == {"train": (189, 2), "val": (254, 4)}[split]


@pytest.mark.parametrize(("split", "count"), [("train", 88), ("val", 94)])
def test_real_run_lengths_have_the_area_that_is_stated(realdata: Path, split: str, count: int) -> None:
    stuff = json.loads((realdata / f"coco/annotations/stuff_{split}2017.json").read_text())["annotations"]
    assert len(stuff) == count
    for row in stuff:
        height, width = row["segmentation"]["size"]
        assert sum(annotation_counts(row["segmentation"], height, width)[1::2]) == row["area"]
