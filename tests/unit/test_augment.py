"""Random views: drawn from seed, epoch and sample alone, within their ranges, and one geometry for everything."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from setok.config import AugmentConfig
from setok.data import rle
from setok.data.augment import Augmenter, says_sides
from setok.data.decode import decode_rows
from setok.data.geometry import View, centre_square
from setok.data.images import decode_and_resize, mask_map, segment_map
from setok.data.schema import Mask, Segment
from tests.unit.test_collate import record, table_of

ALL = AugmentConfig(scale=(0.3, 0.9), ratio=(0.5, 2.0), flip=0.5, color_jitter=0.4)


@settings(max_examples=80, deadline=None)
@given(st.integers(20, 900), st.integers(20, 900), st.integers(0, 10**6))
def test_views_stay_inside_and_in_their_ranges(height: int, width: int, epoch: int) -> None:
    view = Augmenter(ALL, seed=1).draw("a", epoch=epoch).view(height, width)
    assert 0 <= view.x0 < view.x1 <= 1 + 1e-9
    assert 0 <= view.y0 < view.y1 <= 1 + 1e-9
    wide, high = (view.x1 - view.x0) * width, (view.y1 - view.y0) * height
    if view != View(**vars(centre_square(height, width)) | {"flip": view.flip}):  # else no cut had room
        assert 0.3 - 1e-6 <= wide * high / (width * height) <= 0.9 + 1e-6
        assert 0.5 - 1e-6 <= wide / high <= 2 + 1e-6
    rows, columns = view.crop(height, width)
    assert 0 <= rows.start < rows.stop <= height
    assert 0 <= columns.start < columns.stop <= width


def test_draws_fill_their_ranges_evenly() -> None:
    augmenter = Augmenter(ALL, seed=1)
    views = [augmenter.draw(f"r{i}", epoch=0).view(500, 500) for i in range(600)]
    areas = np.array([(v.x1 - v.x0) * (v.y1 - v.y0) for v in views])
    assert areas.min() < 0.33 and areas.max() > 0.85
    assert abs(np.mean([v.flip for v in views]) - 0.5) < 0.07
    ratios = np.log([(v.x1 - v.x0) / (v.y1 - v.y0) for v in views])
    assert abs(ratios.mean()) < 0.05
    assert ratios.min() < -0.9 * math.log(2) and ratios.max() > 0.9 * math.log(2)


def test_any_order_and_company_gives_the_same_pixels() -> None:
    table = table_of([record(i) for i in range(8)])
    epochs = np.array([0, 0, 1, 1, 2, 2, 0, 5], np.int32)

    def pixels(order: list[int], seed: int = 3) -> np.ndarray:
        augmenter = Augmenter(ALL, seed=seed)
        out = decode_rows(
            table.take(order), image_size=8, with_segments=True, augmenter=augmenter, epochs=epochs[order]
        )
        return np.concatenate([out["pixels"].reshape(len(order), -1), out["segments"].reshape(len(order), -1)], 1)

    whole = pixels(list(range(8)))
    shuffled = [5, 2, 7, 0, 3, 6, 1, 4]
    np.testing.assert_array_equal(pixels(shuffled), whole[shuffled])
    np.testing.assert_array_equal(np.concatenate([pixels([i]) for i in range(8)]), whole)
    assert (pixels(list(range(8)), seed=4) != whole).any()


def test_epochs_samples_pictures_and_seeds_differ() -> None:
    first = Augmenter(ALL, seed=0).draw("a", epoch=0).numbers
    others = [
        Augmenter(ALL, seed=1).draw("a", epoch=0),
        Augmenter(ALL, seed=0).draw("b", epoch=0),
        Augmenter(ALL, seed=0).draw("a", epoch=1),
        Augmenter(ALL, seed=0).draw("a", epoch=0, picture=1),
    ]
    assert all(first != other.numbers for other in others)
    assert first == Augmenter(ALL, seed=0).draw("a", epoch=0).numbers
    assert first[:2] == pytest.approx((0.3845499, 0.1225822))  # finished runs: a change breaks resuming them


def test_pixels_segments_masks_and_boxes_share_a_geometry() -> None:
    labels = np.zeros((60, 90), int)
    labels[10:50, 30:75] = 1
    image = Image.fromarray(np.array([[0, 0, 0], [255, 255, 255]], np.uint8)[labels])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    counts = rle.encode_map(labels, [0, 1])
    segments = [Segment(counts=c, height=60, width=90, category="a", is_thing=True) for c in counts]
    mask = Mask(counts=counts[1], height=60, width=90)
    flips = set()
    for epoch in range(30):
        draw = Augmenter(AugmentConfig(scale=(0.4, 1.0), flip=0.5), seed=2).draw("a", epoch=epoch)
        flips.add(draw.view(60, 90).flip)
        white = decode_and_resize(buffer.getvalue(), 48, view=draw.view)[0] > 127
        drawn = segment_map(segments, 48, view=draw.view) == 1
        assert (white != drawn).mean() < 0.05
        np.testing.assert_array_equal(mask_map(mask, 48, view=draw.view), drawn)
        box = draw.view(60, 90).box(30 / 90, 10 / 60, 75 / 90, 50 / 60)
        rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
        assert box is not None
        seen = (columns[0] / 48, rows[0] / 48, (columns[-1] + 1) / 48, (rows[-1] + 1) / 48)
        np.testing.assert_allclose(box, seen, atol=1.5 / 48)
    assert flips == {True, False}


def test_boxes_out_of_sight() -> None:
    left = View(x0=0.0, y0=0.0, x1=0.5, y1=1.0)
    assert left.box(0.6, 0.1, 0.9, 0.9) is None
    assert left.box(0.25, 0.0, 0.75, 0.5) == (0.5, 0.0, 1.0, 0.5)
    assert View(x0=0.0, y0=0.0, x1=0.5, y1=1.0, flip=True).box(0.25, 0.0, 0.75, 0.5) == (0.0, 0.0, 0.5, 0.5)


def test_what_tells_left_from_right_is_never_mirrored() -> None:
    always = Augmenter(AugmentConfig(flip=1.0), seed=0)
    assert always.draw("a", epoch=0, text="a dog beside a cat").view(10, 10).flip
    assert not always.draw("a", epoch=0, text="The dog on the LEFT.").view(10, 10).flip
    assert says_sides("turn clockwise") and not says_sides("bright and leftover")


def test_reduced_decoding_of_a_small_cut_keeps_its_detail() -> None:
    rows, columns = np.mgrid[:480, :640]
    smooth = np.stack([rows * 255 // 480, columns * 255 // 640, (rows + columns) * 120 // 1120], -1).astype(np.uint8)
    data = []
    for kind in ("JPEG", "PNG"):
        buffer = io.BytesIO()
        Image.fromarray(smooth).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
        data.append(buffer.getvalue())
    for epoch in range(10):
        view = Augmenter(ALL, seed=0).draw("a", epoch=epoch).view
        jpeg, png = (decode_and_resize(one, 40, view=view).astype(int) for one in data)
        assert np.abs(jpeg - png).max() <= 6


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_views_are_of_the_upright_picture(orientation: int) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20] = (255, 0, 0)
    turn = {1: 0, 3: 180, 6: 90, 8: 270}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).rotate(turn, expand=True).save(buffer, "JPEG", quality=95, exif=exif)
    sizes = []

    def upper(height: int, width: int) -> View:
        sizes.append((height, width))
        return View(x0=0.0, y0=0.0, x1=1.0, y1=0.5)

    out = decode_and_resize(buffer.getvalue(), 16, view=upper)
    assert set(sizes) == {(40, 60)}
    assert out[0, :14].mean() > 240 and out[1].mean() < 15


def test_colours_change_within_bounds_and_not_by_default() -> None:
    gray = np.full((8, 8, 3), 100, np.uint8)
    values = []
    for epoch in range(50):
        out = Augmenter(AugmentConfig(color_jitter=0.4), seed=0).draw("a", epoch=epoch).colours(gray)
        assert np.ptp(out) <= 1  # a gray picture stays gray
        values.append(int(out[0, 0, 0]))
    assert 58 <= min(values) < 70 and 130 < max(values) <= 142
    plain = Augmenter(AugmentConfig(), seed=0).draw("a", epoch=0)
    assert plain.colours(gray) is gray
    assert not plain.view(10, 20).flip


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"scale": (0.9, 0.5)}, r"scale \[0.9, 0.5\]"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"ratio": (2.0, 1.0)}, "ratio"),
    ],
)
def test_ranges_that_are_none(settings_: dict[str, tuple[float, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**settings_)
