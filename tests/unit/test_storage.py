"""Storage: the same few operations on a disk and in a bucket, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest

from setok.data.schema import EncodedImage, Manifest, Record
from setok.data.shards import ShardReader, ShardWriter, read_records
from setok.data.storage import Storage, beside
from setok.errors import ConfigError, DataError


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(tmp_path / "set" if request.param == "local" else request.getfixturevalue("s3_folder"))


def test_files_come_and_go(storage: Storage) -> None:
    assert not storage.exists()
    assert storage.files() == []
    assert storage.read("a.json") is None
    storage.write("a.json", b"one")
    storage.write("a.json", b"two!")
    storage.write(".journal/part.json", b"x")
    assert storage.exists()
    assert storage.files() == ["a.json"]
    assert storage.files(".journal") == ["part.json"]
    assert storage.sizes(["a.json", "b.json", ".journal"]) == [4, None, None]
    assert storage.read("a.json") == b"two!"
    assert storage.sha256("a.json") == hashlib.sha256(b"two!").hexdigest()
    with storage.open("a.json") as file:
        file.seek(1)
        assert file.read(2) == b"wo"
    storage.delete_folder(".journal")
    storage.delete_folder(".journal")
    storage.delete("a.json")
    storage.delete("a.json")
    assert storage.files() == [] == storage.files(".journal")


def test_an_error_while_writing_leaves_no_file(storage: Storage) -> None:
    storage.write("kept", b"old")

    def fail() -> None:
        with storage.create("new") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with storage.create("counted") as file:
        file.write(b"abc")
        file.write(memoryview(b"def"))
        assert file.num_bytes == 6
    assert storage.files() == ["counted", "kept"]
    assert storage.sha256("counted") == file.sha256()


def test_a_local_file_is_not_seen_before_its_end(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.write("a", b"old")
    with storage.create("a") as file:
        file.write(b"new")
        assert storage.read("a") == b"old"
        assert storage.files() == ["a"]
    assert storage.read("a") == b"new"
    (tmp_path / ".b.1234.partial").write_bytes(b"left by a killed process")
    storage.delete_partial()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_another_process_opens_the_same(storage: Storage) -> None:
    storage.write("a", b"1")
    assert pickle.loads(pickle.dumps(storage)).read("a") == b"1"


def test_a_set_is_read_from_where_it_lies(storage: Storage) -> None:
    records = [Record(id=str(i), source="t", images=[EncodedImage(data=bytes([i]) * 50)]) for i in range(30)]
    with ShardWriter(storage, "shard-00000.parquet", rows_per_row_group=7) as writer:
        for record in records:
            writer.add(record)
        shard = writer.close()
    assert shard is not None
    Manifest(shards=[shard], records_by_source={"t": 30}, quarantined_by_reason={}).save(storage.address)
    assert list(read_records(storage, shard.file)) == records
    reader = ShardReader(storage.address)
    reader.verify()
    rows = np.array([29, 3, 3, 14])
    assert [Record.from_row(row) for row in reader.take(rows).to_pylist()] == [records[i] for i in rows]
    storage.write(shard.file, b"x")
    with pytest.raises(DataError, match=r"shard-00000\.parquet is truncated: it has 1 bytes"):
        ShardReader(storage.address)
    storage.delete(shard.file)
    with pytest.raises(DataError, match=r"shard-00000\.parquet is missing"):
        ShardReader(storage.address)


def test_an_endpoint_from_the_environment(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Storage(s3_folder).write("a", b"1")
    plain, query = s3_folder.split("?")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://" + query.split("endpoint_override=")[1].split("&")[0])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert Storage(plain.replace("key:secret@", "")).files() == ["a"]


def test_what_people_see_has_no_secrets(s3_query: str) -> None:
    storage = Storage(f"s3://key:secret@no-such-bucket/a/b{s3_query}")
    assert storage.name == "s3://no-such-bucket/a/b"
    assert "secret" not in repr(storage)
    with pytest.raises(DataError, match=r"s3://no-such-bucket/a/b cannot be used.*\n.*AWS_ENDPOINT_URL") as caught:
        storage.write("a", b"1")
    assert "secret" not in str(caught.value)
    with pytest.raises(DataError, match=r"'s3://no-such-bucket/a/b' does not exist"):
        Manifest.load(storage.address)


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Storage("a/b").address == str(tmp_path / "a" / "b")
    assert Storage("a/b").name == "a/b"
    assert Storage(f"file://{tmp_path}/x").local == tmp_path / "x"
    assert Storage("gs://bucket/x").local is None
    assert beside("data/x/", "-heldout") == "data/x-heldout"
    assert beside("s3://b/x?region=eu", "-heldout") == "s3://b/x-heldout?region=eu"
    assert beside("why?/x", "-heldout") == "why?/x-heldout"
    with pytest.raises(ConfigError, match=r"no file system is called 'ftpd'\n.*s3"):
        Storage("ftpd://host/x")
