"""Conceptual Captions 3M (Sharma et al. 2018) as img2dataset leaves it, with one merged list.

    ROOT/cc3m.json                   rows of img2dataset: {"key": "000010023", "caption": …, "status": "success", …},
                                     or of LLaVA: {"image": "000010023.jpg", "conversations": […]}
    ROOT/images/00001/000010023.jpg  or ROOT/images/000010023.jpg

The first five digits of a key are its folder. Without the merged list use ``img2dataset``, or ``webdataset`` for tars.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from setok.data.sources.annotations import inside, text_of
from setok.data.sources.conversations import ConversationSource
from setok.errors import DataError

_SHARD_DIGITS = 5


class Cc3mSource(ConversationSource):
    """Pictures of the web with their alternative text."""

    name: ClassVar[str] = "cc3m"
    splits: ClassVar[Mapping[str, tuple[str, ...]]] = {"merged": ("cc3m.json",)}
    origin: ClassVar[str] = (
        "https://ai.google.com/research/ConceptualCaptions, downloaded with img2dataset"
        " (kinds img2dataset and webdataset read its output without cc3m.json)"
    )
    image_folders: ClassVar[tuple[str, ...]] = ("images", "")

    def holds_captions(self, file: str) -> bool:
        return True

    def image_names(self, row: Any) -> list[str]:
        if "image" in row:
            return super().image_names(row)
        if row.get("status", "success") != "success":
            raise DataError(f"not downloaded: status {row['status']!r}", "download it again, or leave the row out")
        return [inside(f"{text_of(row, 'key')}.jpg")]

    def _find(self, name: str) -> Path:
        beside = super()._find(name)
        return beside if beside.exists() else super()._find(f"{name[:_SHARD_DIGITS]}/{name}")
