"""What ingest does to one record: large pictures shrink and their masks with them, and what cannot be stored is named."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from setok.config import IngestConfig, build
from setok.data import prepare, rle
from setok.data.images import decode_image
from setok.data.prepare import Preparer, check_text
from setok.data.schema import EncodedImage, Mask, Record, Segment, Turn
from setok.data.sources import BadRecord
from setok.errors import DataError


def config(**settings: Any) -> IngestConfig:
    return build(IngestConfig, {"name": "t", "sources": [{"kind": "folder", "path": "x"}], "output": "o"} | settings)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def halves(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture whose left half is red, and the mask of that half."""
    pixels = np.zeros((height, width, 3), np.uint8)
    mask = np.zeros((height, width), bool)
    pixels[:, : width // 2, 0], mask[:, : width // 2] = 255, True
    pixels[:, width // 2 :, 2] = 255
    return pixels, mask


def prepared(record: Record, **settings: Any) -> Record:
    result = Preparer(config(**settings)).prepare(record)
    assert isinstance(result, Record), result
    return result


def test_pictures_within_the_limits_keep_their_bytes() -> None:
    data = encoded(halves(20, 40)[0])
    record = Record(id="a", source="t", images=[EncodedImage(data=data), EncodedImage(data=data, role="target")])
    assert prepared(record) == record
    assert prepared(record, reencode_above_side=40, reencode_above_bytes=len(data)) == record


def test_large_pictures_shrink_and_their_masks_follow() -> None:
    pixels, mask = halves(60, 120)
    record = Record(
        id="a",
        source="t",
        task="segment",
        images=[EncodedImage(data=encoded(pixels)), EncodedImage(data=encoded(pixels[:20, :20]), role="target")],
        segments=[Segment(counts=rle.encode(mask), height=60, width=120, category="red", is_thing=True)],
        masks=[Mask(counts=rle.encode(mask), height=60, width=120), Mask(counts=[0, 4], height=2, width=2)],
    )
    result = prepared(record, reencode_above_side=60)
    small = decode_image(result.images[0].data)
    assert result.images[0].data.startswith(b"\xff\xd8")
    assert small.shape == (30, 60, 3)
    assert result.images[1] == record.images[1]
    for region in (result.segments[0], result.masks[0]):
        assert (region.height, region.width) == (30, 60)
        inside = rle.decode(region.counts, 30, 60)
        assert (small[inside][:, 0] > 128).mean() > 0.97
        assert (small[~inside][:, 2] > 128).mean() > 0.97
    assert result.segments[0].category == "red"
    assert result.masks[1] == record.masks[1]  # a mask of another size was none of these pixels


def test_heavy_files_become_jpegs_where_that_helps() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    png, flat = encoded(noise), encoded(np.zeros((64, 64, 3), np.uint8))
    heavy = prepared(Record(id="a", source="t", images=[EncodedImage(data=png)]), reencode_above_bytes=1000)
    assert len(heavy.images[0].data) < len(png)
    better = prepared(
        Record(id="a", source="t", images=[EncodedImage(data=png)]), reencode_above_bytes=1000, jpeg_quality=98
    )
    assert len(better.images[0].data) > len(heavy.images[0].data)
    light = Record(id="a", source="t", images=[EncodedImage(data=flat)])
    assert prepared(light, reencode_above_bytes=10) == light  # as a JPEG it would be larger


def test_transparency_is_flattened_on_white() -> None:
    pixels = np.zeros((40, 40, 4), np.uint8)
    record = Record(id="a", source="t", images=[EncodedImage(data=encoded(pixels))])
    assert decode_image(prepared(record, reencode_above_side=20).images[0].data).min() > 250


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"images": [EncodedImage(data=b"")]}, "empty file"),
        ({"images": [EncodedImage(data=encoded(halves(4, 40)[0]))]}, "image too large"),
        ({"masks": [Mask(counts=[1], height=2, width=2)]}, "broken mask"),
        ({"conversation": [Turn(role="user", text="<image>")]}, "slots and input images differ"),
        ({"caption": "caf\udce9"}, "invalid UTF-8: caption at character 3"),
        ({"answers": ["\ud800"]}, "invalid UTF-8: answers"),
        ({"provenance": {"file": "\udcff.jpg"}}, "invalid UTF-8: provenance"),
        ({"id": "x\udcff"}, "invalid UTF-8: id"),
    ],
)
def test_what_cannot_be_stored_says_why(change: dict[str, Any], reason: str) -> None:
    fields: dict[str, Any] = {"id": "a", "source": "t"} | change
    result = Preparer(config(max_image_side=30)).prepare(Record(**fields))
    assert isinstance(result, BadRecord)
    assert result.reason.startswith(reason)
    (result.id + result.reason).encode()  # can be written


def test_bad_records_of_a_source_can_be_written() -> None:
    result = Preparer(config()).prepare(BadRecord(id="\udcff", reason="image file missing: \udcff.jpg"))
    assert isinstance(result, BadRecord)
    assert result.id == "\\udcff"
    result.reason.encode()


def test_neighbours_with_one_picture_decode_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counting(data: bytes, **settings: Any) -> np.ndarray:
        calls.append(data)
        return decode_image(data, **settings)

    monkeypatch.setattr(prepare, "decode_image", counting)
    good, bad = encoded(halves(8, 8)[0]), b"<html>"
    preparer = Preparer(config())
    results = [
        preparer.prepare(Record(id=str(i), source="t", images=[EncodedImage(data=data)], answers=[str(i)]))
        for i, data in enumerate([good, good, bad, good, bad])
    ]
    assert len(calls) == 2
    assert [type(result) for result in results] == [Record, Record, BadRecord, Record, BadRecord]
    assert [result.id for result in results] == list("01234")


@given(st.text(st.characters(codec=None), max_size=20))
def test_every_text_is_stored_or_refused(text: str) -> None:
    try:
        text.encode()
        good = True
    except UnicodeEncodeError:
        good = False
    try:
        check_text(Record(id="a", source="t", caption=text))
        assert good
    except DataError:
        assert not good


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_resized_masks_take_the_nearest_pixel(height: int, width: int, new_h: int, new_w: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    resized = rle.decode(rle.resize(rle.encode(mask), (height, width), (new_h, new_w)), new_h, new_w)
    for y in range(new_h):
        for x in range(new_w):
            assert resized[y, x] == mask[int((y + 0.5) * height / new_h), int((x + 0.5) * width / new_w)]
