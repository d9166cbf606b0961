"""What an ingest has done so far: an entry for every finished part, in a folder beside the shards.

An entry is written when the files of its part are in place, and has their checksums. So an ingest that is started again
knows what is done, whatever became of the process that did it.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, field

from setok.config import IngestConfig, SourceConfig
from setok.data.schema import Shard
from setok.data.shards import size_problems
from setok.data.storage import Storage, beside

JOURNAL = ".journal"
HELDOUT_SUFFIX = "-heldout"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Records ``start`` to ``stop`` − 1 of one source."""

    index: int
    source: SourceConfig
    start: int
    stop: int
    digest: str
    """Changes when anything does that decides what the part holds."""


@dataclass(kw_only=True)
class Content:
    """What one output folder got of a part."""

    shards: list[Shard] = field(default_factory=list)
    tasks: dict[str, dict[str, int]] = field(default_factory=dict)
    """Records by source and task."""
    num_images: int = 0
    image_bytes: int = 0

    @property
    def num_rows(self) -> int:
        return sum(shard.rows for shard in self.shards)


@dataclass(kw_only=True)
class Entry:
    """What the journal knows of a finished part."""

    digest: str
    contents: list[Content]
    """For each output folder."""
    bad: list[dict[str, str]] = field(default_factory=list)
    keys: bytes = b""
    """16 bytes for each stored record, in the order of the source: equal for duplicates."""
    held_out: list[int] = field(default_factory=list)
    """Which of them went to the held-out folder."""

    @property
    def num_rows(self) -> int:
        return sum(content.num_rows for content in self.contents)

    def to_json(self) -> bytes:
        return json.dumps(asdict(self) | {"keys": base64.b64encode(self.keys).decode()}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Entry:
        """The inverse of ``to_json``.

        Raises:
            ValueError, TypeError, KeyError: this is no entry.
        """
        tree = json.loads(text)
        contents = [
            Content(**content | {"shards": [Shard(**shard) for shard in content["shards"]]})
            for content in tree["contents"]
        ]
        return cls(**tree | {"contents": contents, "keys": base64.b64decode(tree["keys"])})


def heldout_folder(config: IngestConfig) -> str:
    """Where the held-out records go."""
    return beside(config.output, HELDOUT_SUFFIX)


def folders_of(config: IngestConfig) -> list[Storage]:
    """The output folders: the set, and the held-out records if there are to be any."""
    return [Storage(config.output), *([Storage(heldout_folder(config))] if config.holdout_fraction else [])]


def read_entry(config: IngestConfig, index: int, *, unique: bool = False) -> Entry | None:
    """A part's entry, if there is one that can be read; with ``unique`` that of the part without duplicates."""
    text = Storage(config.output).read(_entry_file(index, unique=unique))
    if text is None:
        return None
    try:
        return Entry.from_json(text)
    except (ValueError, TypeError, KeyError):
        return None


def write_entry(config: IngestConfig, index: int, entry: Entry, *, unique: bool = False) -> None:
    """Note that a part is finished; its files must be in their places."""
    Storage(config.output).write(_entry_file(index, unique=unique), entry.to_json())


def _entry_file(index: int, *, unique: bool) -> str:
    return f"{JOURNAL}/part-{index:05d}{'-unique' if unique else ''}.json"


def finished_entry(config: IngestConfig, index: int, digest: str, *, unique: bool = False) -> Entry | None:
    """The entry of a part that need not be made again: asked for the same, and all its files have their checksums."""
    entry = read_entry(config, index, unique=unique)
    if entry is None or entry.digest != digest:
        return None
    for storage, content in zip(folders_of(config), entry.contents, strict=True):
        if content.shards and size_problems(storage, content.shards):
            return None
        if any(storage.sha256(shard.file) != shard.sha256 for shard in content.shards):
            return None
    return entry
