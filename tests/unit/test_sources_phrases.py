"""RefCOCO, RefCOCO+ and RefCOCOg: small generated cases, whole and damaged."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from setok.config import SourceConfig
from setok.data.schema import Record
from setok.data.sources import BadRecord, open_source
from setok.errors import ConfigError, DataError
from tests.source_files import put, read, shaded, texts

SQUARE = [[1, 1, 5, 1, 5, 4, 1, 4]]
WIDTH, HEIGHT = 12, 10


def make_refer(root: Path, refs: list[dict[str, Any]] | None = None, name: str = "refcoco", by: str = "unc") -> None:
    """Two pictures of 12 × 10 pixels with four objects each: good, outside, empty box, and of another picture's size."""
    annotations = []
    for image in (7, 8):
        common = {"image_id": image, "category_id": 1, "iscrowd": 0, "bbox": [1, 1, 4, 3], "area": 12}
        forms: list[dict[str, Any]] = [
            {"segmentation": SQUARE},
            {"segmentation": [[50, 50, 60, 50, 60, 60]]},
            {"segmentation": SQUARE, "bbox": [20, 1, 4, 3]},
            {"segmentation": {"size": [10, 11], "counts": [110]}, "iscrowd": 1},
        ]
        annotations += [common | form | {"id": image * 10 + number} for number, form in enumerate(forms)]
    instances = {
        "images": [{"id": image, "height": HEIGHT, "width": WIDTH, "file_name": "x"} for image in (7, 8, 9)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cup"}],
    }
    put(root / name / "instances.json", instances)
    put(root / name / f"refs({by}).p", pickle.dumps([ref(70), ref(80), ref(70, "b")] if refs is None else refs, 0))
    for image in (7, 8):
        put(root / f"images/mscoco/images/train2014/COCO_train2014_{image:012d}.jpg", shaded(image, (WIDTH, HEIGHT)))


def ref(number: int, /, *phrases: str, **changes: Any) -> dict[str, Any]:
    sentences = [
        {"sent_id": f"{number}{place}{phrase[:1]}", "sent": phrase, "raw": phrase, "tokens": phrase.split()}
        for place, phrase in enumerate(phrases or ("the  left cup", "cup"))
    ]
    row = {"ref_id": number, "ann_id": number, "image_id": number // 10, "category_id": 1, "split": "train"}
    return row | {"sentences": sentences} | changes


@pytest.mark.parametrize(("kind", "by"), [("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")])
def test_phrases(tmp_path: Path, kind: str, by: str) -> None:
    make_refer(tmp_path, name=kind, by=by)
    records = read(kind, tmp_path)
    assert [item.id for item in records] == [f"{kind}/train/{n}" for n in ("700t", "701c", "700b", "800t", "801c")]
    first = records[0]
    assert first.caption == "the left cup" and not first.conversation
    assert isinstance(first, Record)
    assert first.masks[0].counts == [11, 3, 7, 3, 7, 3, 7, 3, 76]
    box = first.boxes[0]
    assert (box.label, box.is_group) == ("the left cup", False)
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((1 / 12, 0.1, 5 / 12, 0.4))
    assert first.provenance == {
        "image_id": "7",
        "ref_id": "70",
        "ann_id": "70",
        "sent_id": "700t",
        "category": "cup",
        "phrase": "the left cup",
    }


def test_phrases_of_a_picture_together(tmp_path: Path) -> None:
    make_refer(tmp_path)
    first, second = read("refcoco", tmp_path, turns="all")
    assert isinstance(first, Record) and second.id == "refcoco/train/image/8"
    said = ["<image>\nSegment the left cup", "<mask>", "Segment cup", "<mask>", "Segment b", "<mask>"]
    assert texts(first) == said
    assert len(first.masks) == len(first.boxes) == 3 and len(first.images) == 1
    assert [row["phrase"] for row in json.loads(first.provenance["phrases"])] == ["the left cup", "cup", "b"]


def test_phrases_that_cannot_be_used(tmp_path: Path) -> None:
    refs: list[Any] = [
        *(ref(71, "outside"), ref(72, "box"), ref(73, "size"), ref(79, "no annotation"), ref(70, " ")),
        *(ref(90, "no picture", ann_id=70), ref(70, sentences=[]), {"split": "train"}, "nonsense"),
        ref(70, "good", split="val"),
    ]
    make_refer(tmp_path, refs)
    assert [item.reason for item in read("refcoco", tmp_path) if isinstance(item, BadRecord)] == [
        "mask outside the picture: a corner at (50, 50) of 12 × 10 pixels",
        "box outside the picture: [20, 1, 4, 3] of 12 × 10 pixels",
        "mask outside the picture: it has 10 × 11 pixels, the picture 10 × 12",
        "no mask: instances.json does not have annotation 79",
        "empty text: 'sent'",
        "image file missing: 9",
        "no phrase: the list of sentences is empty",
        "missing key: 'ref_id'",
        "damaged row: string indices must be integers, not 'str'",
    ]
    nonsense, good = read("refcoco", tmp_path, split="val")
    assert nonsense.id == "refcoco/val/ref-row-8", "a row that names no split is bad in each"
    assert isinstance(good, Record) and good.caption == "good"


def test_a_picture_of_another_size_or_turned_by_exif(tmp_path: Path) -> None:
    make_refer(tmp_path)
    folder = tmp_path / "images/mscoco/images/train2014"
    put(folder / "COCO_train2014_000000000007.jpg", shaded(1, (HEIGHT, WIDTH)))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "COCO_train2014_000000000008.jpg", exif=exif)
    reasons = {item.reason for item in read("refcoco", tmp_path) if isinstance(item, BadRecord)}
    assert reasons == {
        "picture and annotations differ: 10 × 12 pixels, the annotations say 12 × 10",
        "picture and annotations differ: EXIF turns the picture (orientation 6)",
    }


def test_references_that_are_a_program_are_refused(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    make_refer(tmp_path)
    put(tmp_path / "refcoco/refs(unc).p", pickle.dumps([Attack()], 0))
    with pytest.raises(DataError, match=r"refs\(unc\).p: pickle refused: it names \w+\.system"):
        read("refcoco", tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_split_without_references_is_named(tmp_path: Path) -> None:
    make_refer(tmp_path)
    with pytest.raises(DataError, match=r"has no references of split 'testB'\n.*it has .*train"):
        open_source(SourceConfig(kind="refcoco", path=str(tmp_path), split="testB")).check()


def test_what_refer_misses_is_named(tmp_path: Path) -> None:
    make_refer(tmp_path)
    source = open_source(SourceConfig(kind="refcoco", path=str(tmp_path)))
    for file in ("images/mscoco/images/train2014", "refcoco/instances.json", "refcoco/refs(unc).p"):
        (tmp_path / file).rename(tmp_path / "away")
        with pytest.raises(DataError, match=r"is missing\n  → get it from http"):
            source.check()
        (tmp_path / "away").rename(tmp_path / file)
    source.check()
    elsewhere = tmp_path / "coco/train2017/000000000007.jpg"
    put(elsewhere, shaded(3, (WIDTH, HEIGHT)))
    first = read("refcoco", tmp_path, images=str(tmp_path / "coco"))[0]
    assert isinstance(first, Record) and first.images[0].data == elsewhere.read_bytes()
    elsewhere.unlink()
    with pytest.raises(DataError, match=r"no pictures below .*coco'\n.*images.cocodataset.org"):
        read("refcoco", tmp_path, images=str(tmp_path / "coco"))
    with pytest.raises(ConfigError, match=r"refcocog has no split 'testA'\n.*test"):
        open_source(SourceConfig(kind="refcocog", path=".", split="testA"))
