"""Every layout of questions, phrases and edits: real rows with their known counts, and generated scenes."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from setok.config import SourceConfig
from setok.data import rle
from setok.data.images import decode_image
from setok.data.scenes import write_scenes
from setok.data.schema import Record
from setok.data.sources import BadRecord, Source, open_source

REFER, VQA, OCR = "refer/data", "vqav2/allennlp_fixture", "textvqa"


def opened(kind: str, path: Path, **settings: Any) -> Source:
    source = open_source(SourceConfig(kind=kind, path=str(path), **settings))
    source.check()
    return source


def split_up(source: Source) -> tuple[list[Record], list[BadRecord]]:
    """Good and bad records; whole, and in two ranges that another process could have read, they are the same."""
    items = list(source.records(0, len(source)))
    other = open_source(source.config)
    cut = len(items) // 3
    assert [*other.records(0, cut), *other.records(cut, len(items) + 5)] == items
    assert len({item.id for item in items}) == len(items)
    good = [item for item in items if isinstance(item, Record)]
    for record in good:
        record.check()
        assert Record.from_row(record.to_row()) == record
    return good, [item for item in items if isinstance(item, BadRecord)]


def pictures(records: list[Record]) -> int:
    """Different pictures; each one's records must stand next to each other."""
    data = [record.images[0].data for record in records]
    runs = 1 + sum(one != next_one for one, next_one in pairwise(data)) if data else 0
    assert runs == len(set(data))
    return runs


# kind, folder, settings, files under their official names, good records and pictures of them, bad records
REAL: list[tuple[str, str, dict[str, str], dict[str, str], int, int, int]] = [
    ("vqav2", "vqav2", {"split": "val", "images": "coco"}, {}, 18, 16, 0),
    ("vqav2", "vqav2", {"split": "val", "images": "coco", "turns": "all"}, {}, 16, 16, 0),
    (
        *("vqav2", VQA, {"images": f"{VQA}/images"}),
        {
            "questions.json": "v2_OpenEnded_mscoco_train2014_questions.json",
            "annotations.json": "v2_mscoco_train2014_annotations.json",
        },
        *(3, 1, 0),
    ),
    ("okvqa", "okvqa", {"split": "val", "images": "coco"}, {}, 9, 9, 0),
    ("aokvqa", "aokvqa", {"split": "val", "images": "coco"}, {}, 12, 12, 0),
    (
        *("aokvqa", "aokvqa", {"split": "val", "images": "coco"}),
        {"aokvqa_v1p0_val_noimage.json": "aokvqa_v1p0_val.json"},
        *(0, 0, 60),
    ),
    ("gqa", "gqa", {}, {}, 2, 2, 0),
    ("gqa", "gqa", {"split": "testdev"}, {}, 81, 2, 0),
    ("gqa", "gqa", {"split": "testdev", "turns": "all"}, {}, 2, 2, 0),
    (
        *("gqa", "gqa", {"split": "testdev", "images": "gqa"}),
        {"testdev_balanced_questions_300_noimage.json": "testdev_balanced_questions.json"},
        *(0, 0, 300),
    ),
    (
        *("gqa", "gqa/allennlp_fixture", {"split": "train_all", "images": "gqa/images"}),
        {"question_dir": "train_all_questions"},
        *(2, 2, 0),
    ),
    ("textvqa", OCR, {"split": "val"}, {}, 2, 1, 120),
    (
        *("textvqa", OCR, {"split": "val", "images": OCR}),
        {"TextVQA_with_url_val_first200.json": "TextVQA_0.5.1_val.json"},
        *(0, 0, 200),
    ),
    ("refcoco", REFER, {"split": "val"}, {}, 23, 3, 0),
    ("refcoco", REFER, {"split": "testA"}, {}, 12, 1, 0),
    ("refcoco", REFER, {"split": "testB"}, {}, 17, 2, 0),
    ("refcoco", REFER, {"split": "val", "turns": "all"}, {}, 3, 3, 0),
    ("refcoco+", REFER, {"split": "val"}, {}, 24, 3, 0),
    ("refcoco+", REFER, {"split": "testA"}, {}, 11, 1, 0),
    ("refcoco+", REFER, {"split": "testB"}, {}, 18, 2, 0),
    ("refcocog", REFER, {"split": "val"}, {}, 11, 2, 0),
    ("refcocog", REFER, {"split": "test"}, {}, 17, 5, 0),
    ("pope", "pope/with_images", {"split": "random", "images": "coco"}, {}, 42, 7, 0),
    ("pope", "pope/with_images", {"split": "test", "images": "coco"}, {}, 126, 7, 0),
    ("pope", "pope/with_images", {"split": "test", "images": "coco", "turns": "all"}, {}, 21, 7, 0),
    ("pope", "pope", {"split": "adversarial", "images": "coco"}, {}, 42, 7, 2958),
    ("instructpix2pix", "instructpix2pix/raw", {}, {}, 4, 4, 0),
    ("instructpix2pix", "instructpix2pix/hf_disk", {}, {}, 2, 2, 0),
]


@pytest.mark.parametrize(("kind", "folder", "settings", "names", "good", "num_pictures", "bad"), REAL)
def test_real_rows(
    realdata: Path,
    tmp_path: Path,
    kind: str,
    folder: str,
    settings: dict[str, str],
    names: dict[str, str],
    good: int,
    num_pictures: int,
    bad: int,
) -> None:
    root = realdata / folder
    if names:
        for name, official in names.items():
            (tmp_path / official).symlink_to(root / name)
        root = tmp_path
    settings = settings | ({"images": str(realdata / settings["images"])} if "images" in settings else {})
    records, broken = split_up(opened(kind, root, **settings))
    assert (len(records), pictures(records), len(broken)) == (good, num_pictures, bad)
    assert {record.reason.split(":")[0] for record in broken} <= {"image file missing"}
    for data in {image.data for record in records for image in record.images}:
        decode_image(data)


def test_real_answers(realdata: Path) -> None:
    records, _ = split_up(opened("vqav2", realdata / "vqav2", split="val", images=str(realdata / "coco")))
    first = records[0]
    assert first.id == "vqav2/val/262227000"
    assert [turn.text for turn in first.conversation] == ["<image>\nAre there pill bottles?", "no"]
    assert first.answers == ["no"] * 10
    assert first.provenance["answer_type"] == "yes/no"
    choice = split_up(opened("aokvqa", realdata / "aokvqa", split="val", images=str(realdata / "coco")))[0][0]
    assert choice.choices == ["stadium", "lot", "lane", "terminal"]
    assert choice.answers[:3] == ["terminal", "factory", "asia"] and len(choice.answers) == 11
    assert choice.conversation[1].text == "terminal"
    full = split_up(opened("gqa", realdata / "gqa"))[0][0]
    assert full.id == "gqa/train/202218649"
    assert full.provenance["image_id"] == "n578564"
    assert full.provenance["num_steps"] == "3" and full.provenance["structural"] == "query"
    read = split_up(opened("textvqa", realdata / "textvqa", split="val"))[0][0]
    assert "CORNER" in json.loads(read.provenance["ocr_tokens"])


@pytest.mark.parametrize(
    ("kind", "phrases", "objects"), [("refcoco", 52, 18), ("refcoco+", 53, 18), ("refcocog", 28, 15)]
)
def test_real_phrases(realdata: Path, kind: str, phrases: int, objects: int) -> None:
    splits = ("val", "test") if kind == "refcocog" else ("val", "testA", "testB")
    records = [record for split in splits for record in split_up(opened(kind, realdata / REFER, split=split))[0]]
    assert len(records) == phrases
    assert len({record.provenance["ref_id"] for record in records}) == objects
    rows = json.loads((realdata / REFER / kind / "instances.json").read_text())["annotations"]
    areas = {str(row["id"]): row["area"] for row in rows if not row["iscrowd"]}
    for record in records:
        (mask,), (box,) = record.masks, record.boxes
        pixels = rle.decode(mask.counts, mask.height, mask.width)
        assert pixels.sum() == pytest.approx(areas[record.provenance["ann_id"]], rel=0.05)
        assert decode_image(record.images[0].data).shape == (mask.height, mask.width, 3)
        columns, lines = np.flatnonzero(pixels.any(0)), np.flatnonzero(pixels.any(1))
        around = np.array([columns[0], lines[0], columns[-1] + 1, lines[-1] + 1], float)
        stated = np.array([box.x0 * mask.width, box.y0 * mask.height, box.x1 * mask.width, box.y1 * mask.height])
        np.testing.assert_allclose(stated, around, atol=8)  # a thin tip is in the box and not in the mask
        assert box.label == record.provenance["phrase"]


# ---------------------------------------------------------------- scenes

COUNT = 12
OURS = ("vqav2", "gqa", "refcoco", "instructpix2pix", "magicbrush")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes")
    for split in ("train", "val", "test"):
        write_scenes(out, split=split, count=COUNT, seed=3, family="hard", layouts=OURS, num_processes=1)
    return out


@pytest.mark.parametrize("turns", ["each", "all"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("kind", OURS)
def test_scenes(scenes: Path, kind: str, split: str, turns: str) -> None:
    stamp = json.loads((scenes / kind / f"scenes_{split}.json").read_text())["counts"]
    settings = {"split": "testA" if kind == "refcoco" and split == "test" else split, "turns": turns}
    if kind == "vqav2":
        settings["images"] = str(scenes / "coco")
    records, bad = split_up(opened(kind, scenes / kind, **settings))
    each = {
        "vqav2": stamp.get("questions"),
        "gqa": stamp.get("questions"),
        "refcoco": sum(len(ref["sentences"]) for ref in _refs(scenes, split)) if kind == "refcoco" else None,
        "instructpix2pix": COUNT,
        "magicbrush": 2 * COUNT,
    }[kind]
    assert not bad
    assert len(records) == (COUNT if turns == "all" else each)
    if kind != "magicbrush":  # its second turn starts from the first one's result
        assert pictures(records) == COUNT
    turns_of = {"segment": "<mask>", "edit": "<image>"}
    for record in records:
        assert record.task == {"vqav2": "vqa", "gqa": "vqa", "refcoco": "segment"}.get(kind, "edit")
        if kind == "refcoco" and turns == "each":
            assert record.caption and not record.conversation, "put in words at training"
            continue
        assert record.conversation[0].text.startswith("<image>\n")
        said = [turn.text for turn in record.conversation[1::2]]
        assert all(text == turns_of.get(record.task, text) and text for text in said)


def _refs(scenes: Path, split: str) -> list[dict[str, Any]]:
    import pickle

    name = {"test": "testA"}.get(split, split)
    refs = pickle.loads((scenes / "refcoco/refcoco/refs(unc).p").read_bytes())
    return [ref for ref in refs if ref["split"] == name]


def test_masks_of_scenes_are_exact(scenes: Path) -> None:
    records, _ = split_up(opened("refcoco", scenes / "refcoco"))
    tree = json.loads((scenes / "refcoco/refcoco/instances.json").read_text())
    areas = {str(row["id"]): row["area"] for row in tree["annotations"]}
    for record in records:
        mask = record.masks[0]
        assert sum(mask.counts[1::2]) == areas[record.provenance["ann_id"]]
    assert len(records) > 2 * COUNT


def test_sessions_of_scenes_are_chains(scenes: Path) -> None:
    whole, _ = split_up(opened("magicbrush", scenes / "magicbrush", turns="all"))
    each, _ = split_up(opened("magicbrush", scenes / "magicbrush"))
    for session, first, second in zip(whole, each[::2], each[1::2], strict=True):
        assert [image.role for image in session.images] == ["input", "target", "target"]
        assert session.images[1].data == first.images[1].data == second.images[0].data
        assert session.images[2].data == second.images[1].data
        assert session.provenance["masks"].count("mask") == 2


def test_coco_reader_and_vqa_reader_see_the_same_pictures(scenes: Path) -> None:
    coco = {record.images[0].data for record in split_up(opened("coco", scenes / "coco"))[0]}
    asked = {
        record.images[0].data
        for record in split_up(opened("vqav2", scenes / "vqav2", images=str(scenes / "coco/train2017")))[0]
    }
    assert coco == asked and len(coco) == COUNT
