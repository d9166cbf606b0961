"""Bad and unusual data, all kinds in one list: what is used looks right, what is not has a reason, shapes stay.

Pictures are in ``tests/bad_data.py``. The same files go through an ingest in ``tests/jobs/test_bad_data_ingest.py``.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from setok.config import SequenceConfig
from setok.data import rle
from setok.data.collate import rows_to_batch
from setok.data.decode import decode_rows
from setok.data.images import decode_image
from setok.data.prompts import conversation
from setok.data.schema import ARROW_SCHEMA, EncodedImage, Record, Segment, Turn
from setok.errors import DataError
from tests.bad_data import CASES, encode, picture

SIZE = 32


def decoded(*records: Record, with_segments: bool = False) -> dict[str, object]:
    table = pa.Table.from_pylist([record.to_row() for record in records], ARROW_SCHEMA)
    return decode_rows(table, image_size=SIZE, with_segments=with_segments)


def record(data: bytes, **changes: object) -> Record:
    return Record(id="a", source="test", images=[EncodedImage(data=data)], **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CASES)
def test_pictures(name: str) -> None:
    case = CASES[name]
    columns = decoded(record(encode(picture(), "PNG")), record(case.data), record(encode(picture(), "JPEG")))
    pixels, valid, errors = columns["pixels"], columns["valid"], columns["error"]
    assert pixels.shape == (3, 3, SIZE, SIZE) and pixels.dtype == np.uint8
    assert valid.tolist() == [True, not case.reason, True]  # its neighbours are as they were
    assert errors[1].startswith(case.reason) and bool(errors[1]) == bool(case.reason)
    batch = rows_to_batch(columns)
    assert batch.valid.tolist() == valid.tolist() and batch.pixel_values.shape == (3, 3, SIZE, SIZE)
    if case.reason:
        assert not pixels[1].any()
        with pytest.raises(DataError, match=case.reason):
            decode_image(case.data)
        return
    for half, colour in ((slice(0, 12), case.left), (slice(20, None), case.right)):
        np.testing.assert_allclose(pixels[1][:, :, half].mean((1, 2)), colour, atol=8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_files_of_every_kind(kind: str, share: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    data = encode(Image.fromarray(pixels), kind)
    with pytest.raises(DataError, match=r"(truncated|damaged) \w+:|not an image"):
        decode_image(data[: int(len(data) * share)])


def test_the_longest_side_is_a_setting() -> None:
    with pytest.raises(DataError, match="image too large: 60 × 40 pixels, the longest side allowed is 50"):
        decode_image(encode(picture(), "JPEG"), max_side=50)


def test_a_caption_of_100000_characters() -> None:
    columns = decoded(record(encode(picture(), "PNG"), caption="wort " * 20_000))
    assert columns["valid"].all()  # type: ignore[attr-defined]
    assert len(columns["caption"][0]) == 100_000  # type: ignore[index]


def test_missing_keys() -> None:
    """Rows of an older set may lack columns' values; a record without a picture is masked."""
    table = pa.Table.from_pylist(
        [{"id": "a", "images": [], "caption": None, "concepts": None}],
        pa.schema([ARROW_SCHEMA.field(name) for name in ("id", "images", "caption", "concepts")]),
    )
    columns = decode_rows(table, image_size=SIZE, with_segments=False)
    assert columns["error"][0].startswith("no picture")
    assert (columns["caption"], columns["concepts"]) == ([""], ["[]"])
    assert columns["pixels"].shape == (1, 3, SIZE, SIZE)


@pytest.mark.parametrize("answers", [[], [""], ["", "  "]])
def test_empty_answers(answers: list[str]) -> None:
    asked = [Turn(role="user", text="<image>\nWhat is this?")]
    empty = record(encode(picture(), "PNG"), task="vqa", conversation=asked, answers=answers)
    with pytest.raises(DataError, match="nothing to learn from: a conversation in which the assistant says nothing"):
        conversation(empty, SequenceConfig(), seed=0, epoch=0)


def test_masks_outside_the_picture() -> None:
    counts = rle.encode(np.ones((4, 5), bool))
    for height, width in ((3, 5), (40, 60)):  # fewer and more pixels than the runs cover
        bad = Segment(counts=counts, height=height, width=width, category="a", is_thing=True)
        columns = decoded(record(encode(picture(), "PNG"), segments=[bad]), with_segments=True)
        assert columns["error"][0].startswith("broken mask: runs sum to 20")  # type: ignore[index]
        assert (columns["segments"] == -1).all()  # type: ignore[attr-defined]
