"""The one canonical record, and the Parquet data set that records are stored in.

A source yields ``Record`` objects; ingest stores them as rows of ``ARROW_SCHEMA`` next to a ``manifest.json`` that is
written last; everything after that reads rows.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from setok.errors import DataError

MANIFEST = "manifest.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One panoptic segment as uncompressed COCO run lengths (column-major, first run is background)."""

    counts: list[int]
    height: int
    width: int
    category: str
    is_thing: bool


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn of a conversation; ``<image>`` marks an image slot, filled in order of ``Record.images``."""

    role: str
    text: str


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """A picture as it lay on disk. ``role`` is ``input`` or ``target`` (to be generated)."""

    data: bytes
    role: str = "input"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One training or evaluation sample, whatever data set it came from."""

    id: str
    source: str
    images: list[EncodedImage] = field(default_factory=list)
    conversation: list[Turn] = field(default_factory=list)
    caption: str = ""
    concepts: list[str] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    provenance: dict[str, str] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """The record as a row of ``ARROW_SCHEMA``."""
        return {
            "id": self.id,
            "source": self.source,
            "images": [{"data": image.data, "role": image.role} for image in self.images],
            "conversation": [{"role": turn.role, "text": turn.text} for turn in self.conversation],
            "caption": self.caption,
            "concepts": self.concepts,
            "segments": [vars(segment) for segment in self.segments],
            "answers": self.answers,
            "provenance": json.dumps(self.provenance, sort_keys=True, ensure_ascii=False),
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Record:
        """The inverse of ``to_row``."""
        parts: dict[str, Any] = {
            "images": [EncodedImage(**image) for image in row["images"]],
            "conversation": [Turn(**turn) for turn in row["conversation"]],
            "segments": [Segment(**segment) for segment in row["segments"]],
            "provenance": json.loads(row["provenance"]),
        }
        return cls(**row | parts)


ARROW_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("images", pa.list_(pa.struct([("data", pa.large_binary()), ("role", pa.string())]))),
        ("conversation", pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))),
        ("caption", pa.string()),
        ("concepts", pa.list_(pa.string())),
        (
            "segments",
            pa.list_(
                pa.struct(
                    [
                        ("counts", pa.list_(pa.int32())),
                        ("height", pa.int32()),
                        ("width", pa.int32()),
                        ("category", pa.string()),
                        ("is_thing", pa.bool_()),
                    ]
                )
            ),
        ),
        ("answers", pa.list_(pa.string())),
        ("provenance", pa.string()),
    ],
    metadata={"setok_format": str(FORMAT_VERSION)},
)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One Parquet file of a data set."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an ingested data set holds; written last, so its presence means the set is whole."""

    shards: list[Shard]
    records_by_source: dict[str, int]
    quarantined_by_reason: dict[str, int]
    request: str = ""
    """Digest of what was asked for (settings and state of the source files): asking again needs no work."""
    format_version: int = FORMAT_VERSION

    @property
    def num_rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def num_quarantined(self) -> int:
        return sum(self.quarantined_by_reason.values())

    @property
    def fingerprint(self) -> str:
        """Identifies the contents: two sets with the same one hold the same rows in the same order."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write the manifest into ``folder``, atomically: it is either the whole new one or the old one."""
        temporary = folder / f".{MANIFEST}"
        temporary.write_text(json.dumps(asdict(self), indent=2) + "\n")
        temporary.replace(folder / MANIFEST)

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """Read the manifest of an ingested data set.

        Raises:
            DataError: the folder is missing, is no ingested set, or was written by another version.
        """
        path = Path(folder) / MANIFEST
        if not path.is_file():
            state = "has no manifest.json" if path.parent.is_dir() else "does not exist"
            raise DataError(f"data set {str(folder)!r} {state}", f"make it with: {_ingest_command(folder)}")
        try:
            tree = json.loads(path.read_text())
            version = tree.get("format_version")
            if version == FORMAT_VERSION:
                return cls(**tree | {"shards": [Shard(**shard) for shard in tree["shards"]]})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"{path} is damaged: {error}", f"ingest it again: rm {path} && {_ingest_command(folder)}"
            ) from error
        raise DataError(
            f"data set {str(folder)!r} has format {version}, this version reads {FORMAT_VERSION}",
            f"ingest it again: {_ingest_command(folder)}",
        )


def _ingest_command(folder: str | Path) -> str:
    return f"python -m ray_jobs.ingest --config ingest --set output={folder}"
