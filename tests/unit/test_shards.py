"""Shards: rows come back as they went in, in any order; and what is wrong with a set is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from setok.data import shards as module
from setok.data.schema import ARROW_SCHEMA, FORMAT_VERSION, MANIFEST, EncodedImage, Manifest, Record, Segment, Turn
from setok.data.shards import ShardReader, ShardWriter, read_records, write_shard
from setok.data.storage import Storage
from setok.errors import DataError

NUM_ROWS, SHARD_ROWS = 50, 20


def record(index: int) -> Record:
    return Record(
        id=f"r{index}",
        source="test",
        images=[EncodedImage(data=bytes([index % 256]) * 100)],
        conversation=[Turn(role="user", text=f"<image> {index}")],
        caption=f"caption {index}",
        concepts=["a"] * (index % 3),
        segments=[Segment(counts=[1, 3], height=2, width=2, category="x", is_thing=index % 2 == 0)],
        answers=[str(index)],
        provenance={"n": str(index)},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards of 20, 20 and 10 rows in row groups of 7."""
    shards = [
        write_shard(
            tmp_path / f"shard-{start // SHARD_ROWS:05d}.parquet",
            (record(i) for i in range(start, min(start + SHARD_ROWS, NUM_ROWS))),
            rows_per_row_group=7,
        )
        for start in range(0, NUM_ROWS, SHARD_ROWS)
    ]
    assert None not in shards
    Manifest(
        shards=[shard for shard in shards if shard], records_by_source={"test": NUM_ROWS}, quarantined_by_reason={}
    ).save(tmp_path)
    return tmp_path


def test_rows_come_back_in_the_order_asked_and_repeat(folder: Path) -> None:
    reader = ShardReader(folder)
    assert reader.num_rows == NUM_ROWS
    rows = np.array([49, 0, 20, 19, 0, 7, 48, 49])
    table = reader.take(rows)
    assert table.schema.equals(ARROW_SCHEMA)
    assert [Record.from_row(row) for row in table.to_pylist()] == [record(int(i)) for i in rows]
    everything = np.random.default_rng(0).permutation(np.repeat(np.arange(NUM_ROWS), 2))
    assert reader.take(everything)["id"].to_pylist() == [f"r{i}" for i in everything]
    assert reader.take(np.array([], np.int64)).num_rows == 0


def test_only_needed_row_groups_are_read_and_kept(folder: Path) -> None:
    reader = ShardReader(folder)
    reader.take(np.array([0, 1, 6, 25]))
    assert reader.num_groups_read == 2
    reader.take(np.array([5, 20]))
    assert reader.num_groups_read == 2


def test_cache_is_bounded_by_bytes(folder: Path) -> None:
    small = ShardReader(folder, cache_bytes=1)
    for _ in range(2):
        small.take(np.array([0]))
        small.take(np.array([7]))
    assert small.num_groups_read == 4
    least = ShardReader(folder, cache_bytes=2 * ShardReader(folder).take(np.arange(7)).nbytes + 100)
    for row in (0, 7, 0, 14, 0, 7):  # 14 drives out 7, which was used longest ago
        least.take(np.array([row]))
    assert least.num_groups_read == 4


def test_columns(folder: Path) -> None:
    table = ShardReader(folder, columns=["id", "caption"]).take(np.array([3]))
    assert table.to_pylist() == [{"id": "r3", "caption": "caption 3"}]


def test_large_pictures_make_small_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_GROUP_BYTES", 300)
    write_shard(tmp_path / "a.parquet", map(record, range(9)), rows_per_row_group=64)
    metadata = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [3, 3, 3]


def test_a_picture_of_many_records_is_stored_once(tmp_path: Path) -> None:
    pictures = [np.random.default_rng(seed).bytes(100_000) for seed in range(6)]
    questions = [
        Record(id=f"{i}-{q}", source="t", images=[EncodedImage(data=picture)], caption=str(q))
        for i, picture in enumerate(pictures)
        for q in range(5)
    ]
    shard = write_shard(tmp_path / "a.parquet", questions)
    assert shard is not None
    assert 600_000 < shard.bytes < 610_000
    assert list(read_records(Storage(tmp_path), "a.parquet")) == questions
    assert shard.bytes > module.stored_bytes(questions) > 600_000


def test_records_of_one_picture_stay_in_one_row_group(tmp_path: Path) -> None:
    pictures = [np.random.default_rng(seed).bytes(300_000) for seed in range(8)]
    write_shard(
        tmp_path / "a.parquet",
        [
            Record(id=f"{i}-{q}", source="t", images=[EncodedImage(data=picture)])
            for i, picture in enumerate(pictures)
            for q in range(3)
        ],
    )
    metadata = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [12, 12]


def test_much_to_unpack_makes_small_row_groups(tmp_path: Path) -> None:
    data = bytes(1_000_000)
    write_shard(
        tmp_path / "a.parquet", (Record(id=str(i), source="t", images=[EncodedImage(data=data)]) for i in range(12))
    )
    metadata = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [9, 3]


def test_writing_is_deterministic_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    first, second = (write_shard(tmp_path / name, map(record, range(5))) for name in ("a", "b"))
    assert first is not None
    assert second is not None
    assert first.sha256 == second.sha256
    assert write_shard(tmp_path / "c", []) is None
    with ShardWriter(Storage(tmp_path), "d", rows_per_row_group=1) as writer:
        writer.add(record(0))  # and no close: an error came between
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_missing_shard(folder: Path) -> None:
    (folder / "shard-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"shard-00001\.parquet is missing.*\n.*ingest it again"):
        ShardReader(folder)


def test_truncated_shard(folder: Path) -> None:
    path = folder / "shard-00002.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"shard-00002\.parquet is truncated: it has \d+ bytes of \d+"):
        ShardReader(folder)


def test_flipped_bytes_are_found_by_verify(folder: Path) -> None:
    ShardReader(folder).verify()
    path = folder / "shard-00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"shard-00000\.parquet is damaged"):
        ShardReader(folder).verify()


def test_unreadable_shard_of_the_right_size(folder: Path) -> None:
    path = folder / "shard-00000.parquet"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match=r"shard-00000\.parquet cannot be read"):
        ShardReader(folder).take(np.array([0]))


def test_rows_that_are_not_there(folder: Path) -> None:
    with pytest.raises(IndexError, match="50 of a set of 50"):
        ShardReader(folder).take(np.array([0, 50]))


def test_manifests(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(DataError, match=r"nowhere' does not exist\n.*python -m ray_jobs.ingest"):
        Manifest.load("nowhere")
    with pytest.raises(DataError, match="has no manifest"):
        Manifest.load(tmp_path_factory.mktemp("empty"))
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[:50])
    with pytest.raises(DataError, match="damaged"):
        Manifest.load(folder)
    (folder / MANIFEST).write_text(text.replace(f'"format_version": {FORMAT_VERSION}', '"format_version": 99'))
    with pytest.raises(DataError, match=f"has format 99, this version reads {FORMAT_VERSION}"):
        Manifest.load(folder)
