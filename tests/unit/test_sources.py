"""Readers of official layouts, on tiny sets made here and on real rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from setok.config import SourceConfig
from setok.data import rle
from setok.data.scenes.layouts import write_scenes
from setok.data.schema import Record
from setok.data.sources import SOURCES, BadRecord, open_source
from setok.errors import ConfigError, DataError
from tests.source_files import good, jpeg, read, reasons

# ---------------------------------------------------------------- what all have in common


def test_unknown_kind() -> None:
    assert len(SOURCES) >= 27
    assert all(kind == source.name for kind, source in SOURCES.items())
    with pytest.raises(ConfigError, match=r"no source is called 'cocoo'\n.*did you mean 'coco'"):
        open_source(SourceConfig(kind="cocoo", path="."))


@pytest.mark.parametrize("kind", sorted(SOURCES))
def test_missing_and_empty_folders(kind: str, tmp_path: Path) -> None:
    split = "test" if kind in ("mme", "pope") else "train"
    with pytest.raises(DataError, match=r"nowhere' does not exist\n.*correct the path of the source"):
        open_source(SourceConfig(kind=kind, path=str(tmp_path / "nowhere"), split=split)).check()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.md").write_text("no picture")
    with pytest.raises(DataError, match=r"\n  → (put .* there( \(.*\))?, or correct the path|get it from)"):
        open_source(SourceConfig(kind=kind, path=str(tmp_path), split=split)).check()


def test_ranges_limit_and_fingerprint(tmp_path: Path) -> None:
    for index in range(6):
        (tmp_path / f"{index}.jpg").write_bytes(jpeg())
    source = open_source(SourceConfig(kind="folder", path=str(tmp_path)))
    ids = [record.id for record in source.records(0, 6)]
    assert [record.id for record in [*source.records(0, 2), *source.records(2, 9)]] == ids
    limited = open_source(SourceConfig(kind="folder", path=str(tmp_path), limit=4))
    assert [record.id for record in limited.records(0, 6)] == ids[:4]
    before = source.fingerprint()
    assert open_source(SourceConfig(kind="folder", path=str(tmp_path))).fingerprint() == before
    (tmp_path / "3.jpg").write_bytes(jpeg(size=(20, 20)))
    assert open_source(SourceConfig(kind="folder", path=str(tmp_path))).fingerprint() != before


# ---------------------------------------------------------------- folder


def test_folder_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b.JPG", "sub/a.png", "sub/c.webp", "._b.JPG", ".hidden/x.jpg", "notes.md"):
        (tmp_path / name).write_bytes(jpeg())
    (tmp_path / "b.txt").write_text("A red circle\n on a gray background\n")
    (tmp_path / "captions.json").write_text(json.dumps([{"file": "sub/a.png", "caption": "two dogs on a couch"}]))
    records = good(read("folder", tmp_path))
    assert [record.id for record in records] == ["folder/b.JPG", "folder/sub/a.png", "folder/sub/c.webp"]
    assert [record.caption for record in records] == ["A red circle on a gray background", "two dogs on a couch", ""]
    assert [record.concepts for record in records] == [["red circle", "gray background"], ["dogs", "couch"], []]
    assert records[0].images[0].data == jpeg()


def test_folder_with_json_lines_and_a_broken_list(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    (tmp_path / "captions.jsonl").write_text('{"file": "./a.jpg", "caption": "a cat"}\n\n')
    assert good(read("folder", tmp_path))[0].concepts == ["cat"]
    (tmp_path / "captions.jsonl").write_text('{"name": "a.jpg"}\n')
    with pytest.raises(DataError, match=r"captions.jsonl is no list of {file, caption}: row 1.*\n.*a red cup"):
        read("folder", tmp_path)
    (tmp_path / "captions.jsonl").write_bytes(b'{"file": "a.jpg", "caption": "a"}\n{"caption": "\xff"}')
    with pytest.raises(DataError, match=r"captions.jsonl: line 2 is no JSON.*0xff"):
        read("folder", tmp_path)
    (tmp_path / "captions.json").write_text('[{"file": "a.jpg", "caption": 7}]')
    with pytest.raises(DataError, match=r"captions.json is no list.*not text: 'caption' is 7"):
        read("folder", tmp_path)


def test_folder_with_pictures_elsewhere_and_damaged_captions(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in "abc":
        (tmp_path / "pictures" / f"{name}.jpg").write_bytes(jpeg())
    (tmp_path / "pictures" / "b.txt").write_bytes(b"caf\xe9")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "captions.json").write_text(json.dumps([{"file": "a.jpg", "caption": "two\n dogs"}]))
    records = read("folder", tmp_path / "lists", images=str(tmp_path / "pictures"))
    assert reasons(records) == ["", "caption is not UTF-8", ""]
    assert [record.caption for record in records if isinstance(record, Record)] == ["two dogs", ""]


# ---------------------------------------------------------------- imagenet


def test_imagenet_table(tmp_path: Path) -> None:
    images = tmp_path / "train" / "images"
    images.mkdir(parents=True)
    (images / "x.JPEG").write_bytes(jpeg())
    rows = [
        {"image": "x.JPEG", "label": 208, "synset": "n02099712", "class_name": "Labrador retriever, lab"},
        {"image": "gone.JPEG", "label": 1, "synset": "n00000001", "class_name": "fish"},
    ]
    (tmp_path / "train" / "data.json").write_text(json.dumps(rows))
    record, bad = read("imagenet", tmp_path)
    assert isinstance(record, Record)
    assert record.concepts == ["Labrador retriever"]
    assert record.provenance["label"] == "208"
    assert bad == BadRecord(id="imagenet/train/gone", reason="image file missing: gone.JPEG")


def test_imagenet_class_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder in ("n02099712", "golden_retriever"):
        (tmp_path / "val" / folder).mkdir(parents=True)
        (tmp_path / "val" / folder / "a.JPEG").write_bytes(jpeg())
    records = good(read("imagenet", tmp_path, split="val"))
    assert [record.concepts for record in records] == [["golden retriever"], []]
    assert "LOC_synset_mapping.txt" in caplog.text
    (tmp_path / "LOC_synset_mapping.txt").write_text("n02099712 Labrador retriever, lab\n")
    records = good(read("imagenet", tmp_path, split="val"))
    assert [record.concepts for record in records] == [["golden retriever"], ["Labrador retriever"]]


def test_imagenet_rows_and_splits_that_are_wrong(tmp_path: Path) -> None:
    images = tmp_path / "train" / "images"
    images.mkdir(parents=True)
    (images / "x.JPEG").write_bytes(jpeg())
    rows = [7, {"image": "x.JPEG", "label": 1}, {"image": "../x.JPEG", "class_name": "cat"}]
    (tmp_path / "train" / "data.json").write_text(json.dumps([*rows, {"image": "x.JPEG", "class_name": "cat"}]))
    *bad, whole = read("imagenet", tmp_path)
    assert [record.reason.split(":")[0] for record in bad if isinstance(record, BadRecord)] == [
        "row is no object",
        "missing key",
        "image path leaves its folder",
    ]
    assert bad[1].id == "imagenet/train/data.json:1"
    assert isinstance(whole, Record)
    assert whole.task == "classify"
    with pytest.raises(DataError, match=r"no split 'val', but \['train'\]\n.*choose one of these"):
        read("imagenet", tmp_path, split="val")
    moved = images.rename(tmp_path / "elsewhere")
    assert isinstance(read("imagenet", tmp_path, images=str(moved))[-1], Record)


@pytest.mark.parametrize("split", ["train", "val"])
def test_imagenet_reads_scenes(split: str, tmp_path: Path) -> None:
    settings = {"seed": 1, "family": "plain", "layouts": ["imagenet"], "num_processes": 1, "image_size": 32}
    for each in ("train", "val"):
        write_scenes(tmp_path, split=each, count=3 if each == "train" else 2, **settings)  # type: ignore[arg-type]
    records = good(read("imagenet", tmp_path / "imagenet", split=split))
    assert len(records) == {"train": 3, "val": 2}[split]
    assert all(record.task == "classify" and record.concepts for record in records)


def test_imagenet_real(realdata: Path) -> None:
    records = good(read("imagenet", realdata / "imagenet"))
    assert len(records) == 15
    assert records[0].concepts == ["Japanese spaniel"]
    assert records[1].concepts == ["bloodhound"]
    assert all(len(record.concepts) == 1 for record in records)


# ---------------------------------------------------------------- coco


def make_coco(root: Path) -> None:
    """Three pictures: with everything, without caption and panoptic, and one that only the annotations know."""
    (root / "train2017").mkdir(parents=True)
    (root / "annotations" / "panoptic_train2017").mkdir(parents=True)
    for name in ("000000000001.jpg", "000000000002.jpg"):
        (root / "train2017" / name).write_bytes(jpeg())
    images = [{"file_name": f"{i:012d}.jpg", "id": i, "height": 10, "width": 12} for i in (1, 3)]
    captions = [
        {"id": 9, "image_id": 1, "caption": "Another  red circle."},
        {"id": 5, "image_id": 1, "caption": "a red circle on a gray background "},
    ]
    (root / "annotations/captions_train2017.json").write_text(json.dumps({"images": images, "annotations": captions}))
    ids = np.zeros((10, 12), np.int64)
    ids[2:5, 3:6] = 300
    ids[6:] = 70_000
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)).save(
        root / "annotations/panoptic_train2017/000000000001.png"
    )
    infos = [{"id": 300, "category_id": 1}, {"id": 70_000, "category_id": 2}]
    panoptic = {
        "images": images,
        "annotations": [{"image_id": 1, "file_name": "000000000001.png", "segments_info": infos}],
        "categories": [{"id": 1, "name": "red circle", "isthing": 1}, {"id": 2, "name": "wall-brick", "isthing": 0}],
    }
    (root / "annotations/panoptic_train2017.json").write_text(json.dumps(panoptic))


def test_coco(tmp_path: Path) -> None:
    make_coco(tmp_path)
    whole, bare, missing = read("coco", tmp_path)
    assert isinstance(whole, Record)
    assert whole.id == "coco/train2017/000000000001"
    assert whole.caption == "a red circle on a gray background"
    assert whole.answers == ["a red circle on a gray background", "Another red circle."]
    assert whole.concepts == ["red circle", "gray background", "brick wall"]
    assert [(part.category, part.is_thing) for part in whole.segments] == [("red circle", True), ("wall-brick", False)]
    mask = rle.decode(whole.segments[0].counts, 10, 12)
    assert mask[2:5, 3:6].all()
    assert mask.sum() == 9
    assert isinstance(bare, Record)
    assert (bare.caption, bare.concepts, bare.segments) == ("", [], [])
    assert missing == BadRecord(id="coco/train2017/000000000003", reason="image file missing: 000000000003.jpg")


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_reads_scenes(split: str, tmp_path: Path) -> None:
    write_scenes(
        tmp_path, split=split, count=3, seed=1, family="plain", layouts=["coco"], num_processes=1, image_size=32
    )
    records = good(read("coco", tmp_path / "coco", split=split))
    assert [record.task for record in records] == ["caption"] * 3
    assert all(record.segments and record.concepts for record in records)


def test_coco_with_pictures_elsewhere(tmp_path: Path) -> None:
    make_coco(tmp_path)
    moved = (tmp_path / "train2017").rename(tmp_path / "photos")
    assert [isinstance(record, Record) for record in read("coco", tmp_path, images=str(moved))] == [True, True, False]
    with pytest.raises(DataError, match=r"images='/nowhere' is no folder\n.*folder that holds the pictures"):
        read("coco", tmp_path, images="/nowhere")


@pytest.mark.parametrize(
    ("what", "table", "row", "problem"),
    [
        ("captions", "annotations", {"id": 1, "image_id": 1}, r"annotations\[2\]: missing key: 'caption'"),
        ("captions", "annotations", {"id": 1, "caption": "a"}, r"annotations\[2\]: KeyError\('image_id'\)"),
        ("captions", "images", {"id": "x", "file_name": "a.jpg"}, r"images\[2\]: ValueError"),
        ("panoptic", "annotations", {"image_id": 1, "file_name": "a.png"}, r"annotations\[1\]: KeyError"),
        ("panoptic", "categories", "tree", r"categories\[2\]: row is no object"),
    ],
)
def test_coco_names_the_broken_row(what: str, table: str, row: object, problem: str, tmp_path: Path) -> None:
    make_coco(tmp_path)
    path = tmp_path / f"annotations/{what}_train2017.json"
    tree = json.loads(path.read_text())
    tree[table].append(row)
    path.write_text(json.dumps(tree))
    with pytest.raises(DataError, match=rf"{what}_train2017.json: {problem}"):
        read("coco", tmp_path)


def test_coco_with_damaged_parts(tmp_path: Path) -> None:
    make_coco(tmp_path)
    png = tmp_path / "annotations/panoptic_train2017/000000000001.png"
    png.write_bytes(png.read_bytes()[:40])
    bad = read("coco", tmp_path)[0]
    assert isinstance(bad, BadRecord)
    assert bad.reason == "panoptic map damaged: 000000000001.png"
    png.unlink()
    assert isinstance(read("coco", tmp_path)[0], BadRecord)
    captions = tmp_path / "annotations/captions_train2017.json"
    captions.write_text(captions.read_text()[:30])
    with pytest.raises(DataError, match="json is no valid JSON"):
        read("coco", tmp_path)


def test_coco_names_what_is_missing(tmp_path: Path) -> None:
    make_coco(tmp_path)
    (tmp_path / "annotations/captions_train2017.json").unlink()
    with pytest.raises(DataError, match=r"captions_train2017.json is missing\n.*annotations_trainval2017.zip"):
        read("coco", tmp_path)
    with pytest.raises(DataError, match=r"val2017 is missing\n.*zips/val2017.zip"):
        read("coco", tmp_path, split="val")
    with pytest.raises(ConfigError, match=r"no split 'trian'\n.*'train'"):
        read("coco", tmp_path, split="trian")


@pytest.mark.parametrize(("split", "count", "captioned"), [("train", 20, 16), ("val", 29, 29)])
def test_coco_real(realdata: Path, split: str, count: int, captioned: int) -> None:
    records = good(read("coco", realdata / "coco", split=split))
    assert len(records) == count
    assert sum(bool(record.caption) for record in records) == captioned
    annotations = json.loads((realdata / f"coco/annotations/panoptic_{split}2017.json").read_text())["annotations"]
    areas = {row["image_id"]: [info["area"] for info in row["segments_info"]] for row in annotations}
    with_segments = [record for record in records if record.segments]
    assert len(with_segments) == {"train": 12, "val": 14}[split]
    for record in with_segments:
        masks = [rle.decode(part.counts, part.height, part.width) for part in record.segments]
        assert [int(mask.sum()) for mask in masks] == areas[int(record.provenance["image_id"])]
    assert all(record.concepts for record in records if record.caption)
