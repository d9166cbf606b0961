"""Any folder of one's own pictures, with captions if there are any.

    ROOT/**/KEY.jpg  (.jpeg .png .webp .bmp .gif)
    ROOT/**/KEY.txt                 optional: the picture's caption
    ROOT/captions.json              optional: [{"file": "sub/KEY.jpg", "caption": "…"}, …]
    ROOT/captions.jsonl             optional: the same, one object on each line

``images`` names the folder of the pictures and their ``KEY.txt`` where that is not ROOT. ``split`` is not used. Names
that start with a dot are passed over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from setok.data.concepts import concepts_of_caption
from setok.data.schema import EncodedImage, Record
from setok.data.sources.annotations import one_line, read_json, read_text, text_of
from setok.data.sources.base import BadRecord, Requirement, Source, is_image, read_image
from setok.errors import DataError


class FolderSource(Source):
    """Pictures with a caption and its concepts, where there is one."""

    name: ClassVar[str] = "folder"

    @property
    def requirements(self) -> list[Requirement]:
        return []

    @property
    def _folder(self) -> Path:
        return self._pictures(self.root)

    def _files(self) -> Iterable[Path]:
        folders = {self.root, self._folder, *((self._folder / name).parent for name in self._names)}
        return sorted(folders)

    @cached_property
    def _names(self) -> list[str]:
        """Paths of the pictures relative to their folder, with forward slashes, sorted."""
        names = []
        for folder, folders, files in os.walk(self._folder, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith(".")]
            names += [(Path(folder) / name).relative_to(self._folder).as_posix() for name in files if is_image(name)]
        return sorted(names)

    @cached_property
    def _captions(self) -> dict[str, str]:
        """Captions of ``captions.json`` or ``captions.jsonl`` by file."""
        for path in (self.root / "captions.json", self.root / "captions.jsonl"):
            if path.is_file():
                rows = read_json(path) if path.suffix == ".json" else _read_json_lines(path)
                captions = {}
                for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
                    try:
                        captions[text_of(row, "file").removeprefix("./")] = one_line(text_of(row, "caption"))
                    except DataError as error:
                        raise DataError(
                            f"{path} is no list of {{file, caption}}: row {number}: {error.problem}",
                            'write [{"file": "a.jpg", "caption": "a red cup"}], or one such object on each line of .jsonl',
                        ) from error
                return captions
        return {}

    def check(self) -> None:
        super().check()
        _ = self._captions  # a broken list of captions is one error, not one for each picture

    def _count(self) -> int:
        return len(self._names)

    def _record(self, index: int) -> Record | BadRecord:
        name = self._names[index]
        record_id = f"{self.name}/{name}"
        try:
            data = read_image(self._folder / name)
            caption, provenance = self._describe(name)
        except DataError as error:
            return BadRecord(id=record_id, reason=error.problem)
        return Record(
            id=record_id,
            source=self.name,
            task="caption" if caption else "image",
            images=[EncodedImage(data=data)],
            caption=caption,
            concepts=concepts_of_caption(caption),
            provenance={"file": name} | provenance,
        )

    def _describe(self, name: str) -> tuple[str, dict[str, str]]:
        """A picture's caption, which may be empty, and what more is known of it.

        Raises:
            DataError: its caption cannot be read.
        """
        sidecar = (self._folder / name).with_suffix(".txt")
        return (read_text(sidecar) if sidecar.is_file() else self._captions.get(name, "")), {}


def _read_json_lines(path: Path) -> list[Any]:
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            rows += [json.loads(line.decode())] if line.strip() else []
        except ValueError as error:
            raise DataError(f"{path}: line {number} is no JSON: {error}", "correct the line") from error
    return rows
