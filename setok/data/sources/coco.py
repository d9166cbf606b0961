"""COCO 2017 (Lin et al. 2014; panoptic: Kirillov et al. 2019), and generated scenes, which have its layout.

    ROOT/train2017/*.jpg
    ROOT/annotations/captions_train2017.json
    ROOT/annotations/panoptic_train2017.json      optional
    ROOT/annotations/panoptic_train2017/*.png     with the line above

A record is a picture; it may have no caption, no segments, or neither.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from setok.config import SourceConfig
from setok.data import rle
from setok.data.concepts import concept_of_category, concepts_of_captions, merge_concepts
from setok.data.schema import EncodedImage, Record, Segment
from setok.data.sources.base import BadRecord, Requirement, Source, is_image, read_image
from setok.errors import ConfigError, DataError, did_you_mean

SPLITS = {"train": "train2017", "val": "val2017", "test": "test2017"}
_IMAGES = "http://images.cocodataset.org/zips"
_ANNOTATIONS = "http://images.cocodataset.org/annotations"


class CocoSource(Source):
    """Pictures with captions, concepts and panoptic segments."""

    name: ClassVar[str] = "coco"

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        if config.split not in {*SPLITS, *SPLITS.values()}:
            raise ConfigError(f"coco has no split {config.split!r}", did_you_mean(config.split, SPLITS))
        self.split = SPLITS.get(config.split, config.split)

    @property
    def requirements(self) -> list[Requirement]:
        needs = [
            Requirement(path=f"{self.split}/", origin=f"{_IMAGES}/{self.split}.zip"),
            Requirement(
                path=f"annotations/captions_{self.split}.json",
                origin=f"{_ANNOTATIONS}/annotations_trainval2017.zip (generated scenes: python -m setok.data.scenes)",
            ),
        ]
        if self._annotation_path("panoptic").is_file():
            origin = f"{_ANNOTATIONS}/panoptic_annotations_trainval2017.zip, unpacked with the zip inside it"
            needs.append(Requirement(path=f"annotations/panoptic_{self.split}/", origin=origin))
        return needs

    def _annotation_path(self, what: str) -> Path:
        return self.root / "annotations" / f"{what}_{self.split}.json"

    def _files(self) -> Iterable[Path]:
        captions, panoptic = self._annotation_path("captions"), self._annotation_path("panoptic")
        return [self.root / self.split, captions, panoptic, panoptic.with_suffix("")]

    @cached_property
    def _captions(self) -> dict[str, Any]:
        return _read_json(self._annotation_path("captions"))

    @cached_property
    def _panoptic(self) -> dict[str, Any]:
        path = self._annotation_path("panoptic")
        return _read_json(path) if path.is_file() else {"images": [], "annotations": [], "categories": []}

    @cached_property
    def _names(self) -> list[str]:
        """File names, sorted: those in the folder, and those that only the annotations know."""
        folder = self.root / self.split
        on_disk = {path.name for path in folder.iterdir() if is_image(path.name)} if folder.is_dir() else set()
        listed = (image["file_name"] for part in (self._captions, self._panoptic) for image in part["images"])
        return sorted(on_disk.union(listed))

    @cached_property
    def _image_ids(self) -> dict[str, int]:
        images = [image for part in (self._captions, self._panoptic) for image in part["images"]]
        return {image["file_name"]: image["id"] for image in images}

    @cached_property
    def _captions_by_image(self) -> dict[int, list[str]]:
        captions: dict[int, list[str]] = {}
        for row in sorted(self._captions.get("annotations", []), key=lambda row: row["id"]):
            captions.setdefault(row["image_id"], []).append(" ".join(row["caption"].split()))
        return captions

    @cached_property
    def _segments_by_image(self) -> dict[int, dict[str, Any]]:
        return {row["image_id"]: row for row in self._panoptic["annotations"]}

    @cached_property
    def _categories(self) -> dict[int, tuple[str, bool]]:
        """Category id to its name as it is stored, and whether it is a thing."""
        return {row["id"]: (row["name"], bool(row["isthing"])) for row in self._panoptic["categories"]}

    def _count(self) -> int:
        return len(self._names)

    def _record(self, index: int) -> Record | BadRecord:
        name = self._names[index]
        record_id = f"coco/{self.split}/{Path(name).stem}"
        image_id = self._image_ids.get(name, -1)
        captions = self._captions_by_image.get(image_id, [])
        try:
            data = read_image(self.root / self.split / name)
            segments = self._segments(image_id)
        except DataError as error:
            return BadRecord(id=record_id, reason=error.problem)
        categories = [concept_of_category(segment.category) for segment in segments]
        return Record(
            id=record_id,
            source=self.name,
            task="caption" if captions else "image",
            images=[EncodedImage(data=data)],
            caption=captions[0] if captions else "",
            concepts=merge_concepts(concepts_of_captions(captions), categories),
            segments=segments,
            answers=captions,
            provenance={"file": f"{self.split}/{name}", "image_id": str(image_id)},
        )

    def _segments(self, image_id: int) -> list[Segment]:
        """Panoptic segments; the pixel's colour R + 256·G + 65536·B is the segment's id."""
        row = self._segments_by_image.get(image_id)
        if row is None:
            return []
        path = self._annotation_path("panoptic").with_suffix("") / row["file_name"]
        try:
            with Image.open(path) as image:
                colours = np.asarray(image.convert("RGB")).astype(np.int64)
        except FileNotFoundError as error:
            raise DataError(f"panoptic map missing: {path.name}", "unpack the panoptic PNGs again") from error
        except (OSError, SyntaxError, UnidentifiedImageError) as error:
            raise DataError(f"panoptic map damaged: {path.name}", "unpack the panoptic PNGs again") from error
        labels = colours @ np.array([1, 256, 65536])
        infos = row["segments_info"]
        unknown = sorted({info["category_id"] for info in infos} - self._categories.keys())
        if unknown:
            raise DataError(f"panoptic category unknown: {unknown[0]} in {path.name}", "get the annotations again")
        height, width = labels.shape
        return [
            Segment(
                counts=counts,
                height=height,
                width=width,
                category=self._categories[info["category_id"]][0],
                is_thing=self._categories[info["category_id"]][1],
            )
            for counts, info in zip(rle.encode_map(labels, [info["id"] for info in infos]), infos, strict=True)
        ]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing", "run the source's check first") from error
    except ValueError as error:
        raise DataError(
            f"{path} is no valid JSON: {error}", "get the file again; the download may be cut off"
        ) from error
    if not isinstance(tree, dict) or "images" not in tree:
        raise DataError(f"{path} has no list 'images'", "get the official file: " + _ANNOTATIONS)
    return tree
