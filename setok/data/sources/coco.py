"""COCO 2017 (Lin et al. 2014; panoptic: Kirillov et al. 2019), and generated scenes, which have its layout.

    ROOT/train2017/*.jpg
    ROOT/annotations/captions_train2017.json
    ROOT/annotations/panoptic_train2017.json      optional
    ROOT/annotations/panoptic_train2017/*.png     with the line above

A record is a picture; it may have no caption, no segments, or neither. ``images`` names the folder of the split's
pictures where that is another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from setok.config import SourceConfig
from setok.data import rle
from setok.data.concepts import concept_of_category, concepts_of_captions, merge_concepts
from setok.data.schema import EncodedImage, Record, Segment
from setok.data.sources.annotations import inside, one_line, read_json, text_of
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
        pictures = Requirement(path=f"{self.split}/", origin=f"{_IMAGES}/{self.split}.zip")
        needs = [
            *([pictures] if self.config.images is None else []),
            Requirement(
                path=f"annotations/captions_{self.split}.json",
                origin=f"{_ANNOTATIONS}/annotations_trainval2017.zip (generated scenes: python -m setok.data.scenes)",
            ),
        ]
        if self._annotation_path("panoptic").is_file():
            origin = f"{_ANNOTATIONS}/panoptic_annotations_trainval2017.zip, unpacked with the zip inside it"
            needs.append(Requirement(path=f"annotations/panoptic_{self.split}/", origin=origin))
        return needs

    @property
    def _folder(self) -> Path:
        return self._pictures(self.root / self.split)

    def _annotation_path(self, what: str) -> Path:
        return self.root / "annotations" / f"{what}_{self.split}.json"

    def _files(self) -> Iterable[Path]:
        captions, panoptic = self._annotation_path("captions"), self._annotation_path("panoptic")
        return [self._folder, captions, panoptic, panoptic.with_suffix("")]

    @cached_property
    def _captions(self) -> dict[str, Any]:
        return _read(self._annotation_path("captions"))

    @cached_property
    def _panoptic(self) -> dict[str, Any]:
        path = self._annotation_path("panoptic")
        return _read(path) if path.is_file() else {"images": [], "annotations": [], "categories": []}

    @cached_property
    def _names(self) -> list[str]:
        """File names, sorted: those in the folder, and those that only the annotations know."""
        folder = self._folder
        on_disk = {path.name for path in folder.iterdir() if is_image(path.name)} if folder.is_dir() else set()
        return sorted(on_disk.union(self._image_ids))

    @cached_property
    def _image_ids(self) -> dict[str, int]:
        ids = {}
        for what, tree in (("captions", self._captions), ("panoptic", self._panoptic)):
            for number, image in enumerate(tree["images"]):
                with _naming_row(self._annotation_path(what), "images", number):
                    ids[text_of(image, "file_name")] = int(image["id"])
        return ids

    @cached_property
    def _captions_by_image(self) -> dict[int, list[str]]:
        """Image id to its captions in the order of their ids."""
        rows = []
        for number, row in enumerate(self._captions.get("annotations", [])):
            with _naming_row(self._annotation_path("captions"), "annotations", number):
                rows.append((int(row["id"]), int(row["image_id"]), one_line(text_of(row, "caption"))))
        captions: dict[int, list[str]] = {}
        for _, image_id, caption in sorted(rows):
            if caption:
                captions.setdefault(image_id, []).append(caption)
        return captions

    @cached_property
    def _segments_by_image(self) -> dict[int, dict[str, Any]]:
        rows = {}
        for number, row in enumerate(self._panoptic["annotations"]):
            with _naming_row(self._annotation_path("panoptic"), "annotations", number):
                inside(text_of(row, "file_name"))
                _ = [(info["id"], info["category_id"]) for info in row["segments_info"]]
                rows[int(row["image_id"])] = row
        return rows

    @cached_property
    def _categories(self) -> dict[int, tuple[str, bool]]:
        """Category id to its name as it is stored, and whether it is a thing."""
        categories = {}
        for number, row in enumerate(self._panoptic["categories"]):
            with _naming_row(self._annotation_path("panoptic"), "categories", number):
                categories[int(row["id"])] = (text_of(row, "name"), bool(row["isthing"]))
        return categories

    def check(self) -> None:
        super().check()
        _ = self._captions_by_image, self._segments_by_image, self._categories  # a broken row is one error

    def _count(self) -> int:
        return len(self._names)

    def _record(self, index: int) -> Record | BadRecord:
        name = self._names[index]
        record_id = f"coco/{self.split}/{Path(name).stem}"
        image_id = self._image_ids.get(name, -1)
        captions = self._captions_by_image.get(image_id, [])
        try:
            data = read_image(self._folder / inside(name))
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


def _read(path: Path) -> dict[str, Any]:
    tree = read_json(path)
    if not isinstance(tree, dict) or not isinstance(tree.get("images"), list):
        raise DataError(f"{path} has no list 'images'", "get the official file: " + _ANNOTATIONS)
    return tree


@contextmanager
def _naming_row(path: Path, table: str, number: int) -> Iterator[None]:
    """What a broken row makes of the code inside: an error that says where it stands."""
    try:
        yield
    except DataError as error:
        raise DataError(
            f"{path}: {table}[{number}]: {error.problem}", "get the official file: " + _ANNOTATIONS
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: {table}[{number}]: {error!r}", "get the official file: " + _ANNOTATIONS) from error
