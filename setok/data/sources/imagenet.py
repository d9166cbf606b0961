"""ImageNet classification (Deng et al. 2009), in either of two layouts under ROOT or ROOT/SPLIT.

    data.json   [{"image": "a.JPEG", "label": 152, "synset": "n02085782", "class_name": "Japanese spaniel"}, …]
    images/a.JPEG

    CLASS/a.JPEG                      one folder for each class
    LOC_synset_mapping.txt            optional, under ROOT: "n01440764 tench, Tinca tinca" on each line

A picture's concept is the first synonym of its class. A class folder that is called by a bare synset number has no name
without the mapping, and gives no concept. The folder of split ``val`` may also be called ``dev`` or ``validation``.
``images`` names the folder of the table's pictures, or of the class folders, where that is another one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from setok.data.schema import EncodedImage, Record
from setok.data.sources.annotations import inside, read_rows, text_of
from setok.data.sources.base import BadRecord, Requirement, Source, is_image, read_image
from setok.errors import DataError

logger = logging.getLogger(__name__)
MAPPING = "LOC_synset_mapping.txt"
_ORIGIN = "https://image-net.org/download.php (or Kaggle: imagenet-object-localization-challenge)"
_SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "validation", "dev"), "test": ("test",)}
_SYNSET = re.compile(r"n\d{8}")


@dataclass(frozen=True, kw_only=True)
class _Picture:
    path: str
    """Relative to the folder of the pictures."""
    label: str
    synset: str
    class_name: str


class ImagenetSource(Source):
    """Pictures with the name of their class."""

    name: ClassVar[str] = "imagenet"

    @property
    def requirements(self) -> list[Requirement]:
        if not self.root.is_dir():
            return [Requirement(path="one folder for each class, or images/ and data.json", origin=_ORIGIN)]
        if not self._table.is_file() or self.config.images is not None:
            return []
        return [Requirement(path=f"{(self._folder / 'images').relative_to(self.root).as_posix()}/", origin=_ORIGIN)]

    @cached_property
    def _folder(self) -> Path:
        """The split's folder, or the root where there are no splits."""
        for name in _SPLIT_FOLDERS.get(self.config.split, (self.config.split,)):
            if (self.root / name).is_dir():
                return self.root / name
        known = {name for names in _SPLIT_FOLDERS.values() for name in names}
        folders = set(_folders_in(self.root))
        if folders and folders <= known and not (self.root / "data.json").is_file():
            raise DataError(
                f"source 'imagenet': {str(self.root)!r} has no split {self.config.split!r}, but {sorted(folders)}",
                f"choose one of these as split, or get it from {_ORIGIN}",
            )
        return self.root

    @property
    def _table(self) -> Path:
        return self._folder / "data.json"

    @property
    def _picture_root(self) -> Path:
        return self._pictures(self._folder / "images" if self._table.is_file() else self._folder)

    def _files(self) -> Iterable[Path]:
        if self._table.is_file():
            return [self._table, self._picture_root]
        return [self.root / MAPPING, *(self._picture_root / name for name in _folders_in(self._picture_root))]

    @cached_property
    def _rows(self) -> list[_Picture | BadRecord]:
        return self._from_table() if self._table.is_file() else list(self._from_folders())

    def _from_table(self) -> list[_Picture | BadRecord]:
        rows: list[_Picture | BadRecord] = []
        for number, row in enumerate(read_rows(self._table, origin=_ORIGIN)):
            try:
                picture = _Picture(
                    path=inside(text_of(row, "image")),
                    class_name=text_of(row, "class_name"),
                    label=str(row.get("label", "")),
                    synset=str(row.get("synset", "")),
                )
            except DataError as error:
                bad_id = f"imagenet/{self.config.split}/{self._table.name}:{number}"
                rows.append(BadRecord(id=bad_id, reason=error.problem))
            else:
                rows.append(picture)
        return rows

    def _from_folders(self) -> Iterator[_Picture]:
        names, classes = self._class_names(), _folders_in(self._picture_root)
        unnamed = [name for name in classes if name not in names and _SYNSET.fullmatch(name)]
        if unnamed:
            logger.warning(
                "%d classes such as %s have no name and give no concepts: put %s into %s (from %s)",
                *(len(unnamed), unnamed[0], MAPPING, self.root, _ORIGIN),
            )
        for label, folder in enumerate(classes):
            is_synset = _SYNSET.fullmatch(folder) is not None
            own_name = "" if is_synset else folder.replace("_", " ")
            for path in sorted((self._picture_root / folder).iterdir()):
                if is_image(path.name):
                    yield _Picture(
                        path=f"{folder}/{path.name}",
                        label=str(label),
                        synset=folder if is_synset else "",
                        class_name=names.get(folder, own_name),
                    )

    def _class_names(self) -> dict[str, str]:
        path = self.root / MAPPING
        if not path.is_file():
            return {}
        rows = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
        return {row[0]: row[1] for row in rows if len(row) == 2}

    def _count(self) -> int:
        return len(self._rows)

    def _record(self, index: int) -> Record | BadRecord:
        picture = self._rows[index]
        if isinstance(picture, BadRecord):
            return picture
        record_id = f"imagenet/{self.config.split}/{picture.path.rsplit('.', 1)[0]}"
        try:
            data = read_image(self._picture_root / picture.path)
        except DataError as error:
            return BadRecord(id=record_id, reason=error.problem)
        concept = picture.class_name.split(",")[0].strip()
        return Record(
            id=record_id,
            source=self.name,
            task="classify" if concept else "image",
            images=[EncodedImage(data=data)],
            concepts=[concept] if concept else [],
            answers=[picture.class_name] if concept else [],
            provenance={
                "file": picture.path,
                "label": picture.label,
                "synset": picture.synset,
                "class_name": picture.class_name,
            },
        )


def _folders_in(folder: Path) -> list[str]:
    """Names of the folders in it, sorted, without hidden ones; none where it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
