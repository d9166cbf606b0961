"""Lengths beside a set: measured without reading pictures, found again, and never those of another set or key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from setok.data.lengths import lengths_file, measured_lengths, store_lengths, stored_lengths
from setok.data.schema import EncodedImage, Manifest, Mask, Record, Turn
from setok.data.shards import write_shard
from setok.data.storage import Storage
from setok.errors import DataError


def write_set(folder: Path, sizes: tuple[int, ...] = (7, 5)) -> Path:
    folder.mkdir()
    records = [
        Record(
            id=f"r{i}",
            source="test",
            task="dialogue",
            images=[EncodedImage(data=b"x" * 1000), EncodedImage(data=b"y", role="target")][: i % 3],
            conversation=[Turn(role="user", text="a" * i)],
            masks=[Mask(counts=[3, 1], height=2, width=2)] * (i % 2),
        )
        for i in range(sum(sizes))
    ]
    cuts = np.cumsum([0, *sizes])
    shards = [
        write_shard(folder / f"shard-{n}.parquet", records[cuts[n] : cuts[n + 1]], rows_per_row_group=3)
        for n in range(len(sizes))
    ]
    Manifest(shards=[s for s in shards if s], records_by_source={"test": len(records)}, quarantined_by_reason={}).save(
        folder
    )
    return folder


def length_of(record: Record) -> int:
    assert all(not image.data for image in record.images)
    targets = sum(image.role == "target" for image in record.images)
    masks = sum(mask.height * mask.width for mask in record.masks)
    return 1 + len(record.conversation[0].text) + 10 * len(record.images) + 100 * targets + 1000 * masks


def test_measured_once_and_in_order(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "a")
    expected = [1 + i + 10 * (i % 3) + 100 * (i % 3 == 2) + 4000 * (i % 2) for i in range(12)]
    backwards: list[int] = []

    def run(work, shards):  # type: ignore[no-untyped-def]
        results = {}
        for shard in reversed(shards):
            backwards.append(shard)
            results[shard] = work(shard)
        return [results[shard] for shard in shards]

    assert stored_lengths(folder, "key") is None
    assert measured_lengths(folder, "key", length_of, run=run).tolist() == expected
    assert backwards == [1, 0]
    found = measured_lengths(folder, "key", lambda record: pytest.fail("measured again"))
    assert found.tolist() == expected
    assert found.dtype == np.int32
    assert stored_lengths(folder, "another key") is None
    assert [path.name for path in folder.glob("*lengths*")] == [lengths_file(folder, "key")]


def test_another_set_and_damaged_files_are_not_taken(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "a")
    path = folder / store_lengths(folder, "key", np.ones(12, np.int32))
    for wrong in (b"", path.read_bytes()[:-8], b"\x93NUMPY junk"):
        path.write_bytes(wrong)
        assert stored_lengths(folder, "key") is None
    np.save(path, np.ones(12, np.int64))
    assert stored_lengths(folder, "key") is None
    store_lengths(folder, "key", np.ones(12, np.int32))
    other = write_set(tmp_path / "b", (7, 6))
    path.rename(other / path.name)
    assert stored_lengths(other, "key") is None
    with pytest.raises(DataError, match="12 lengths for the 13 rows"):
        store_lengths(other, "key", np.ones(12, np.int32))


def test_a_record_without_a_length_has_a_stand_in_of_one(tmp_path: Path) -> None:
    def refuse(record: Record) -> int:
        if record.id == "r3":
            raise DataError("no text: the record has none")
        return 5

    assert measured_lengths(write_set(tmp_path / "a"), "key", refuse).tolist() == [5] * 3 + [1] + [5] * 8


def test_a_shard_that_cannot_be_read(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "a")
    (folder / "shard-1.parquet").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"shard-1.parquet cannot be read"):
        measured_lengths(folder, "key", length_of)


def test_a_set_in_an_object_store(tmp_path: Path, s3_folder: str) -> None:
    folder, storage = write_set(tmp_path / "a"), Storage(s3_folder)
    for path in folder.iterdir():
        storage.write(path.name, path.read_bytes())
    expected = measured_lengths(folder, "key", length_of)
    assert measured_lengths(s3_folder, "key", length_of).tolist() == expected.tolist()
    assert lengths_file(folder, "key") in storage.files()
    assert (
        measured_lengths(s3_folder, "key", lambda record: pytest.fail("measured again")).tolist() == expected.tolist()
    )
