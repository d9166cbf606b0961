"""Decoding of the kinds of files that people have, and the geometry of pictures and masks."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from setok.data import rle
from setok.data.images import decode_and_resize, decode_image, segment_map
from setok.data.schema import Segment
from setok.errors import DataError

RED, GREEN, WHITE = (220, 30, 30), (20, 180, 40), (255, 255, 255)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(height: int = 40, width: int = 60) -> Image.Image:
    """Left half red, right half green."""
    pixels = np.full((height, width, 3), RED, np.uint8)
    pixels[:, width // 2 :] = GREEN
    return Image.fromarray(pixels)


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


def test_gray_and_palette() -> None:
    for kind in ("JPEG", "PNG"):
        gray = decode_image(encode(Image.fromarray(np.full((8, 9), 77, np.uint8)), kind))
        assert gray.shape == (8, 9, 3)
        assert np.ptp(gray) <= 1
        assert abs(int(gray[0, 0, 0]) - 77) <= 1
    assert_halves(decode_image(encode(picture().convert("P", palette=Image.Palette.ADAPTIVE), "PNG")))


def test_transparency_shows_white() -> None:
    layer = picture().convert("RGBA")
    layer.putalpha(Image.fromarray(np.where(np.arange(60) < 30, 255, 0).astype(np.uint8)[None].repeat(40, 0)))
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        assert_halves(decode_image(encode(layer, kind, **options)), RED, WHITE)
    palette = picture().convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    green = int(np.asarray(palette)[0, -1])
    assert_halves(decode_image(encode(palette, "PNG", transparency=green)), RED, WHITE)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = Image.fromarray(np.array([[0, 0x4000, 0xFFFF]], np.uint16))
    assert decode_image(encode(deep, "PNG"))[0, :, 0].tolist() == [0, 64, 255]


def test_cmyk_jpeg() -> None:
    assert_halves(decode_image(encode(picture().convert("CMYK"), "JPEG", quality=95)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_turns_the_picture_upright(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    stored = picture().rotate(90, expand=True)
    pixels = decode_image(encode(stored, kind, exif=exif))
    assert pixels.shape == (40, 60, 3)
    assert_halves(pixels)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(kind: str) -> None:
    other = Image.new("RGB", (60, 40), (0, 0, 255))
    assert_halves(decode_image(encode(picture(), kind, save_all=True, append_images=[other, other])))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file: zero bytes"),
        (b"<html>not found</html>", "not an image: 22 bytes that start with 3c 68"),
        (b"\xff\xd8\xff", "not an image"),
    ],
)
def test_what_is_no_picture(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        decode_image(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_files(kind: str, share: float) -> None:
    rng = np.random.default_rng(0)
    data = encode(Image.fromarray(rng.integers(0, 255, (50, 70, 3), dtype=np.uint8)), kind)
    with pytest.raises(DataError, match=r"(truncated|damaged) \w+:|not an image"):
        decode_image(data[: int(len(data) * share)])


def test_size_is_judged_by_the_header_alone() -> None:
    with pytest.raises(DataError, match="image too large: 60 × 40 pixels, the longest side allowed is 50"):
        decode_image(encode(picture(), "JPEG"), max_side=50)
    for side in (16_000, 60_000):  # a header, and no pixels behind it: decoding would fail in another way
        with pytest.raises(DataError, match="image too large"):
            decode_image(png_header(side), max_side=16_384)


def png_header(side: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return head + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


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
