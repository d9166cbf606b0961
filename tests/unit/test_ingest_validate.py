"""What --validate finds in a shard, row by row."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ray_jobs.ingesting.validate import shard_problems
from setok.data.schema import ARROW_SCHEMA, EncodedImage, Mask, Record, Shard, Turn
from setok.data.shards import write_shard
from setok.data.storage import Storage


def jpeg() -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def good(index: int, **changes: Any) -> Record:
    fields = {"id": f"r{index}", "source": "t", "images": [EncodedImage(data=jpeg())]} | changes
    return Record(**fields)


def problems(folder: Path, shard: Shard | None) -> list[tuple[int | None, str]]:
    assert shard is not None
    return [(problem.row, problem.text) for problem in shard_problems(Storage(folder), shard)]


def with_checksum(path: Path, rows: int) -> Shard:
    """What a manifest would say of the file as it is."""
    data = path.read_bytes()
    return Shard(file=path.name, rows=rows, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def test_a_whole_shard(tmp_path: Path) -> None:
    masked = good(1, masks=[Mask(counts=[0, 4], height=2, width=2)])
    assert problems(tmp_path, write_shard(tmp_path / "a", [good(0), masked, good(2)])) == []


def test_damaged_rows_are_named(tmp_path: Path) -> None:
    records = [
        good(0),
        good(1, images=[EncodedImage(data=jpeg()[:-300])]),
        good(2, conversation=[Turn(role="user", text="no slot")]),
        good(3, masks=[Mask(counts=[3], height=2, width=2)]),
        good(4, task="guess"),
    ]
    found = problems(tmp_path, write_shard(tmp_path / "a", records, rows_per_row_group=2))
    assert [row for row, _ in found] == [1, 2, 3, 4]
    for (_, text), expected in zip(
        found, ["r1: truncated", "r2: slots and input images", "r3: broken mask", "r4: unknown task"], strict=True
    ):
        assert text.startswith(expected)


def test_missing_cut_off_and_changed_files(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a", [good(index) for index in range(40)], rows_per_row_group=10)
    assert shard is not None
    data = bytearray((tmp_path / "a").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "a").write_bytes(data)
    assert problems(tmp_path, shard)[0] == (None, "its checksum is not the manifest's")
    (tmp_path / "a").write_bytes(data[:-1])
    ((_, text),) = problems(tmp_path, shard)
    assert "is truncated: it has" in text
    (tmp_path / "a").write_bytes(bytes(len(data)))
    assert [text.split(":")[0] for _, text in problems(tmp_path, shard)] == [
        "its checksum is not the manifest's",
        "no Parquet file",
    ]
    (tmp_path / "a").unlink()
    ((_, text),) = problems(tmp_path, shard)
    assert "is missing" in text


@pytest.mark.parametrize("kind", ["columns", "rows"])
def test_files_that_are_no_shard(tmp_path: Path, kind: str) -> None:
    if kind == "columns":
        pq.write_table(pa.table({"x": [1]}), tmp_path / "a")
        expected = "its columns are ['x'], not those of a record"
    else:
        pq.write_table(pa.Table.from_pylist([good(0).to_row()], ARROW_SCHEMA), tmp_path / "a")
        expected = "it has 1 rows, the manifest says 2"
    assert problems(tmp_path, with_checksum(tmp_path / "a", 2)) == [(None, expected)]
