"""The files that img2dataset writes with ``output_format="files"`` (Beaumont 2021): CC3M, CC12M, LAION and their like.

    ROOT/00000/000000000.jpg  (.png .webp)
    ROOT/00000/000000000.txt        the caption
    ROOT/00000/000000000.json       {"key": …, "url": …, "caption": …, "status": "success", "sha256": …, …}
    ROOT/00000_stats.json           not read

Or all in one folder. A picture without a caption in either file has none. Its tars are read by ``webdataset``.
"""

from __future__ import annotations

from typing import ClassVar

from setok.data.sources.annotations import one_line, read_json, read_text
from setok.data.sources.folder import FolderSource
from setok.errors import DataError

KEPT = ("key", "url", "sha256")
"""What of a picture's metadata goes into its provenance."""


class Img2datasetSource(FolderSource):
    """Pictures of the web with their alternative text."""

    name: ClassVar[str] = "img2dataset"

    def _describe(self, name: str) -> tuple[str, dict[str, str]]:
        picture = self._folder / name
        text, table = picture.with_suffix(".txt"), picture.with_suffix(".json")
        row = read_json(table) if table.is_file() else {}
        caption, provenance = caption_and_provenance(row)
        return (read_text(text) if text.is_file() else caption), provenance


def caption_and_provenance(row: object) -> tuple[str, dict[str, str]]:
    """What img2dataset's metadata of one picture say: its caption, which may be empty, and where it comes from.

    Raises:
        DataError: they are no object, or the caption is no text.
    """
    if not isinstance(row, dict):
        raise DataError(f"metadata is no object but {type(row).__name__}")
    caption = row.get("caption") or ""
    if not isinstance(caption, str):
        raise DataError(f"not text: 'caption' is {caption!r}")
    return one_line(caption), {key: str(row[key]) for key in KEPT if key in row}
