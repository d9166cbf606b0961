"""One scene on its way into the layouts: names of the splits, the categories, and what several layouts share.

Ids are functions of the scene's index, so that nothing has to be counted across processes: image = index + 1,
annotation = image × 10 + object + 1, question = image × 100 + number, sentence = annotation × 10 + number.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from setok.data.scenes.generate import BACKGROUNDS, COLOURS, Scene
from setok.data.scenes.language import Edit, Question, edit_pair, object_concepts, questions, vocabulary
from setok.data.scenes.outlines import polygons

Row = Any
"""What json can write: a dictionary, or a pair of key and value."""
_FIRST_BACKGROUND_ID = 301
THING_IDS = {name: number for number, name in enumerate(vocabulary("hard")[: -len(BACKGROUNDS)], start=1)}
STUFF_IDS = {name: number for number, name in enumerate(BACKGROUNDS, start=_FIRST_BACKGROUND_ID)}


@dataclass(frozen=True, kw_only=True)
class SplitNames:
    """What a split is called in the layouts, and the index of its first scene: splits share no scene."""

    name: str
    first_index: int
    coco: str
    vqav2: str
    refcoco: str
    folder: str


SPLITS = {
    "train": SplitNames(
        name="train", first_index=0, coco="train2017", vqav2="train2014", refcoco="train", folder="train"
    ),
    "val": SplitNames(name="val", first_index=3_000_000, coco="val2017", vqav2="val2014", refcoco="val", folder="dev"),
    "test": SplitNames(
        name="test", first_index=6_000_000, coco="test2017", vqav2="test2015", refcoco="testA", folder="test"
    ),
}
SPLIT_ROOM = 3_000_000


def category_rows(family: str) -> list[Row]:
    """The categories of a family for COCO panoptic: things (*red circle*), then stuff (*gray background*)."""
    rows = []
    for name in vocabulary(family)[: -len(BACKGROUNDS)]:
        *_, colour, shape = name.split()
        rows.append(
            {
                "supercategory": shape,
                "color": [*COLOURS[colour]],
                "isthing": 1,
                "id": THING_IDS[name],
                "name": name,
            }
        )
    for name, category_id in STUFF_IDS.items():
        rows.append(
            {
                "supercategory": "background",
                "color": [*BACKGROUNDS[name]],
                "isthing": 0,
                "id": category_id,
                "name": f"{name} background",
            }
        )
    return rows


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A scene on its way to disk; what several layouts need is made once."""

    scene: Scene
    split: SplitNames

    @property
    def image_id(self) -> int:
        """Id of the picture in every layout."""
        return self.scene.index + 1

    @cached_property
    def jpeg(self) -> bytes:
        """The picture as JPEG."""
        return encode_jpeg(self.scene.image)

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """Its questions; several layouts ask them."""
        return questions(self.scene)

    @cached_property
    def edit(self) -> Edit:
        """Its first edit."""
        return edit_pair(self.scene)

    @cached_property
    def instances(self) -> list[Row]:
        """Its objects as COCO instances."""
        rows = []
        for number, thing in enumerate(self.scene.objects, start=1):
            rows.append(
                {
                    "segmentation": polygons(self.scene.mask == number),
                    "area": float(thing.area),
                    "iscrowd": 0,
                    "image_id": self.image_id,
                    "bbox": [float(value) for value in thing.bbox],
                    "category_id": THING_IDS[object_concepts(thing)[0]],
                    "id": self.annotation_id(number - 1),
                }
            )
        return rows

    def annotation_id(self, index: int) -> int:
        """Id of object ``index`` in the instance files."""
        return self.image_id * 10 + index + 1

    def image_row(self, file_name: str, folder: str) -> Row:
        """The picture as COCO lists it."""
        return {
            "license": 1,
            "file_name": file_name,
            "coco_url": f"generated://{folder}/{file_name}",
            "height": self.scene.image_size,
            "width": self.scene.image_size,
            "date_captured": "2024-01-01 00:00:00",
            "flickr_url": "",
            "id": self.image_id,
        }


def encode_jpeg(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """JPEG of quality 95 with full colour resolution, so that the file does not limit what can be learned."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()
