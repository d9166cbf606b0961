"""Ingest with Ray: what goes in comes out in order, what is bad is named, and nothing is done twice."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ray_jobs.ingest import heldout_folder, ingest, is_held_out
from setok.config import IngestConfig, build
from setok.data.schema import MANIFEST, Manifest
from setok.data.shards import ShardReader
from setok.errors import DataError

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


def test_holdout_is_disjoint_and_fixed_by_the_id(tmp_path: Path) -> None:
    coco = make_coco(tmp_path / "coco", 30)
    job = config(tmp_path / "out", coco, holdout_fraction=0.3, rows_per_shard=8)
    manifest = ingest(job)
    kept, held = ([row["id"] for row in rows_of(folder, ["id"])] for folder in (tmp_path / "out", heldout_folder(job)))
    assert heldout_folder(job) == str(tmp_path / "out-heldout")
    assert len(kept) == manifest.num_rows
    assert 3 <= len(held) <= 15
    assert sorted(kept + held) == [f"coco/train2017/{i:012d}" for i in range(30)]
    assert all(is_held_out(name, 0.3) for name in held)
    assert not any(is_held_out(name, 0.3) for name in kept)
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
