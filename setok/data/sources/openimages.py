"""OpenImages (Kuznetsova et al. 2020), V4 to V7, with ``train`` for the split (``validation`` and ``test`` likewise).

    ROOT/train/ID.jpg                                            or ``images``
    ROOT/*class-descriptions*.csv                                /m/011k07,Tortoise
    ROOT/*train-annotations-bbox.csv                             boxes
    ROOT/*train-annotations-human-imagelabels*.csv               labels of whole pictures, checked by people

At least one of the last two. A record is a picture that is on disk, for few people get all nine million. Its concepts are
its boxes' labels and those that people confirmed, in the order of the files, in lower case. Labels without a name in the
class descriptions are left out, and so are those that people ruled out (confidence 0).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, Int64
from pyarrow import csv

from setok.config import SourceConfig
from setok.data.concepts import merge_concepts
from setok.data.schema import Box, EncodedImage, Record
from setok.data.sources.base import BadRecord, Requirement, Source, is_image, read_image
from setok.errors import ConfigError, DataError, did_you_mean

logger = logging.getLogger(__name__)
_ORIGIN = "https://storage.googleapis.com/openimages/web/download_v7.html"
_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_IN_FILE_NAMES = {"train": "train", "validation": "val*", "test": "test"}
"""Seventh edition: ``oidv7-val-annotations-…``."""
_CORNERS = ("XMin", "YMin", "XMax", "YMax")


@dataclass(frozen=True)
class _Rows:
    """Rows of annotation files, those of one picture beside each other."""

    starts: Int64[np.ndarray, "pictures_plus_one"]
    labels: Int64[np.ndarray, "rows"]
    """Places in the list of class names."""
    corners: Float32[np.ndarray, "rows 4"]
    """XMin, YMin, XMax, YMax as shares of width and height; for labels of whole pictures 0."""
    is_group: Bool[np.ndarray, "rows"]

    def of(self, picture: int) -> slice:
        return slice(int(self.starts[picture]), int(self.starts[picture + 1]))


class OpenimagesSource(Source):
    """Pictures with labelled boxes, labels of the whole, and both as concepts."""

    name: ClassVar[str] = "openimages"

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        if config.split not in _SPLITS:
            raise ConfigError(f"openimages has no split {config.split!r}", did_you_mean(config.split, _SPLITS))
        self.split = _SPLITS[config.split]

    @property
    def requirements(self) -> list[Requirement]:
        tool = "https://raw.githubusercontent.com/openimages/dataset/master/downloader.py"
        pictures = Requirement(path=f"{self.split}/", origin=f"{_ORIGIN} (a chosen part with {tool})")
        in_names = _IN_FILE_NAMES[self.split]
        return [
            *([pictures] if self.config.images is None else []),
            Requirement(path="*class-descriptions*.csv", origin=_ORIGIN),
            Requirement(path=f"*{in_names}-annotations-*.csv", origin=f"{_ORIGIN} (bbox, human-imagelabels, or both)"),
        ]

    @property
    def _folder(self) -> Path:
        return self._pictures(self.root / self.split)

    def _tables(self, what: str) -> list[Path]:
        return sorted(self.root.glob(f"*{_IN_FILE_NAMES[self.split]}-annotations-{what}.csv"))

    def _files(self) -> Iterable[Path]:
        classes = sorted(self.root.glob("*class-descriptions*.csv"))
        return [self._folder, *classes, *self._tables("bbox"), *self._tables("human-imagelabels*")]

    @cached_property
    def _names(self) -> list[str]:
        """File names of the pictures, sorted."""
        return sorted(path.name for path in self._folder.iterdir() if is_image(path.name))

    @cached_property
    def _classes(self) -> dict[str, str]:
        """Label such as ``/m/011k07`` to its name."""
        classes: dict[str, str] = {}
        for path in sorted(self.root.glob("*class-descriptions*.csv")):
            columns = csv.ReadOptions(column_names=["label", "name"])
            texts = csv.ConvertOptions(column_types={"label": pa.string(), "name": pa.string()})
            try:
                table = csv.read_csv(path, read_options=columns, convert_options=texts)
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(f"{path} is no list of label,name: {error}", f"get it again from {_ORIGIN}") from error
            rows = zip(table["label"].to_pylist(), table["name"].to_pylist(), strict=True)
            classes |= {label: name for label, name in rows if label.startswith("/")}  # V7 has a header
        return classes

    @cached_property
    def _class_names(self) -> list[str]:
        return list(self._classes.values())

    @cached_property
    def _boxes(self) -> _Rows:
        return self._read(self._tables("bbox"), [*_CORNERS, "IsGroupOf"])

    @cached_property
    def _labels(self) -> _Rows:
        return self._read(self._tables("human-imagelabels*"), ["Confidence"])

    def _read(self, paths: list[Path], columns: list[str]) -> _Rows:
        """The rows of the pictures on disk: the files, of up to 15 million rows, go by in pieces."""
        pictures = pa.array([Path(name).stem for name in self._names], pa.string())
        labels = pa.array(list(self._classes), pa.string())
        parts, unnamed = [_no_rows()], 0
        for path in paths:
            types = {"ImageID": pa.string(), "LabelName": pa.string()} | dict.fromkeys(columns, pa.float32())
            options = csv.ConvertOptions(include_columns=list(types), column_types=types)
            try:
                with csv.open_csv(path, convert_options=options) as reader:
                    for batch in reader:
                        kept = batch.filter(pc.is_in(batch["ImageID"], pictures))
                        named = kept.filter(pc.is_in(kept["LabelName"], labels))
                        unnamed += kept.num_rows - named.num_rows
                        parts.append(_columns(named, pictures, labels))
            except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
                raise DataError(f"{path} is no table of OpenImages: {error}", f"get it again from {_ORIGIN}") from error
        if unnamed:
            logger.warning("%d labels in %s have no name and are left out: add class descriptions", unnamed, paths[0])
        owner, label, corners, flag = (np.concatenate(column) for column in zip(*parts, strict=True))
        if "Confidence" in columns:
            owner, label, corners, flag = owner[flag > 0], label[flag > 0], corners[flag > 0], flag[flag > 0]
        order = np.argsort(owner, kind="stable")
        starts = np.searchsorted(owner[order], np.arange(len(pictures) + 1))
        return _Rows(starts.astype(np.int64), label[order], corners[order], flag[order] == 1)

    def check(self) -> None:
        super().check()
        _ = self._boxes, self._labels  # a broken file is one error, not one for each picture

    def _count(self) -> int:
        return len(self._names)

    def _record(self, index: int) -> Record | BadRecord:
        name = self._names[index]
        record_id = f"openimages/{self.split}/{Path(name).stem}"
        try:
            data = read_image(self._folder / name)
            boxes = self._boxes_of(index)
        except DataError as error:
            return BadRecord(id=record_id, reason=error.problem)
        labels = [self._class_names[label] for label in self._labels.labels[self._labels.of(index)]]
        return Record(
            id=record_id,
            source=self.name,
            task="image",
            images=[EncodedImage(data=data)],
            concepts=merge_concepts([box.label.lower() for box in boxes], [label.lower() for label in labels]),
            boxes=boxes,
            provenance={"file": f"{self.split}/{name}"},
        )

    def _boxes_of(self, index: int) -> list[Box]:
        rows = self._boxes.of(index)
        corners = self._boxes.corners[rows]
        ordered = (corners[:, :2] <= corners[:, 2:]).all(axis=1)
        fits = ordered & ((corners >= 0) & (corners <= 1)).all(axis=1)
        if not fits.all():
            broken = corners[~fits][0].tolist()
            raise DataError(f"broken box: corners {broken}, allowed are shares from 0 to 1 in rising order")
        flags = self._boxes.is_group[rows].tolist()
        return [
            Box(label=self._class_names[label], x0=x0, y0=y0, x1=x1, y1=y1, is_group=is_group)
            for label, (x0, y0, x1, y1), is_group in zip(self._boxes.labels[rows], corners.tolist(), flags, strict=True)
        ]


_Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Place of the picture, place of the label, corners, and IsGroupOf or Confidence; one entry for each row."""


def _no_rows() -> _Columns:
    return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32)


def _columns(batch: pa.RecordBatch, pictures: pa.Array, labels: pa.Array) -> _Columns:
    """A piece of a table whose pictures and labels are all known."""
    names = set(batch.schema.names)
    owner = pc.index_in(batch["ImageID"], value_set=pictures)
    label = pc.index_in(batch["LabelName"], value_set=labels)
    corners = np.zeros((batch.num_rows, 4), np.float32)
    for number, corner in enumerate(_CORNERS if _CORNERS[0] in names else ()):
        corners[:, number] = batch[corner].to_numpy(zero_copy_only=False)
    flag = batch["IsGroupOf" if "IsGroupOf" in names else "Confidence"].to_numpy(zero_copy_only=False)
    places = (column.to_numpy(zero_copy_only=False).astype(np.int64) for column in (owner, label))
    return (*places, corners, flag)
