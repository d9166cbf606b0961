"""Every layout of real rows gives the counts that the README beside them names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest

from setok.data import rle
from setok.data.images import decode_image
from setok.data.schema import ARROW_SCHEMA, Record
from setok.data.sources import BadRecord
from tests.source_files import good, read


@dataclass(frozen=True, kw_only=True)
class Case:
    kind: str
    path: str
    split: str = "train"
    images: str | None = None
    records: int
    pictures: int
    bad: int = 0
    tasks: dict[str, int] = field(default_factory=dict)


CASES = [
    Case(kind="imagenet", path="imagenet", records=15, pictures=15, tasks={"classify": 15}),
    Case(kind="folder", path="imagenet", records=15, pictures=15, tasks={"image": 15}),
    Case(kind="coco", path="coco", records=20, pictures=20, tasks={"caption": 16, "image": 4}),
    Case(kind="coco", path="coco", split="val", records=29, pictures=29, tasks={"caption": 29}),
    Case(kind="openimages", path="openimages", records=11, pictures=11, tasks={"image": 11}),
    Case(kind="openimages", path="openimages", split="validation", records=11, pictures=11, tasks={"image": 11}),
    Case(kind="cc3m", path="cc3m", records=4, pictures=4, tasks={"caption": 4}),
    Case(kind="img2dataset", path="cc3m", records=4, pictures=4, tasks={"caption": 4}),
    Case(kind="folder", path="cc3m/images", records=4, pictures=4, tasks={"caption": 4}),
    Case(
        kind="llava_instruct",
        path="llava_instruct/llava_instruct_150k_layout.json",
        images="coco",
        records=10,
        pictures=10,
        tasks={"dialogue": 10},
    ),
    Case(
        kind="llava_instruct",
        path="llava_instruct/llava_instruct_real_text_noimage.json",
        images="coco",
        records=90,
        pictures=0,
        bad=90,
    ),
    Case(
        kind="sharegpt4v",
        path="sharegpt4v/sharegpt4v_instruct_layout.json",
        images=".",
        records=10,
        pictures=10,
        tasks={"caption": 10},
    ),
    Case(kind="allava", path="allava", records=4, pictures=4, tasks={"caption": 2, "dialogue": 2}),
    Case(kind="allava", path="allava", split="caption_laion", records=2, pictures=2, tasks={"caption": 2}),
    Case(kind="allava", path="allava", split="instruct_laion", records=2, pictures=2, tasks={"dialogue": 2}),
    Case(kind="allava", path="allava/allava_readme_samples.json", records=3, pictures=0, bad=3),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{Path(case.path).name}-{case.split}")
def test_counts(case: Case, realdata: Path) -> None:
    images = None if case.images is None else str(realdata / case.images)
    items = read(case.kind, realdata / case.path, split=case.split, images=images)
    records = [item for item in items if isinstance(item, Record)]
    bad = [item for item in items if isinstance(item, BadRecord)]
    assert (len(items), len(bad)) == (case.records, case.bad)
    assert sum(len(record.images) for record in records) == case.pictures
    assert {task: sum(record.task == task for record in records) for task in case.tasks} == case.tasks
    assert all(item.reason.startswith("image file missing: ") for item in bad)
    assert all(min(decode_image(image.data).shape[:2]) > 50 for record in records for image in record.images)
    stored = pa.Table.from_pylist([record.to_row() for record in records], schema=ARROW_SCHEMA).to_pylist()
    assert [Record.from_row(row).id for row in stored] == [record.id for record in records]
    for record in records:
        assert record.source == case.kind
        assert (record.task == "caption") == bool(record.caption)
        assert record.concepts or record.task in ("image", "dialogue"), record.id


def test_coco_totals(realdata: Path) -> None:
    records = [record for split in ("train", "val") for record in good(read("coco", realdata / "coco", split=split))]
    assert sum(len(record.answers) for record in records) == 225
    assert sum(bool(record.answers) for record in records) == 45
    assert sum(len(record.segments) for record in records) == 297
    assert sum(bool(record.segments) for record in records) == 26


def test_coco_with_official_panoptic_maps(realdata: Path, tmp_path: Path) -> None:
    sample = realdata / "coco" / "panoptic_official_sample"
    (tmp_path / "annotations").mkdir()
    for name, official in (
        ("val2017", "input_images"),
        ("annotations/captions_val2017.json", "captions_examples.json"),
        ("annotations/panoptic_val2017.json", "panoptic_examples.json"),
        ("annotations/panoptic_val2017", "panoptic_examples"),
    ):
        (tmp_path / name).symlink_to(sample / official)
    records = good(read("coco", tmp_path, split="val"))
    assert [record.provenance["image_id"] for record in records] == ["142238", "439180"]
    assert sum(len(record.answers) for record in records) == 10
    for record in records:
        masks = [rle.decode(part.counts, part.height, part.width) for part in record.segments]
        assert len(masks) > 3
        assert sum(mask.astype(int) for mask in masks).max() == 1, "two segments share a pixel"  # type: ignore[attr-defined]
        assert masks[0].shape == decode_image(record.images[0].data).shape[:2]


@pytest.mark.parametrize(("split", "boxes"), [("train", 75), ("validation", 115)])
def test_openimages_boxes(split: str, boxes: int, realdata: Path) -> None:
    records = good(read("openimages", realdata / "openimages", split=split))
    table = next((realdata / "openimages").glob(f"*{split}-annotations-bbox.csv")).read_text().splitlines()[1:]
    classes = dict(
        line.split(",", 1) for line in (realdata / "openimages/class-descriptions-boxable.csv").read_text().splitlines()
    )
    assert sum(len(record.boxes) for record in records) == boxes == len(table)
    for record in records:
        rows = [row.split(",") for row in table if row.startswith(Path(record.provenance["file"]).stem)]
        found = [(box.label, box.x0, box.x1, box.y0, box.y1, box.is_group) for box in record.boxes]
        wanted = [
            (classes[row[2]], *(pytest.approx(float(x), abs=1e-6) for x in row[4:8]), row[10] == "1") for row in rows
        ]
        assert found == wanted
        assert set(record.concepts) == {classes[row[2]].lower() for row in rows}


def test_llava_slots_and_turns(realdata: Path) -> None:
    path = realdata / "llava_instruct" / "llava_instruct_150k_layout.json"
    first, second = good(read("llava_instruct", path, images=str(realdata / "coco")))[:2]
    assert [turn.role for turn in first.conversation] == ["user", "assistant", "user", "assistant"]
    assert first.conversation[0].text == "<image>\nWhat is in the photo?"
    assert second.conversation[0].text == "What is in the photo?\n<image>"
    assert first.provenance["id"] == "000000010008"
