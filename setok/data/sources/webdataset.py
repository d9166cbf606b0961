"""Tars in the format of WebDataset (Aizman et al. 2019), which img2dataset writes too: all ``ROOT/**/*.tar`` by name.

    KEY.jpg  (.jpeg .png .webp .bmp .gif)
    KEY.txt     optional: the caption
    KEY.cls     optional: the class, a number or a name
    KEY.json    optional: metadata; of use are "caption", "class_name" (or "cname"), "key", "url" and "sha256"

``path`` is a folder or one tar; ``split`` is not used. The headers of all tars are read once in each process (about
15,000 samples a second), then a sample is read from its place. A tar that is cut off or damaged gives the samples before
the fault and one bad record.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from setok.config import SourceConfig
from setok.data.concepts import concepts_of_caption
from setok.data.schema import EncodedImage, Record
from setok.data.sources.annotations import one_line
from setok.data.sources.base import IMAGE_SUFFIXES, BadRecord, Requirement, Source
from setok.data.sources.img2dataset import caption_and_provenance
from setok.data.sources.tars import Sample, TarIndex, index_tar, read_sample
from setok.errors import DataError

_IMAGES = tuple(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)


class WebdatasetSource(Source):
    """Pictures with a caption or a class, where there is one."""

    name: ClassVar[str] = "webdataset"
    has_image_files: ClassVar[bool] = False
    holds: ClassVar[tuple[str, str]] = ("samples", "KEY.jpg, KEY.txt, … in tars")

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._pattern = "**/*.tar"
        if self.root.suffix == ".tar":
            self.root, self._pattern = self.root.parent, self.root.name

    @property
    def requirements(self) -> list[Requirement]:
        origin = "the tool that wrote the set, such as img2dataset with output_format=webdataset"
        return [Requirement(path=self._pattern, origin=origin)]

    @cached_property
    def _paths(self) -> list[Path]:
        paths = self.root.glob(self._pattern) if "*" in self._pattern else [self.root / self._pattern]
        return sorted(path for path in paths if path.is_file() and not path.name.startswith("."))

    def _files(self) -> Iterable[Path]:
        return self._paths

    @cached_property
    def _tars(self) -> list[TarIndex]:
        return [index_tar(path) for path in self._paths]

    @cached_property
    def _ends(self) -> list[int]:
        """Records up to the end of each tar; a faulty one has a bad record as its last."""
        return np.cumsum([len(tar.spans) + bool(tar.fault) for tar in self._tars], dtype=np.int64).tolist()

    def _count(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _record(self, index: int) -> Record | BadRecord:
        number = bisect.bisect_right(self._ends, index)
        tar = self._tars[number]
        place = index - (self._ends[number - 1] if number else 0)
        file = tar.path.relative_to(self.root).as_posix()
        record_id = f"webdataset/{file.removesuffix('.tar')}"
        if place == len(tar.spans):
            return BadRecord(id=record_id, reason=f"broken tar: {file}: {tar.fault}, after {place} whole samples")
        try:
            sample = read_sample(tar.path, *tar.spans[place].tolist())
            record_id = f"{record_id}/{sample.key}"
            return _record_of_sample(record_id, file, sample)
        except DataError as error:
            return BadRecord(id=record_id, reason=f"{error.problem} ({file}, sample {place})")


def _record_of_sample(record_id: str, file: str, sample: Sample) -> Record:
    images = [content for extension, content in sample.members.items() if extension in _IMAGES]
    if not images:
        raise DataError(f"no picture: the sample has {', '.join(sample.members)}")
    row = _metadata(sample)
    caption, provenance = caption_and_provenance(row)
    caption = _text(sample, "txt") or caption
    label = _text(sample, "cls")
    class_name = str(row.get("class_name") or row.get("cname") or ("" if label.isdigit() else label))
    concept = class_name.split(",")[0].strip()
    return Record(
        id=record_id,
        source="webdataset",
        task="caption" if caption else "classify" if concept else "image",
        images=[EncodedImage(data=images[0])],
        caption=caption,
        concepts=[*([concept] if concept else []), *concepts_of_caption(caption)],
        answers=[] if caption or not class_name else [class_name],
        provenance={"file": file, "key": sample.key} | provenance | ({"label": label} if label else {}),
    )


def _text(sample: Sample, extension: str) -> str:
    try:
        return one_line(sample.members.get(extension, b"").decode())
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {sample.key}.{extension}: {error.reason} at byte {error.start}") from error


def _metadata(sample: Sample) -> dict[str, Any]:
    try:
        row = json.loads(sample.members.get("json", b"{}").decode())
    except ValueError as error:
        raise DataError(f"no valid JSON: {sample.key}.json: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"no valid metadata: {sample.key}.json is {type(row).__name__}, not an object")
    return row
