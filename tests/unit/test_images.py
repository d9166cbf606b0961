"""Decoding of common files, and the geometry of pictures and masks; unusual and bad files are in test_bad_data.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from setok.data import rle
from setok.data.images import decode_and_resize, decode_image, segment_map
from setok.data.schema import Segment
from setok.errors import DataError
from tests.bad_data import GREEN, RED, WHITE, encode, picture


def assert_halves(pixels: np.ndarray, left: tuple[int, ...] = RED, right: tuple[int, ...] = GREEN) -> None:
    width = pixels.shape[1]
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels[:, : width // 2 - 9].mean((0, 1)), left, atol=8)
    np.testing.assert_allclose(pixels[:, width // 2 + 9 :].mean((0, 1)), right, atol=8)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {"quality": 95}), ("BMP", {}), ("GIF", {})],
)
def test_common_files(kind: str, options: dict[str, Any]) -> None:
    pixels = decode_image(encode(picture(), kind, **options))
    assert pixels.shape == (40, 60, 3)
    assert_halves(pixels)


# ---------------------------------------------------------------- geometry


def smooth(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) * 120 // (height + width)], -1)


def test_centre_square_of_the_shorter_side() -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 10:30] = RED
    out = decode_and_resize(encode(Image.fromarray(pixels), "PNG"), 10)
    assert out.shape == (3, 10, 10)
    assert (out == np.array(RED)[:, None, None]).all()


@pytest.mark.parametrize("shape", [(64, 64), (37, 80), (90, 41)])
def test_shrinking_averages_areas_and_enlarging_keeps_the_range(shape: tuple[int, int]) -> None:
    image = Image.fromarray(smooth(*shape).astype(np.uint8))
    data = encode(image, "PNG")
    side = min(shape)
    box = ((shape[1] - side) // 2, (shape[0] - side) // 2)
    square = image.crop((*box, box[0] + side, box[1] + side))
    fine = np.asarray(square, float).repeat(16, 0).repeat(16, 1)  # 16 × 16 copies of a pixel: areas divide exactly
    small = fine.reshape(16, side, 16, side, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(decode_and_resize(data, 16) - small).max() <= 1
    assert decode_and_resize(data, 128).shape == (3, 128, 128)
    np.testing.assert_array_equal(decode_and_resize(data, side), np.asarray(square).transpose(2, 0, 1))


def test_reduced_decoding_is_close_to_the_full_one() -> None:
    data = encode(Image.fromarray(smooth(480, 640).astype(np.uint8)), "JPEG", quality=95)
    assert decode_image(data, target_size=30).shape == (60, 80, 3)
    assert decode_image(data, target_size=64).shape == (240, 320, 3)
    assert decode_image(data, target_size=384).shape == (480, 640, 3)
    lossless = encode(Image.fromarray(smooth(480, 640).astype(np.uint8)), "PNG")
    gap = decode_and_resize(data, 30).astype(int) - decode_and_resize(lossless, 30)
    assert np.abs(gap).max() <= 3


def test_segment_map_has_the_geometry_of_the_picture() -> None:
    labels = np.zeros((30, 50), int)
    labels[:, 25:] = 1
    labels[:5] = 2
    segments = [
        Segment(counts=counts, height=30, width=50, category=name, is_thing=True)
        for counts, name in zip(rle.encode_map(labels, [0, 1]), "ab", strict=True)
    ]
    small = segment_map(segments, 6)
    assert small.tolist() == [[-1] * 6, *[[0, 0, 0, 1, 1, 1]] * 5]
    palette = np.array([RED, GREEN, WHITE], np.uint8)[labels]
    drawn = decode_and_resize(encode(Image.fromarray(palette), "PNG"), 6)
    np.testing.assert_array_equal(drawn.transpose(1, 2, 0), np.array([RED, GREEN, WHITE], np.uint8)[small])
    assert (segment_map([], 4) == -1).all()


def test_segments_that_do_not_fit_together() -> None:
    parts = [Segment(counts=[n], height=1, width=n, category="a", is_thing=True) for n in (4, 5)]
    with pytest.raises(DataError, match="1 × 4 and 1 × 5"):
        segment_map(parts, 4)


def test_real_photographs(realdata: Path) -> None:
    files = sorted((realdata / "coco").glob("*2017/*.jpg")) + sorted((realdata / "imagenet/images").iterdir())
    assert len(files) == 49 + 15
    for path in files:
        assert decode_and_resize(path.read_bytes(), 64).std() > 5
