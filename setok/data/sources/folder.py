"""Any folder of one's own pictures, with captions if there are any.

    ROOT/**/KEY.jpg  (.jpeg .png .webp .bmp .gif)
    ROOT/**/KEY.txt                 optional: the picture's caption
    ROOT/captions.json              optional: [{"file": "sub/KEY.jpg", "caption": "…"}, …]
    ROOT/captions.jsonl             optional: the same, one object on each line

``split`` is not used. Names that start with a dot are passed over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from setok.data.concepts import concepts_of_caption
from setok.data.schema import EncodedImage, Record
from setok.data.sources.base import BadRecord, Requirement, Source, is_image, read_image
from setok.errors import DataError


class FolderSource(Source):
    """Pictures with a caption and its concepts, where there is one."""

    name: ClassVar[str] = "folder"

    @property
    def requirements(self) -> list[Requirement]:
        return []

    def _files(self) -> Iterable[Path]:
        return [self.root, *sorted({(self.root / name).parent for name in self._names} - {self.root})]

    @cached_property
    def _names(self) -> list[str]:
        """Paths of the pictures relative to the root, with forward slashes, sorted."""
        names = []
        for folder, folders, files in os.walk(self.root, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith(".")]
            names += [(Path(folder) / name).relative_to(self.root).as_posix() for name in files if is_image(name)]
        return sorted(names)

    @cached_property
    def _captions(self) -> dict[str, str]:
        """Captions of ``captions.json`` or ``captions.jsonl`` by file."""
        for path in (self.root / "captions.json", self.root / "captions.jsonl"):
            if path.is_file():
                try:
                    text = path.read_text()
                    lines = [line for line in text.splitlines() if line.strip()]
                    rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in lines]
                    return {row["file"].removeprefix("./"): row["caption"] for row in rows}
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    raise DataError(
                        f"{path} is no list of {{file, caption}}: {error!r}",
                        'write [{"file": "a.jpg", "caption": "a red cup"}], or one such object on each line of .jsonl',
                    ) from error
        return {}

    def check(self) -> None:
        super().check()
        _ = self._captions  # a broken list of captions is one error, not one for each picture

    def _count(self) -> int:
        return len(self._names)

    def _record(self, index: int) -> Record | BadRecord:
        name = self._names[index]
        record_id = f"folder/{name}"
        try:
            data = read_image(self.root / name)
            caption = self._caption(name)
        except DataError as error:
            return BadRecord(id=record_id, reason=error.problem)
        return Record(
            id=record_id,
            source=self.name,
            task="caption" if caption else "image",
            images=[EncodedImage(data=data)],
            caption=caption,
            concepts=concepts_of_caption(caption),
            provenance={"file": name},
        )

    def _caption(self, name: str) -> str:
        sidecar = (self.root / name).with_suffix(".txt")
        if sidecar.is_file():
            try:
                return " ".join(sidecar.read_text().split())
            except UnicodeDecodeError as error:
                raise DataError(f"caption is not UTF-8: {sidecar.name}", "save the caption as UTF-8") from error
        return self._captions.get(name, "")
