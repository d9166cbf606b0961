"""RefCOCO, RefCOCO+ (Yu et al. 2016) and RefCOCOg (Mao et al. 2016; Nagaraja et al. 2016): phrases for objects of COCO
pictures, with the objects' masks and boxes. The layout is the ``data`` folder of the REFER toolkit.

    ROOT/refcoco/refs(unc).p           refcoco+/refs(unc).p, refcocog/refs(umd).p
    ROOT/refcoco/instances.json
    ROOT/images/mscoco/images/train2014/COCO_train2014_%012d.jpg     or any folder and name of COCO's pictures in ``images``

With ``turns: each`` a record is one phrase, with ``all`` one picture:

    each    the phrase is the ``caption``, put in words at training; provenance: ref_id, ann_id, sent_id, category, phrase
    all     <image>\\nSegment P1 → <mask>, Segment P2 → <mask>, …     provenance: ``phrases``, the same of each, as JSON

Masks and boxes stand in the order of the phrases, and a box has its phrase as label. Splits: train, val, testA and testB; of
RefCOCOg train, val and test.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from setok.config import SourceConfig
from setok.data import plain_pickle
from setok.data.polygons import annotation_counts
from setok.data.schema import IMAGE_SLOT, MASK_SLOT, Box, EncodedImage, Mask, Record, Turn
from setok.data.sources.annotations import read_json
from setok.data.sources.base import BadRecord, Requirement, Source
from setok.data.sources.pictures import (
    COCO_ORIGIN,
    PictureFolders,
    check_geometry,
    check_pictures,
    coco_key,
    coco_pictures,
)
from setok.data.sources.rows import ROW_ERRORS, known_split, problem_of, words
from setok.errors import DataError

_ORIGIN = "https://github.com/lichengunc/refer (section Download)"
_PICTURES = "images/mscoco/images/train2014"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Phrase:
    """One expression; what is wrong with it where it cannot be used."""

    text: str = ""
    image: str = ""
    facts: dict[str, str]
    problem: str = ""


class RefcocoSource(Source):
    """Phrases, each with the region it means."""

    name: ClassVar[str] = "refcoco"
    partition: ClassVar[str] = "unc"
    splits: ClassVar[tuple[str, ...]] = ("train", "val", "testA", "testB")

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        known_split(self.name, config.split, self.splits)

    @property
    def requirements(self) -> list[Requirement]:
        names = (self._refs_file, self._instances_file)
        needs = [Requirement(path=path.relative_to(self.root).as_posix(), origin=_ORIGIN) for path in names]
        if self.config.images is None:
            needs.append(Requirement(path=f"{_PICTURES}/", origin=COCO_ORIGIN))
        return needs

    @property
    def _refs_file(self) -> Path:
        return self.root / self.name / f"refs({self.partition}).p"

    @property
    def _instances_file(self) -> Path:
        return self.root / self.name / "instances.json"

    @cached_property
    def picture_files(self) -> PictureFolders:
        if self.config.images is None:
            return PictureFolders([self.root / _PICTURES], coco_key)
        return coco_pictures(self.config)

    def check(self) -> None:
        super().check()
        check_pictures(self.name, self.config, self.picture_files, COCO_ORIGIN)

    def _files(self) -> Iterable[Path]:
        return [self._refs_file, self._instances_file, *self.picture_files.folders]

    @cached_property
    def _instances(self) -> dict[str, dict[str, Any]]:
        """Annotations by id, pictures by id, and names of categories by id."""
        tree = read_json(self._instances_file)
        try:
            return {
                "annotations": {str(row["id"]): row for row in tree["annotations"]},
                "images": {str(row["id"]): row for row in tree["images"]},
                "categories": {str(row["id"]): row["name"] for row in tree["categories"]},
            }
        except (KeyError, TypeError) as error:
            raise DataError(f"{self._instances_file} is damaged: {error!r}", f"get it from {_ORIGIN}") from error

    @cached_property
    def _entries(self) -> list[tuple[_Phrase, ...]]:
        """The phrases of every record; those of one picture stand next to each other."""
        refs = plain_pickle.load(self._refs_file)
        if not isinstance(refs, list):
            raise DataError(f"{self._refs_file} is no list of references", f"get it from {_ORIGIN}")
        splits = sorted({str(ref["split"]) for ref in refs if isinstance(ref, dict) and "split" in ref})
        if splits and self.config.split not in splits:
            raise DataError(
                f"{self._refs_file} has no references of split {self.config.split!r}", f"it has {', '.join(splits)}"
            )
        pictures: dict[str, list[_Phrase]] = {}
        for number, ref in enumerate(refs):
            for phrase in self._phrases(ref, number):
                pictures.setdefault(phrase.image, []).append(phrase)
        entries: list[tuple[_Phrase, ...]] = []
        for phrases in pictures.values():
            good = tuple(phrase for phrase in phrases if not phrase.problem)
            entries += [good] if self.config.turns == "all" and good else [(phrase,) for phrase in good]
            entries += [(phrase,) for phrase in phrases if phrase.problem]
        return entries

    def _phrases(self, ref: Any, number: int) -> Iterable[_Phrase]:
        """The phrases of one reference, if it is of this split."""
        try:
            if ref["split"] != self.config.split:
                return []
            common = {"ref_id": str(ref["ref_id"]), "ann_id": str(ref["ann_id"])}
            common["category"] = self._instances["categories"][str(ref["category_id"])]
            phrases = [self._phrase(ref, sentence, common) for sentence in ref["sentences"]]
        except ROW_ERRORS as error:
            known = ref.get("ref_id", f"row-{number}") if isinstance(ref, dict) else f"row-{number}"
            return [_Phrase(facts={"sent_id": f"ref-{known}"}, problem=problem_of(error))]
        if not phrases:
            nothing = {**common, "sent_id": f"ref-{common['ref_id']}"}
            return [_Phrase(facts=nothing, problem="no phrase: the list of sentences is empty")]
        return phrases

    @staticmethod
    def _phrase(ref: dict[str, Any], sentence: dict[str, Any], common: dict[str, str]) -> _Phrase:
        facts = {**common, "sent_id": str(sentence["sent_id"])}
        try:
            text = words(sentence, "sent")
        except DataError as error:
            return _Phrase(image=str(ref["image_id"]), facts=facts, problem=error.problem)
        return _Phrase(text=text, image=str(ref["image_id"]), facts=facts | {"phrase": text})

    def _count(self) -> int:
        return len(self._entries)

    def _record(self, index: int) -> Record | BadRecord:
        phrases = self._entries[index]
        first = phrases[0]
        joined = self.config.turns == "all" and not first.problem
        name = f"image/{first.image}" if joined else first.facts["sent_id"]
        record_id = f"{self.name}/{self.config.split}/{name}"
        if first.problem:
            return BadRecord(id=record_id, reason=first.problem)
        try:
            data = self.picture_files.read(first.image)
            picture = self._instances["images"][first.image]
            check_geometry(data, picture["height"], picture["width"])
            regions = [self._region(phrase, picture["height"], picture["width"]) for phrase in phrases]
        except ROW_ERRORS as error:
            return BadRecord(id=record_id, reason=problem_of(error))
        conversation = []
        if joined:
            facts = {"phrases": json.dumps([phrase.facts for phrase in phrases], ensure_ascii=False)}
            for number, phrase in enumerate(phrases):
                slot = "" if number else f"{IMAGE_SLOT}\n"
                conversation.append(Turn(role="user", text=f"{slot}Segment {phrase.text}"))
                conversation.append(Turn(role="assistant", text=MASK_SLOT))
        else:
            facts = first.facts
        return Record(
            id=record_id,
            source=self.name,
            task="segment",
            images=[EncodedImage(data=data)],
            conversation=conversation,
            caption="" if joined else first.text,
            masks=[mask for mask, _ in regions],
            boxes=[box for _, box in regions],
            provenance={"image_id": first.image} | facts,
        )

    def _region(self, phrase: _Phrase, height: int, width: int) -> tuple[Mask, Box]:
        """What a phrase means.

        Raises:
            DataError: there is no such annotation, or its mask or box is damaged or outside the picture.
        """
        number = phrase.facts["ann_id"]
        if number not in self._instances["annotations"]:
            raise DataError(f"no mask: instances.json does not have annotation {number}", f"get it from {_ORIGIN}")
        row = self._instances["annotations"][number]
        counts = annotation_counts(row["segmentation"], height, width)
        x, y, box_width, box_height = (float(value) for value in row["bbox"])
        corners = [max(0.0, x), max(0.0, y), min(x + box_width, width), min(y + box_height, height)]
        if not (corners[0] < corners[2] and corners[1] < corners[3]):
            raise DataError(
                f"box outside the picture: {row['bbox']} of {width} × {height} pixels", "leave the record out"
            )
        box = Box(
            label=phrase.text,
            x0=corners[0] / width,
            y0=corners[1] / height,
            x1=corners[2] / width,
            y1=corners[3] / height,
            is_group=bool(row.get("iscrowd")),
        )
        return Mask(counts=counts, height=height, width=width), box


class RefcocoPlusSource(RefcocoSource):
    """Phrases without words for places."""

    name: ClassVar[str] = "refcoco+"


class RefcocogSource(RefcocoSource):
    """Longer phrases."""

    name: ClassVar[str] = "refcocog"
    partition: ClassVar[str] = "umd"
    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
