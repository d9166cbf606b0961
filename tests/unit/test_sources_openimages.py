"""OpenImages on a tiny set in its official layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from setok.config import SourceConfig
from setok.data.schema import Record
from setok.data.sources import open_source
from setok.errors import ConfigError, DataError
from tests.source_files import good, jpeg, read, reasons

HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
BOXES = [
    "00b,xclick,/m/cat,1,0.1,0.5,0.2,0.6,0,0,0,0,0",
    "not_here,xclick,/m/cat,1,0.1,0.5,0.2,0.6,0,0,0,0,0",
    "00a,xclick,/m/sea,1,0,1,0,0.5,0,0,1,0,0",
    "00b,xclick,/m/sea,1,0.25,1,0,1,0,0,-1,0,0",
    "00b,xclick,/m/unnamed,1,0.25,1,0,1,0,0,0,0,0",
]
LABELS = ["00c,verification,/m/dog,1", "00c,verification,/m/cat,0", "00b,verification,/m/cat,1", "00b,crowd,/m/dog,1"]


def make(root: Path, *, split: str = "train", in_names: str = "oidv6-train", boxes: list[str] = BOXES) -> None:
    (root / split).mkdir(parents=True)
    for name in ("00a", "00b", "00c", "00d"):
        (root / split / f"{name}.jpg").write_bytes(jpeg())
    (root / "class-descriptions-boxable.csv").write_text("/m/cat,Cat\n/m/sea,Sea turtle\n")
    (root / "oidv7-class-descriptions.csv").write_text('LabelName,DisplayName\n/m/dog,"Dog, tame"\n/m/cat,Cat\n')
    (root / f"{in_names}-annotations-bbox.csv").write_text("\n".join([HEADER, *boxes]) + "\n")
    labels = root / f"{in_names}-annotations-human-imagelabels.csv"
    labels.write_text("\n".join(["ImageID,Source,LabelName,Confidence", *LABELS]) + "\n")


@pytest.mark.parametrize(
    ("split", "folder", "in_names"),
    [
        ("train", "train", "oidv6-train"),
        ("train", "train", "train"),
        ("validation", "validation", "validation"),
        ("val", "validation", "oidv7-val"),
        ("test", "test", "test"),
    ],
)
def test_boxes_labels_and_concepts(
    split: str, folder: str, in_names: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, split=folder, in_names=in_names)
    a, b, c, d = good(read("openimages", tmp_path, split=split))
    assert [(box.label, box.is_group) for box in a.boxes] == [("Sea turtle", True)]
    assert [(box.label, box.is_group) for box in b.boxes] == [("Cat", False), ("Sea turtle", False)]
    box = b.boxes[0]
    assert (box.x0, box.x1, box.y0, box.y1) == pytest.approx((0.1, 0.5, 0.2, 0.6))
    assert [record.concepts for record in (a, b, c, d)] == [
        ["sea turtle"],
        ["cat", "sea turtle", "dog, tame"],
        ["dog, tame"],
        [],
    ]
    assert b.id == f"openimages/{folder}/00b"
    assert "1 labels in" in caplog.text


def test_parts_that_are_enough(tmp_path: Path) -> None:
    make(tmp_path)
    whole = good(read("openimages", tmp_path))
    moved = (tmp_path / "train").rename(tmp_path / "pictures")
    assert good(read("openimages", tmp_path, images=str(moved))) == whole
    (tmp_path / "oidv6-train-annotations-bbox.csv").unlink()
    labelled = good(read("openimages", tmp_path, images=str(moved)))
    assert [record.concepts for record in labelled] == [[], ["cat", "dog, tame"], ["dog, tame"], []]


@pytest.mark.parametrize(
    "corners", ["0.5,0.1,0.2,0.6", "0.1,1.5,0.2,0.6", "-0.1,0.5,0.2,0.6", "nan,0.5,0.2,0.6", ",0.5,0.2,0.6"]
)
def test_broken_boxes(corners: str, tmp_path: Path) -> None:
    make(tmp_path, boxes=[*BOXES, f"00c,xclick,/m/cat,1,{corners},0,0,0,0,0"])
    assert reasons(read("openimages", tmp_path)) == ["", "", "broken box", ""]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("oidv6-train-annotations-bbox.csv", "ImageID,LabelName\n00a,/m/cat\n", "bbox.csv is no table of OpenImages"),
        ("oidv6-train-annotations-bbox.csv", HEADER + "\n00a,xclick\n", "bbox.csv is no table of OpenImages"),
        ("oidv6-train-annotations-bbox.csv", f"{HEADER}\n00a,x,/m/cat,1,far,1,0,1,0,0,0,0,0\n", "is no table.*far"),
        ("class-descriptions-boxable.csv", "/m/cat,Cat,tame\n", "boxable.csv is no list of label,name"),
        ("class-descriptions-boxable.csv", "", "boxable.csv is no list of label,name"),
    ],
)
def test_damaged_files_are_named(name: str, content: str, problem: str, tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=problem):
        read("openimages", tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=r"test is missing\n.*openimages"):
        read("openimages", tmp_path, split="test")
    for path in tmp_path.glob("*annotations*"):
        path.unlink()
    with pytest.raises(DataError, match=r"\*train-annotations-\*.csv is missing\n.*download_v7.html"):
        read("openimages", tmp_path)
    with pytest.raises(ConfigError, match=r"no split 'trian'\n.*'train'"):
        open_source(SourceConfig(kind="openimages", path=str(tmp_path), split="trian"))


def test_only_pictures_on_disk_count(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "train" / "00b.jpg").unlink()
    records = good(read("openimages", tmp_path, limit=2))
    assert [record.id for record in records] == ["openimages/train/00a", "openimages/train/00c"]
    assert isinstance(records[1], Record)
    assert records[1].concepts == ["dog, tame"]
