"""Parts of an ingest: cut by size, the same whoever makes them, and not made twice. Without Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ray_jobs.ingest import dry_run
from ray_jobs.ingesting import parts as ingest_parts
from ray_jobs.ingesting.finish import finish
from ray_jobs.ingesting.journal import JOURNAL, Entry, folders_of, read_entry
from ray_jobs.ingesting.parts import FolderWriter, drop_from_part, ingest_part, plan_parts
from setok.config import IngestConfig, build
from setok.data.schema import EncodedImage, Record
from setok.data.shards import read_records
from setok.data.sources import open_source
from setok.data.storage import Storage
from setok.errors import DataError


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Forty pictures of noise, the later ones larger, each with a caption."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(40):
        pixels = random.integers(0, 255, (30 + index, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
        (folder / f"{index:02d}.txt").write_text(f"a red box{index}")
    return folder


def config(pictures: Path, output: Path, **settings: Any) -> IngestConfig:
    source = {"kind": "folder", "path": str(pictures)}
    return build(IngestConfig, {"name": "t", "sources": [source], "output": str(output)} | settings)


def parts_of(job: IngestConfig) -> list[ingest_parts.Part]:
    return plan_parts(job, [open_source(source) for source in job.sources])


def ids(storage: Storage, entry: Entry, folder: int = 0) -> list[str]:
    return [r.id for shard in entry.contents[folder].shards for r in read_records(storage, shard.file)]


def test_shards_have_about_the_size_asked_for(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_parts, "_LEAST_SHARD_BYTES", 1000)
    job = config(pictures, tmp_path / "out", target_shard_mb=0.05)
    assert [part.stop - part.start for part in parts_of(job)] == [3] * 13 + [1]  # small: work for several processes
    monkeypatch.setattr(ingest_parts, "_LEAST_SHARDS", 2)
    parts = parts_of(job)
    assert [(part.start, part.stop) for part in parts] == [(start, start + 8) for start in range(0, 40, 8)]
    sizes = [shard.bytes for part in parts for shard in ingest_part(part, job)[0].contents[0].shards]
    assert all(0.5 < size / (0.05 * 2**20) < 2 for size in sizes)
    monkeypatch.undo()
    assert len(parts_of(config(pictures, tmp_path / "out"))) == 1  # too small to be cut at all


def test_settings_and_files_decide_what_a_part_is(pictures: Path, tmp_path: Path) -> None:
    def digests(**settings: Any) -> list[str]:
        return [part.digest for part in parts_of(config(pictures, tmp_path / "out", rows_per_shard=10, **settings))]

    before = digests()
    assert len(set(before)) == 4
    assert digests(max_bad_fraction=0.1, duplicates="drop", name="other") == before  # not what a part holds
    assert not set(digests(reencode_above_side=16)) & set(before)
    assert not set(digests(concepts="spacy")) & set(before)
    (pictures / "00.png").write_bytes(b"x")
    assert not set(digests()) & set(before)


def test_a_finished_part_is_not_made_again(pictures: Path, tmp_path: Path) -> None:
    job = config(pictures, tmp_path / "out", rows_per_shard=10, holdout_fraction=0.3)
    part = parts_of(job)[1]
    entry, found = ingest_part(part, job)
    assert not found
    assert Entry.from_json(entry.to_json()) == entry == read_entry(job, 1)
    assert len(entry.keys) == 16 * entry.num_rows
    storages = folders_of(job)
    held = ids(storages[1], entry, 1)
    assert len(held) == len(entry.held_out) > 0
    assert sorted(ids(storages[0], entry) + held) == [f"folder/{i}.png" for i in range(10, 20)]
    assert [f"folder/{10 + number}.png" for number in entry.held_out] == held
    assert ingest_part(part, job) == (entry, True)
    shard = tmp_path / "out" / entry.contents[0].shards[0].file
    good = shard.read_bytes()
    for damage in (good[:-1], good[:-1] + b"x", None):  # cut off, changed, gone
        shard.unlink()
        if damage is not None:
            shard.write_bytes(damage)
        assert ingest_part(part, job) == (entry, False)
        assert shard.read_bytes() == good
    (tmp_path / "out" / JOURNAL / "part-00001.json").write_text('{"digest": ')
    assert read_entry(job, 1) is None
    assert ingest_part(part, job) == (entry, False)


def test_left_out_records_leave_the_others_in_order(pictures: Path, tmp_path: Path) -> None:
    job = config(pictures, tmp_path / "out", rows_per_shard=10, holdout_fraction=0.3)
    part = parts_of(job)[0]
    whole, _ = ingest_part(part, job)
    dropped = [0, whole.held_out[0], 9]
    entry, found = drop_from_part(part, job, sorted(set(dropped)))
    assert not found
    gone = {f"folder/{number:02d}.png" for number in dropped}
    for number, storage in enumerate(folders_of(job)):
        assert ids(storage, entry, number) == [name for name in ids(storage, whole, number) if name not in gone]
    assert entry.num_rows == whole.num_rows - len(gone)
    assert sum(entry.contents[0].tasks["folder"].values()) == entry.contents[0].num_rows == entry.contents[0].num_images
    assert drop_from_part(part, job, sorted(set(dropped))) == (entry, True)
    assert ingest_part(part, job) == (whole, True)  # what it was made from is still there


def test_a_shard_that_grows_too_large_is_cut(tmp_path: Path, pictures: Path) -> None:
    job = config(pictures, tmp_path / "out", target_shard_mb=0.1, rows_per_row_group=4)
    random = np.random.default_rng(0)
    records = [Record(id=str(i), source="t", images=[EncodedImage(data=random.bytes(20_000))]) for i in range(40)]
    writer = FolderWriter(Storage(tmp_path / "out"), "shard-00003", job)
    for record in records:
        writer.add(record)
    content = writer.close()
    assert [shard.file for shard in content.shards[:2]] == ["shard-00003.parquet", "shard-00003-1.parquet"]
    assert all(shard.bytes < 3.2 * 0.1 * 2**20 for shard in content.shards)
    stored = [r for shard in content.shards for r in read_records(Storage(tmp_path / "out"), shard.file)]
    assert stored == records
    assert content.num_images == 40
    assert content.image_bytes == 800_000


def test_bad_records_and_concepts(pictures: Path, tmp_path: Path) -> None:
    (pictures / "03.png").write_bytes(b"<html>")
    job = config(pictures, tmp_path / "out", rows_per_shard=5)
    entry, _ = ingest_part(parts_of(job)[0], job)
    assert [row["id"] for row in entry.bad] == ["folder/03.png"]
    assert json.dumps(entry.bad)
    records = [r for shard in entry.contents[0].shards for r in read_records(Storage(tmp_path / "out"), shard.file)]
    assert [r.concepts for r in records] == [["red box0"], ["red box1"], ["red box2"], ["red box4"]]


def test_a_source_that_gives_nothing_is_named(pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = tmp_path / "imagenet"
    (table / "images").mkdir(parents=True)
    row = {"image": "gone.JPEG", "label": 1, "synset": "n00000001", "class_name": "cup"}
    (table / "data.json").write_text(json.dumps([row]))
    sources = [{"kind": "folder", "path": str(pictures)}, {"kind": "imagenet", "path": str(table)}]
    job = config(pictures, tmp_path / "out", sources=sources)
    parts = parts_of(job)
    for part in parts:
        ingest_part(part, job)
    manifest = finish(job, parts, {}, "request")
    assert manifest.records_by_source == {"folder": 40}
    assert "source imagenet gives NOTHING: all 1 records are bad, the first: image file missing" in caplog.text


def test_a_dry_run_names_every_source_that_is_missing(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = ("imagenet", "coco", "vqav2")
    sources = [{"kind": "folder", "path": str(pictures)}, *({"kind": k, "path": str(tmp_path / k)} for k in kinds)]
    with pytest.raises(DataError, match="3 of 4 sources cannot be read"):
        dry_run(config(pictures, tmp_path / "out", sources=sources))
    said = capsys.readouterr()
    said = "".join((said.out + said.err).split())  # as the terminal breaks its lines
    assert "40records" in said
    assert all(f"{kind}{tmp_path / kind}(train):missing" in said for kind in kinds)
    assert said.count("correctthepathofthesource,orputthere") == 3
