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

from setok.data.storage import Storage
from setok.errors import DataError, did_you_mean

MANIFEST = "manifest.json"
FORMAT_VERSION = 2

IMAGE_SLOT, MASK_SLOT = "<image>", "<mask>"
"""Places in a turn's text: for a picture (an input in the user's turns, a target in the assistant's), and for a mask."""
ROLES = ("system", "user", "assistant")
TASKS = ("image", "classify", "caption", "vqa", "dialogue", "generate", "edit", "segment", "text")
"""What a record can teach. ``image`` has only pixels; ``caption`` also serves text-to-image, its caption being the prompt."""


@dataclass(frozen=True, kw_only=True)
class Mask:
    """A region of a picture as uncompressed COCO run lengths (column-major, first run is background)."""

    counts: list[int]
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Segment(Mask):
    """One panoptic segment."""

    category: str
    is_thing: bool


@dataclass(frozen=True, kw_only=True)
class Box:
    """A labelled box; corners as shares of the picture's width (x) and height (y), from the upper left."""

    label: str
    x0: float
    y0: float
    x1: float
    y1: float
    is_group: bool = False
    """One box around many of the kind."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn of a conversation; see ``Record`` for the slots in its text."""

    role: str
    text: str


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """A picture as it lay on disk. ``role`` is ``input`` or ``target`` (to be generated)."""

    data: bytes
    role: str = "input"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One training or evaluation sample, whatever data set it came from.

    ``<image>`` in a turn is a slot for a picture: the n-th slot of the user's turns is the n-th input image, the n-th slot of
    the assistant's turns the n-th target image. ``<mask>`` in an assistant's turn stands for the n-th of ``masks``, a
    region of the first input image. A record without conversation has what its task needs in ``caption``, ``concepts``
    or ``answers``; which words are put around that is decided when it is trained on (setok/data/prompts.py).
    """

    id: str
    source: str
    task: str = "image"
    """One of ``TASKS``."""
    images: list[EncodedImage] = field(default_factory=list)
    conversation: list[Turn] = field(default_factory=list)
    caption: str = ""
    concepts: list[str] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    """Panoptic segments of the first input image, for evaluation."""
    masks: list[Mask] = field(default_factory=list)
    """What the ``<mask>`` slots stand for."""
    boxes: list[Box] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    """All reference answers or captions; with ``choices`` the first one is the right choice."""
    choices: list[str] = field(default_factory=list)
    """Of a multiple-choice question."""
    provenance: dict[str, str] = field(default_factory=dict)
    """Official ids and whatever else an evaluation needs to write the data set's own submission format."""

    def check(self) -> None:
        """Look whether the parts fit together.

        Raises:
            DataError: an unknown task or role, or slots that differ in number from images or masks; the part of the text
                before ``:`` is the kind.
        """
        if self.task not in TASKS:
            raise DataError(f"unknown task: {self.task!r}", did_you_mean(self.task, TASKS))
        for turn in self.conversation:
            if turn.role not in ROLES:
                raise DataError(f"unknown role: {turn.role!r}", did_you_mean(turn.role, ROLES))
        for image in self.images:
            if image.role not in ("input", "target"):
                raise DataError(f"unknown role: {image.role!r} of an image", "an image is input or target")
        if not self.conversation:
            return
        asked = "".join(turn.text for turn in self.conversation if turn.role != "assistant")
        said = "".join(turn.text for turn in self.conversation if turn.role == "assistant")
        inputs = sum(image.role == "input" for image in self.images)
        targets = len(self.images) - inputs
        for what, slots, found in (
            ("input images", asked.count(IMAGE_SLOT), inputs),
            ("target images", said.count(IMAGE_SLOT), targets),
            ("masks", said.count(MASK_SLOT), len(self.masks)),
        ):
            if slots != found:
                raise DataError(
                    f"slots and {what} differ: {slots} slots, {found} {what}",
                    "correct the record: one <image> for every picture, one <mask> for every mask",
                )

    def to_row(self) -> dict[str, Any]:
        """The record as a row of ``ARROW_SCHEMA``."""
        return {
            "id": self.id,
            "source": self.source,
            "task": self.task,
            "images": [{"data": image.data, "role": image.role} for image in self.images],
            "conversation": [{"role": turn.role, "text": turn.text} for turn in self.conversation],
            "caption": self.caption,
            "concepts": self.concepts,
            "segments": [vars(segment) for segment in self.segments],
            "masks": [vars(mask) for mask in self.masks],
            "boxes": [vars(box) for box in self.boxes],
            "answers": self.answers,
            "choices": self.choices,
            "provenance": json.dumps(self.provenance, sort_keys=True, ensure_ascii=False),
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Record:
        """The inverse of ``to_row``."""
        parts: dict[str, Any] = {
            "images": [EncodedImage(**image) for image in row["images"]],
            "conversation": [Turn(**turn) for turn in row["conversation"]],
            "segments": [Segment(**segment) for segment in row["segments"]],
            "masks": [Mask(**mask) for mask in row["masks"]],
            "boxes": [Box(**box) for box in row["boxes"]],
            "provenance": json.loads(row["provenance"]),
        }
        return cls(**row | parts)


_MASK = [("counts", pa.list_(pa.int32())), ("height", pa.int32()), ("width", pa.int32())]
_BOX = [
    ("label", pa.string()),
    *((corner, pa.float32()) for corner in ("x0", "y0", "x1", "y1")),
    ("is_group", pa.bool_()),
]

ARROW_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("task", pa.string()),
        ("images", pa.list_(pa.struct([("data", pa.large_binary()), ("role", pa.string())]))),
        ("conversation", pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))),
        ("caption", pa.string()),
        ("concepts", pa.list_(pa.string())),
        ("segments", pa.list_(pa.struct([*_MASK, ("category", pa.string()), ("is_thing", pa.bool_())]))),
        ("masks", pa.list_(pa.struct(_MASK))),
        ("boxes", pa.list_(pa.struct(_BOX))),
        ("answers", pa.list_(pa.string())),
        ("choices", pa.list_(pa.string())),
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
    records_by_task: dict[str, dict[str, int]] = field(default_factory=dict)
    """By source, and in it by task."""
    num_images: int = 0
    """Pictures of all records; one that several records share counts in each."""
    image_bytes: int = 0
    """Their size as encoded files."""
    duplicates_by_source: dict[str, int] = field(default_factory=dict)
    """Records like an earlier one: those left out with ``duplicates: drop``, those found with ``report``."""
    duplicates: str = "keep"
    """What the ingest did with duplicates."""
    request: str = ""
    """Digest of what was asked for (settings and state of the source files): asking again needs no work."""
    format_version: int = FORMAT_VERSION

    @property
    def num_rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    @property
    def num_quarantined(self) -> int:
        return sum(self.quarantined_by_reason.values())

    @property
    def num_duplicates(self) -> int:
        return sum(self.duplicates_by_source.values())

    @property
    def fingerprint(self) -> str:
        """Identifies the contents: two sets with the same one hold the same rows in the same order."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()[:16]

    def save(self, folder: str | Path) -> None:
        """Write the manifest into a folder, atomically: it is either the whole new one or the old one."""
        Storage(folder).write(MANIFEST, (json.dumps(asdict(self), indent=2) + "\n").encode())

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """Read the manifest of an ingested data set, wherever it lies.

        Raises:
            DataError: the folder is missing, is no ingested set, or was written by another version.
        """
        storage = Storage(folder)
        text = storage.read(MANIFEST)
        if text is None:
            state = "has no manifest.json" if storage.exists() else "does not exist"
            raise DataError(f"data set {storage.name!r} {state}", f"make it with: {_ingest_command(folder)}")
        try:
            tree = json.loads(text)
            version = tree.get("format_version")
            if version == FORMAT_VERSION:
                return cls(**tree | {"shards": [Shard(**shard) for shard in tree["shards"]]})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            path = f"{storage.name}/{MANIFEST}"
            again = f"rm {path} && {_ingest_command(folder)}" if storage.local else _ingest_command(folder)
            raise DataError(f"{path} is damaged: {error}", f"ingest it again: {again}") from error
        raise DataError(
            f"data set {storage.name!r} has format {version}, this version reads {FORMAT_VERSION}",
            f"ingest it again: {_ingest_command(folder)}",
        )


def _ingest_command(folder: str | Path) -> str:
    return f"python -m ray_jobs.ingest --config ingest --set output={Storage(folder).name}"
