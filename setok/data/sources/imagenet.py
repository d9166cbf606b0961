"""ImageNet classification (Deng et al. 2009), in either of two layouts under ROOT or ROOT/SPLIT.

    data.json   [{"image": "a.JPEG", "label": 152, "synset": "n02085782", "class_name": "Japanese spaniel"}, …]
    images/a.JPEG

    CLASS/a.JPEG                      one folder for each class
    LOC_synset_mapping.txt            optional, under ROOT: "n01440764 tench, Tinca tinca" on each line

A picture's concept is the first synonym of its class. A class folder that is called by a bare synset number has no name
without the mapping, and gives no concept.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from setok.data.schema import EncodedImage, Record
from setok.data.sources.base import BadRecord, Requirement, Source, is_image, read_image
from setok.errors import DataError

logger = logging.getLogger(__name__)
MAPPING = "LOC_synset_mapping.txt"
_ORIGIN = "https://image-net.org/download.php (or Kaggle: imagenet-object-localization-challenge)"
_SYNSET = re.compile(r"n\d{8}")


@dataclass(frozen=True, kw_only=True)
class _Picture:
    path: str
    """Relative to the layout's folder."""
    label: str
    synset: str
    class_name: str


class ImagenetSource(Source):
    """Pictures with the name of their class."""

    name: ClassVar[str] = "imagenet"

    @property
    def requirements(self) -> list[Requirement]:
        if (self._folder / "data.json").is_file():
            prefix = "" if self._folder == self.root else f"{self.config.split}/"
            return [
                Requirement(path=f"{prefix}data.json", origin=_ORIGIN),
                Requirement(path=f"{prefix}images/", origin=_ORIGIN),
            ]
        return []

    @cached_property
    def _folder(self) -> Path:
        """The split's folder, or the root where there is none."""
        split = self.root / self.config.split
        return split if split.is_dir() else self.root

    def _files(self) -> Iterable[Path]:
        table = self._folder / "data.json"
        if table.is_file():
            return [table, self._folder / "images"]
        return [self.root / MAPPING, *(self._folder / name for name in self._classes)]

    @cached_property
    def _classes(self) -> list[str]:
        if not self._folder.is_dir():
            return []
        return sorted(path.name for path in self._folder.iterdir() if path.is_dir() and not path.name.startswith("."))

    @cached_property
    def _pictures(self) -> list[_Picture]:
        table = self._folder / "data.json"
        return self._from_table(table) if table.is_file() else self._from_folders()

    def _from_table(self, table: Path) -> list[_Picture]:
        try:
            return [
                _Picture(
                    path=f"images/{row['image']}",
                    label=str(row["label"]),
                    synset=str(row["synset"]),
                    class_name=row["class_name"],
                )
                for row in json.loads(table.read_text())
            ]
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{table} is no list of rows with image, label, synset and class_name: {error!r}",
                "correct the file, or remove it and use one folder for each class",
            ) from error

    def _from_folders(self) -> list[_Picture]:
        names = self._class_names()
        unnamed = [name for name in self._classes if name not in names and _SYNSET.fullmatch(name)]
        if unnamed:
            logger.warning(
                "%d classes such as %s have no name and give no concepts: put %s into %s (from %s)",
                *(len(unnamed), unnamed[0], MAPPING, self.root, _ORIGIN),
            )
        return [
            _Picture(
                path=f"{folder}/{path.name}",
                label=str(label),
                synset=folder if _SYNSET.fullmatch(folder) else "",
                class_name=names.get(folder, "" if _SYNSET.fullmatch(folder) else folder.replace("_", " ")),
            )
            for label, folder in enumerate(self._classes)
            for path in sorted((self._folder / folder).iterdir())
            if is_image(path.name)
        ]

    def _class_names(self) -> dict[str, str]:
        path = self.root / MAPPING
        if not path.is_file():
            return {}
        rows = (line.split(maxsplit=1) for line in path.read_text().splitlines())
        return {row[0]: row[1] for row in rows if len(row) == 2}

    def _count(self) -> int:
        return len(self._pictures)

    def _record(self, index: int) -> Record | BadRecord:
        picture = self._pictures[index]
        record_id = f"imagenet/{self.config.split}/{picture.path.removeprefix('images/').rsplit('.', 1)[0]}"
        try:
            data = read_image(self._folder / picture.path)
        except DataError as error:
            return BadRecord(id=record_id, reason=error.problem)
        concept = picture.class_name.split(",")[0].strip()
        return Record(
            id=record_id,
            source=self.name,
            task="classify" if concept else "image",
            images=[EncodedImage(data=data)],
            concepts=[concept] if concept else [],
            answers=[picture.class_name] if picture.class_name else [],
            provenance={
                "file": picture.path,
                "label": picture.label,
                "synset": picture.synset,
                "class_name": picture.class_name,
            },
        )
