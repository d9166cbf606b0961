"""Stored rows to columns to a batch; a row that cannot be decoded keeps its place."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from setok.data import rle
from setok.data.collate import decode_rows, rows_to_batch
from setok.data.schema import ARROW_SCHEMA, EncodedImage, Record, Segment

SIZE = 8


def record(index: int) -> Record:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 10), (10 * index, 0, 0)).save(buffer, "PNG")
    labels = np.zeros((10, 12), int)
    labels[:, 6:] = 1
    segments = [
        Segment(counts=counts, height=10, width=12, category="c", is_thing=value == 1)
        for value, counts in enumerate(rle.encode_map(labels, [0, 1]))
    ]
    return Record(
        id=f"r{index}",
        source="test",
        images=[EncodedImage(data=b"junk", role="target"), EncodedImage(data=buffer.getvalue())],
        caption=f"caption {index}",
        concepts=["dog", "ünïcode"][: index % 3],
        segments=segments,
    )


def table_of(records: list[Record]) -> pa.Table:
    return pa.Table.from_pylist([one.to_row() for one in records], ARROW_SCHEMA)


def test_columns_and_batch() -> None:
    columns = decode_rows(table_of([record(0), record(1), record(2)]), image_size=SIZE, with_segments=True)
    assert columns["pixels"].shape == (3, 3, SIZE, SIZE)
    assert columns["pixels"].dtype == np.uint8
    assert columns["pixels"][:, 0, 0, 0].tolist() == [0, 10, 20]
    assert columns["error"] == ["", "", ""]
    assert columns["caption"][1] == "caption 1"
    batch = rows_to_batch({**columns, "position": np.arange(3)})
    assert len(batch) == 3
    assert batch.ids == ("r0", "r1", "r2")
    assert batch.concepts == ((), ("dog",), ("dog", "ünïcode"))
    assert batch.valid.all()
    assert batch.segments is not None
    assert batch.segments[0, 0].tolist() == [0] * 4 + [1] * 4
    assert batch.is_thing == ((False, True),) * 3
    batch.pixel_values[0] = 255  # the batch owns its memory
    assert columns["pixels"][0].max() == 0


def test_arrow_round_trip_as_ray_does_it() -> None:
    columns = decode_rows(table_of([record(2)]), image_size=SIZE, with_segments=False)
    strings = {name: np.array(columns[name], object) for name in ("id", "concepts")}
    pixels = columns["pixels"].copy()
    pixels.setflags(write=False)
    batch = rows_to_batch({"pixels": pixels, "valid": columns["valid"], **strings})
    assert batch.concepts == (("dog", "ünïcode"),)
    assert batch.segments is None
    assert batch.is_thing == ()
    assert batch.pixel_values.dtype == torch.uint8


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"images": [EncodedImage(data=b"not a picture")]}, "not an image: 13 bytes"),
        ({"images": [EncodedImage(data=b"")]}, "empty file"),
        ({"images": []}, "no picture"),
        ({"segments": [Segment(counts=[1], height=10, width=12, category="c", is_thing=True)]}, "broken mask"),
    ],
)
def test_a_bad_row_is_masked_in_place(broken: dict, reason: str) -> None:
    rows = [record(1), replace(record(2), **broken), record(1)]
    columns = decode_rows(table_of(rows), image_size=SIZE, with_segments=True)
    assert columns["valid"].tolist() == [True, False, True]
    assert columns["error"][0] == ""
    assert columns["error"][1].startswith(reason)
    assert not columns["pixels"][1].any()
    assert columns["pixels"][2].any()
    assert (columns["segments"][1] == -1).all()
    assert rows_to_batch(columns).ids == ("r1", "r2", "r1")


def test_no_rows() -> None:
    columns = decode_rows(ARROW_SCHEMA.empty_table(), image_size=SIZE, with_segments=False)
    assert columns["pixels"].shape == (0, 3, SIZE, SIZE)
    assert len(rows_to_batch(columns)) == 0
