"""Folders and annotation files of the layouts; runs once per split, in one process."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from setok.data import plain_pickle
from setok.data.scenes.rows import REFCOCO_IMAGES, Rows
from setok.data.scenes.samples import SPLIT_ROOM, SplitNames, category_rows

_INFO = {
    "description": "Generated scenes",
    "url": "",
    "version": "1.0",
    "year": 2024,
    "contributor": "setok.data.scenes",
    "date_created": "2024/01/01",
}
_LICENSE = {"url": "https://creativecommons.org/publicdomain/zero/1.0/", "id": 1, "name": "CC0 1.0"}


def write_json(path: Path, content: Any) -> None:
    """Write a file that is either the old one or the whole new one."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)


def prepare_folders(root: Path, layout: str, split: SplitNames) -> None:
    """Make the folders of a split, without what an earlier run left in them; other splits keep theirs."""
    own, shared = _folders(layout, split)
    for folder in own:
        if (root / folder).is_dir():
            shutil.rmtree(root / folder)
    for folder in shared:
        for path in (root / folder).glob("*.jpg"):
            image_id = int(path.stem.rsplit("_", 1)[-1])
            if split.first_index < image_id <= split.first_index + SPLIT_ROOM:
                path.unlink()
    for folder in own + shared:
        (root / folder).mkdir(parents=True, exist_ok=True)


def _folders(layout: str, split: SplitNames) -> tuple[list[str], list[str]]:
    """Folders that belong to the split alone, and those that it shares with the other splits."""
    return {
        "coco": ([split.coco, f"annotations/panoptic_{split.coco}"], []),
        "vqav2": ([], []),
        "gqa": ([], ["images"]),
        "refcoco": ([], ["refcoco", REFCOCO_IMAGES]),
        "instructpix2pix": ([split.folder], []),
        "magicbrush": ([split.folder, f"{split.folder}/images"], []),
        "imagenet": ([split.folder, f"{split.folder}/images"], []),
    }[layout]


def _coco(root: Path, split: SplitNames, family: str, rows: Rows) -> None:
    categories = category_rows(family)
    things = [{key: row[key] for key in ("supercategory", "id", "name")} for row in categories if row["isthing"]]
    head = {"info": _INFO, "licenses": [_LICENSE], "images": rows["images"]}
    for what, more in (
        ("captions", {"annotations": rows["captions"]}),
        ("instances", {"annotations": rows["instances"], "categories": things}),
        ("panoptic", {"annotations": rows["panoptic"], "categories": categories}),
    ):
        write_json(root / "annotations" / f"{what}_{split.coco}.json", head | more)


def _vqav2(root: Path, split: SplitNames, family: str, rows: Rows) -> None:
    head = {
        "info": _INFO,
        "data_type": "mscoco",
        "license": {key: _LICENSE[key] for key in ("url", "name")},
        "data_subtype": split.vqav2,
    }
    questions = head | {"task_type": "Open-Ended", "questions": rows["questions"]}
    write_json(root / f"v2_OpenEnded_mscoco_{split.vqav2}_questions.json", questions)
    annotations = head | {"annotations": rows["annotations"]}
    write_json(root / f"v2_mscoco_{split.vqav2}_annotations.json", annotations)


def _gqa(root: Path, split: SplitNames, family: str, rows: Rows) -> None:
    write_json(root / f"{split.name}_balanced_questions.json", dict(rows["questions"]))


def _refcoco(root: Path, split: SplitNames, family: str, rows: Rows) -> None:
    """All splits share these files: the rows of the other splits are taken over."""
    refs_path, instances_path = root / "refcoco" / "refs(unc).p", root / "refcoco" / "instances.json"
    refs, images, annotations = rows["refs"], rows["images"], rows["annotations"]
    if refs_path.is_file() and instances_path.is_file():
        first, last = split.first_index + 1, split.first_index + SPLIT_ROOM
        old = json.loads(instances_path.read_text())
        refs = [ref for ref in _read_refs(refs_path) if not first <= ref["image_id"] <= last] + refs
        images = [image for image in old["images"] if not first <= image["id"] <= last] + images
        annotations = [row for row in old["annotations"] if not first <= row["image_id"] <= last] + annotations
    categories = {
        row["id"]: {key: row[key] for key in ("supercategory", "id", "name")}
        for row in category_rows("hard")
        if row["isthing"]
    }
    used = sorted({row["category_id"] for row in annotations} | {row["id"] for row in category_rows(family)})
    instances = {
        "info": _INFO,
        "licenses": [_LICENSE],
        "images": images,
        "annotations": annotations,
        "categories": [categories[number] for number in used if number in categories],
    }
    write_json(instances_path, instances)
    temporary = refs_path.with_name(".refs")
    temporary.write_bytes(pickle.dumps(refs, protocol=0))
    temporary.replace(refs_path)


def _read_refs(path: Path) -> list[dict[str, Any]]:
    """The refs of earlier splits."""
    return plain_pickle.load(path)


def _instructpix2pix(root: Path, split: SplitNames, family: str, rows: Rows) -> None:
    write_json(root / split.folder / "seeds.json", rows["seeds"])


def _magicbrush(root: Path, split: SplitNames, family: str, rows: Rows) -> None:
    write_json(root / split.folder / "edit_sessions.json", dict(rows["sessions"]))
    turns = [turn for _, session in rows["sessions"] for turn in session]
    write_json(root / split.folder / "edit_turns.json", turns)


def _imagenet(root: Path, split: SplitNames, family: str, rows: Rows) -> None:
    write_json(root / split.folder / "data.json", rows["data"])


WRITE_FILES: dict[str, Callable[[Path, SplitNames, str, Rows], None]] = {
    "coco": _coco,
    "vqav2": _vqav2,
    "gqa": _gqa,
    "refcoco": _refcoco,
    "instructpix2pix": _instructpix2pix,
    "magicbrush": _magicbrush,
    "imagenet": _imagenet,
}
"""Layout to the function that writes a split's files: root of the layout, split, family, all rows."""
