"""Small files for the tests of the sources, and how they are read."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

from PIL import Image

from setok.config import SourceConfig
from setok.data.schema import Record
from setok.data.sources import BadRecord, open_source


def jpeg(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (12, 10)) -> bytes:
    """A picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG")
    return buffer.getvalue()


def shaded(shade: int = 90, size: tuple[int, int] = (12, 10)) -> bytes:
    """A picture of a shade of red; another shade makes other bytes."""
    return jpeg((shade, 30, 30), size)


def put(path: Path, content: Any) -> None:
    """Write bytes as they are and everything else as JSON, with the folders that are needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def answered(*answers: str) -> list[dict[str, Any]]:
    """A list of answers as VQA v2 and VizWiz have it."""
    return [{"answer": answer, "answer_confidence": "yes", "answer_id": n} for n, answer in enumerate(answers, 1)]


def read(kind: str, path: Path, **settings: Any) -> list[Record | BadRecord]:
    """All records of a source; any split of the range gives the same ones, also to another reader."""
    config = SourceConfig(kind=kind, path=str(path), **settings)
    source = open_source(config)
    source.check()
    count = len(source)
    records = list(source.records(0, count + 5))
    assert len(records) == count
    assert source.fingerprint() == open_source(config).fingerprint()
    assert len({record.id for record in records}) == count, "two records have one id"
    other = open_source(config)
    cuts = [0, count // 3, count // 3, count - 1, count]
    assert [record for start, stop in itertools.pairwise(cuts) for record in other.records(start, stop)] == records
    assert list(other.records(0, count // 2)) == records[: count // 2], "going back gives something else"
    return records


def good(records: list[Record | BadRecord]) -> list[Record]:
    """The records, none of which is bad."""
    assert not [record for record in records if isinstance(record, BadRecord)]
    return [record for record in records if isinstance(record, Record)]


def reasons(records: list[Record | BadRecord]) -> list[str]:
    """The kind of what is wrong with each record; empty for a good one."""
    return [record.reason.split(":")[0] if isinstance(record, BadRecord) else "" for record in records]


def texts(record: Record | BadRecord) -> list[str]:
    """The turns of a record, which must be a good one."""
    assert isinstance(record, Record), record
    return [turn.text for turn in record.conversation]
