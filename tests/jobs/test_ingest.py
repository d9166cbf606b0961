"""Ingest with Ray: what goes in comes out in order, what is bad is named, and nothing is done twice."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ray_jobs.ingest import heldout_folder, ingest, is_held_out
from ray_jobs.ingesting.journal import JOURNAL
from ray_jobs.ingesting.parts import ingest_part, plan_parts
from ray_jobs.ingesting.validate import validate
from ray_jobs.training.batches import local_batches
from setok.config import IngestConfig, build
from setok.data.images import decode_image
from setok.data.schema import ARROW_SCHEMA, MANIFEST, Manifest, Record
from setok.data.shards import ShardReader
from setok.data.sources import open_source
from setok.data.storage import Storage
from setok.errors import DataError
from tests.fakes import train_config

pytestmark = pytest.mark.usefixtures("ray_local")


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def config(output: Path, *sources: dict[str, Any], **settings: Any) -> IngestConfig:
    return build(IngestConfig, {"name": "test", "sources": list(sources), "output": str(output)} | settings)


def make_coco(root: Path, num_images: int) -> dict[str, Any]:
    (root / "train2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, captions = [], []
    for index in range(num_images):
        name = f"{index:012d}.jpg"
        (root / "train2017" / name).write_bytes(jpeg(index))
        images.append({"file_name": name, "id": index})
        captions.append({"id": index, "image_id": index, "caption": f"a red box{index} on a table"})
    tree = {"images": images, "annotations": captions}
    (root / "annotations" / "captions_train2017.json").write_text(json.dumps(tree))
    return {"kind": "coco", "path": str(root)}


def rows_of(folder: Path | str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    reader = ShardReader(folder, columns=columns)
    reader.verify()
    return reader.take(np.arange(reader.num_rows)).to_pylist()


def test_two_sources_in_order_over_several_shards(tmp_path: Path) -> None:
    coco = make_coco(tmp_path / "coco", 11)
    (tmp_path / "own").mkdir()
    for index in range(3):
        (tmp_path / "own" / f"{index}.jpg").write_bytes(jpeg(100 + index))
    folder = {"kind": "folder", "path": str(tmp_path / "own"), "limit": 2}
    manifest = ingest(config(tmp_path / "out", coco, folder, rows_per_shard=4, rows_per_row_group=3))
    assert manifest == Manifest.load(tmp_path / "out")
    assert [shard.rows for shard in manifest.shards] == [4, 4, 3, 2]
    assert manifest.records_by_source == {"coco": 11, "folder": 2}
    rows = rows_of(tmp_path / "out")
    assert [row["id"] for row in rows[:2]] == ["coco/train2017/000000000000", "coco/train2017/000000000001"]
    assert [row["id"] for row in rows[11:]] == ["folder/0.jpg", "folder/1.jpg"]
    assert rows[5]["concepts"] == ["red box5", "table"]
    assert rows[5]["images"] == [{"data": jpeg(5), "role": "input"}]  # the bytes as they were
    assert (tmp_path / "out" / "quarantine.jsonl").read_text() == ""
    again = ingest(config(tmp_path / "again", coco, folder, rows_per_shard=4, rows_per_row_group=3))
    assert again.fingerprint == manifest.fingerprint


def test_bad_pictures_are_quarantined_with_a_reason(tmp_path: Path) -> None:
    coco = make_coco(tmp_path / "coco", 8)
    images = tmp_path / "coco" / "train2017"
    for name, data in (("000000000002.jpg", jpeg(2)[:-200]), ("000000000005.jpg", b"")):
        (images / name).write_bytes(data)
    (images / "000000000007.jpg").unlink()
    manifest = ingest(config(tmp_path / "out", coco))
    assert manifest.num_rows == 5
    assert manifest.quarantined_by_reason == {"truncated JPEG": 1, "empty file": 1, "image file missing": 1}
    lines = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert [line["id"][-1] for line in lines] == ["2", "5", "7"]
    assert all(line["source"] == "coco" and line["reason"] for line in lines)
    with pytest.raises(
        DataError, match=r"3 of 8 records are bad, max_bad_fraction=0.3 allows 30%.*\n.*quarantine.jsonl"
    ):
        ingest(config(tmp_path / "strict", coco, max_bad_fraction=0.3))
    assert not (tmp_path / "strict" / MANIFEST).exists()


def test_the_same_request_is_not_worked_off_twice(tmp_path: Path) -> None:
    coco = make_coco(tmp_path / "coco", 6)
    out = tmp_path / "out"
    first = ingest(config(out, coco))
    stamp = (out / MANIFEST).stat().st_mtime_ns
    assert ingest(config(out, coco)) == first
    assert (out / MANIFEST).stat().st_mtime_ns == stamp
    changed = ingest(config(out, coco, rows_per_shard=4))  # other settings
    assert len(changed.shards) == 2
    (tmp_path / "coco/train2017/000000000003.jpg").write_bytes(jpeg(77))  # another picture
    assert ingest(config(out, coco, rows_per_shard=4)).fingerprint != changed.fingerprint
    (out / "shard-00001.parquet").unlink()  # a broken set
    assert ingest(config(out, coco, rows_per_shard=4)).num_rows == 6
    assert sorted(path.name for path in out.iterdir()) == [
        *("manifest.json", "quarantine.jsonl", "shard-00000.parquet", "shard-00001.parquet")
    ]


def test_holdout_is_disjoint_and_fixed_by_the_picture(tmp_path: Path) -> None:
    coco = make_coco(tmp_path / "coco", 30)
    job = config(tmp_path / "out", coco, holdout_fraction=0.3, rows_per_shard=8)
    manifest = ingest(job)
    kept, held = ([row["id"] for row in rows_of(folder, ["id"])] for folder in (tmp_path / "out", heldout_folder(job)))
    assert heldout_folder(job) == str(tmp_path / "out-heldout")
    assert len(kept) == manifest.num_rows
    assert 3 <= len(held) <= 15
    assert sorted(kept + held) == [f"coco/train2017/{i:012d}" for i in range(30)]
    for folder, expected in ((heldout_folder(job), True), (tmp_path / "out", False)):
        assert {is_held_out(Record.from_row(row), 0.3) for row in rows_of(folder, ARROW_SCHEMA.names)} == {expected}
    assert Manifest.load(tmp_path / "out-heldout").request == manifest.request
    with pytest.raises(DataError, match=r"holdout_fraction=1e-09 of 30 records leaves none"):
        ingest(config(tmp_path / "none", coco, holdout_fraction=1e-9))


def test_what_cannot_be_ingested(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere' does not exist\n.*captions_train2017.json"):
        ingest(config(tmp_path / "out", {"kind": "coco", "path": str(tmp_path / "nowhere")}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"has no images\n.*put images there"):
        ingest(config(tmp_path / "out", {"kind": "folder", "path": str(tmp_path / "empty")}))
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "a.jpg").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"no record of 1 can be used \(1 × not an image\)"):
        ingest(config(tmp_path / "out", {"kind": "folder", "path": str(tmp_path / "junk")}))
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_an_error_in_a_task_arrives_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coco = make_coco(tmp_path / "coco", 1)
    (tmp_path / "coco/annotations/captions_train2017.json").write_text("{")
    monkeypatch.setattr("setok.data.sources.base.Source.check", lambda self: None)  # only here: tasks open it again
    monkeypatch.setattr("setok.data.sources.coco.CocoSource._count", lambda self: 1)
    with pytest.raises(DataError, match=r"captions_train2017.json is no valid JSON"):
        ingest(config(tmp_path / "out", coco))


def test_shards_do_not_depend_on_the_processes(tmp_path: Path) -> None:
    coco = make_coco(tmp_path / "coco", 20)
    settings = {"rows_per_shard": 3, "holdout_fraction": 0.2}
    manifest = ingest(config(tmp_path / "parallel", coco, **settings))
    alone = config(tmp_path / "alone", coco, **settings)
    parts = plan_parts(alone, [open_source(source) for source in alone.sources])
    for part in reversed(parts):  # one after the other, in this process, from the last to the first
        ingest_part(part, alone)
    for shard in manifest.shards:
        assert (tmp_path / "alone" / shard.file).read_bytes() == (tmp_path / "parallel" / shard.file).read_bytes()


@pytest.fixture
def doubled(tmp_path: Path) -> list[dict[str, Any]]:
    """Two folders: the second has two pictures of the first, one with the same caption, and one of its own twice."""
    for name, pictures in (("a", [0, 1, 2, 3, 1]), ("b", [4, 1, 2, 4])):
        (tmp_path / name).mkdir()
        for index, seed in enumerate(pictures):
            (tmp_path / name / f"{index}.jpg").write_bytes(jpeg(seed))
            (tmp_path / name / f"{index}.txt").write_text("another" if (name, seed) == ("b", 2) else f"box {seed}")
    return [{"kind": "folder", "path": str(tmp_path / name)} for name in "ab"]


def test_duplicates_of_all_sources(tmp_path: Path, doubled: list[dict[str, Any]]) -> None:
    kept = ingest(config(tmp_path / "kept", *doubled, rows_per_shard=2))
    assert (kept.num_rows, kept.num_duplicates) == (9, 0)
    reported = ingest(config(tmp_path / "reported", *doubled, rows_per_shard=2, duplicates="report"))
    assert (reported.num_rows, reported.duplicates_by_source) == (9, {"folder": 3})
    assert reported.fingerprint == kept.fingerprint
    out = tmp_path / "dropped"
    dropped = ingest(config(out, *doubled, rows_per_shard=2, duplicates="drop"))
    assert (dropped.num_rows, dropped.num_duplicates, dropped.num_images) == (6, 3, 6)
    assert dropped.records_by_task == {"folder": {"caption": 6}}
    rows = rows_of(out)
    assert [(row["id"], row["caption"]) for row in rows] == [
        *((f"folder/{i}.jpg", f"box {i}") for i in range(4)),
        *(("folder/0.jpg", "box 4"), ("folder/2.jpg", "another")),
    ]
    assert {path.name for path in out.glob("*.parquet")} == {shard.file for shard in dropped.shards}
    assert not (out / JOURNAL).exists()
    again = ingest(config(tmp_path / "again", *doubled, rows_per_shard=2, duplicates="drop"))
    assert again == dropped
    strict = config(tmp_path / "few", *doubled, rows_per_shard=2, duplicates="drop", max_bad_fraction=0.0)
    assert ingest(strict).num_rows == 6  # a duplicate is not bad


def test_too_much_that_is_bad_stops_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    for index in range(60):
        (folder / f"{index:02d}.jpg").write_bytes(b"<html>" if index < 20 and index % 2 else jpeg(0))
    job = config(tmp_path / "out", {"kind": "folder", "path": str(folder)}, rows_per_shard=4, max_bad_fraction=0.2)
    monkeypatch.setattr("ray_jobs.ingest.EARLY_RECORDS", 10)
    with pytest.raises(DataError, match=r"6 of the first 12 records are bad.*allows 20% \(6 × not an image\)"):
        ingest(job)
    assert len((tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()) == 6
    monkeypatch.setattr("ray_jobs.ingest.EARLY_RECORDS", 50)
    assert ingest(job).num_quarantined == 10  # in the end it was not too much
    monkeypatch.setattr("ray_jobs.ingest.EARLY_RECORDS", 1000)
    with pytest.raises(DataError, match=r"10 of 60 records are bad, max_bad_fraction=0.1 allows 10%"):
        ingest(job.model_copy(update={"output": str(tmp_path / "strict"), "max_bad_fraction": 0.1}))


def test_names_that_are_not_utf8_end_in_quarantine(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "good.jpg").write_bytes(jpeg(0))
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes(jpeg(1))
    job = config(tmp_path / "out", {"kind": "folder", "path": str(folder)})
    assert ingest(job).quarantined_by_reason == {"text is not Unicode": 1}
    (line,) = (tmp_path / "out" / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    reason = "text is not Unicode: id has half a surrogate pair at 10"
    assert json.loads(line) == {"id": "folder/caf\\udce9.jpg", "source": "folder", "reason": reason}


def test_a_set_in_a_bucket(tmp_path: Path, s3_folder: str, doubled: list[dict[str, Any]]) -> None:
    settings: dict[str, Any] = {"rows_per_shard": 2, "duplicates": "drop", "holdout_fraction": 0.5}
    local = ingest(config(tmp_path / "out", *doubled, **settings))
    job = build(IngestConfig, {"name": "t", "sources": doubled, "output": s3_folder} | settings)
    assert ingest(job) == local == Manifest.load(s3_folder)
    assert ingest(job) == local
    assert rows_of(s3_folder) == rows_of(tmp_path / "out")
    assert rows_of(heldout_folder(job)) == rows_of(tmp_path / "out-heldout")
    storage = Storage(s3_folder)
    assert storage.files() == sorted([MANIFEST, "quarantine.jsonl", *(shard.file for shard in local.shards)])
    assert storage.files(JOURNAL) == []
    assert validate(s3_folder)
    storage.write(local.shards[0].file, b"x")
    assert not validate(s3_folder)
    assert ingest(job) == local
    assert validate(s3_folder)


def test_training_reads_a_bucket(s3_folder: str, doubled: list[dict[str, Any]]) -> None:
    ingest(build(IngestConfig, {"name": "t", "sources": doubled, "output": s3_folder}))
    job = train_config(data={"train": [{"path": s3_folder}]}, train__steps=2)
    batches = local_batches(job, start_step=0)
    assert sum(float(batch.valid.sum()) for step in batches for batch in step) == 16


def test_real_rows(realdata: Path, tmp_path: Path) -> None:
    coco = {"kind": "coco", "path": str(realdata / "coco")}
    imagenet = {"kind": "imagenet", "path": str(realdata / "imagenet")}
    manifest = ingest(config(tmp_path / "out", coco, coco | {"split": "val"}, imagenet))
    assert manifest.records_by_source == {"coco": 20 + 29, "imagenet": 15}
    assert manifest.num_quarantined == 0
    rows = rows_of(tmp_path / "out")
    assert sum(bool(row["segments"]) for row in rows) == 26
    assert sum(bool(row["caption"]) for row in rows) == 45
    assert sum(len(row["segments"]) for row in rows) == 297


def test_real_rows_of_many_sets(realdata: Path, tmp_path: Path) -> None:
    """Questions, phrases with masks, and edits in one set; pictures and masks shrink together."""
    coco, refer = str(realdata / "coco"), str(realdata / "refer" / "data")
    sources = [
        {"kind": "vqav2", "path": str(realdata / "vqav2"), "split": "val", "images": coco},
        {"kind": "okvqa", "path": str(realdata / "okvqa"), "split": "val", "images": coco},
        {"kind": "aokvqa", "path": str(realdata / "aokvqa"), "split": "val", "images": coco},
        {"kind": "gqa", "path": str(realdata / "gqa"), "split": "testdev"},
        *({"kind": kind, "path": refer, "split": "val"} for kind in ("refcoco", "refcoco+", "refcocog")),
        {"kind": "instructpix2pix", "path": str(realdata / "instructpix2pix" / "raw")},
    ]
    out = tmp_path / "out"
    manifest = ingest(config(out, *sources, reencode_above_side=200, duplicates="report"))
    assert manifest.records_by_source == {
        "vqav2": 18,
        "okvqa": 9,
        "aokvqa": 12,
        "gqa": 81,
        "instructpix2pix": 4,
        "refcoco": 23,
        "refcoco+": 24,
        "refcocog": 11,
    }
    assert manifest.num_images == 182 + 4  # an edit has two
    assert sum(map(sum, (tasks.values() for tasks in manifest.records_by_task.values()))) == manifest.num_rows == 182
    assert validate(str(out))
    num_masks = 0
    for row in rows_of(out):
        record = Record.from_row(row)
        sizes = [decode_image(image.data).shape[:2] for image in record.images]
        assert all(max(size) <= 200 for size in sizes)
        num_masks += len(record.masks)
        assert all((mask.height, mask.width) == sizes[0] and sum(mask.counts[1::2]) for mask in record.masks)
    assert num_masks == 23 + 24 + 11
    assert sum(shard.bytes for shard in manifest.shards) < 2 * 182 * 20_000
