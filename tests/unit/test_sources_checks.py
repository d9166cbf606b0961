"""What ``Source.records`` looks for in every record, whichever source it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from setok.config import SourceConfig
from setok.data.schema import EncodedImage, Record, Turn
from setok.data.sources import BadRecord, Requirement, Source, open_source
from setok.data.sources.base import MAX_CHARACTERS, read_image
from setok.errors import ConfigError, DataError

QUESTION, ANSWER = Turn(role="user", text="<image>\nWhat?"), Turn(role="assistant", text="A cat.")
WHOLE = Record(id="a", source="s", task="dialogue", images=[EncodedImage(data=b"x")], conversation=[QUESTION, ANSWER])


class FixedSource(Source):
    name: ClassVar[str] = "fixed"
    items: ClassVar[list[Record | BadRecord]] = []

    @property
    def requirements(self) -> list[Requirement]:
        return []

    def _count(self) -> int:
        return len(self.items)

    def _record(self, index: int) -> Record | BadRecord:
        return self.items[index]

    def _files(self) -> Iterable[Path]:
        return []


def through(item: Record | BadRecord, monkeypatch: pytest.MonkeyPatch) -> Record | BadRecord:
    monkeypatch.setattr(FixedSource, "items", [item])
    return next(FixedSource(SourceConfig(kind="fixed", path=".")).records(0, 1))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"images": []}, "slots and input images differ: 1 slots, 0 input images"),
        ({"images": WHOLE.images * 2}, "slots and input images differ: 1 slots, 2 input images"),
        ({"conversation": [QUESTION, Turn(role="assistant", text="<image>")]}, "slots and target images differ: 1"),
        ({"conversation": [QUESTION, Turn(role="assistant", text="<mask>")]}, "slots and masks differ: 1 slots, 0"),
        ({"conversation": [QUESTION, Turn(role="assistant", text=" \n")]}, "empty answer: turn 2 (assistant)"),
        ({"conversation": [QUESTION, Turn(role="gpt", text="A cat.")]}, "unknown role: 'gpt'"),
        ({"task": "chat"}, "unknown task: 'chat'"),
        ({"caption": "an <image> of a cat"}, "stray <image>: in the caption"),
        ({"answers": ["a", "<mask>"]}, "stray <mask>: in an answer"),
        ({"caption": "x" * MAX_CHARACTERS}, "text too long: the caption has 100000 characters, less than 100000"),
        ({"answers": ["x" * MAX_CHARACTERS]}, "text too long: an answer has"),
        ({"conversation": [QUESTION, Turn(role="assistant", text="é" * MAX_CHARACTERS)]}, "text too long: turn 2"),
        ({"caption": "a \ud83d cat"}, "text is not Unicode: the caption has half a surrogate pair at 2"),
    ],
)
def test_bad_records(changes: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = through(replace(WHOLE, **changes), monkeypatch)
    assert isinstance(bad, BadRecord)
    assert bad.id == "a"
    assert bad.reason.startswith(reason)


@pytest.mark.parametrize(
    "record",
    [
        WHOLE,
        replace(WHOLE, conversation=[QUESTION]),
        replace(WHOLE, caption="x" * (MAX_CHARACTERS - 1)),
        Record(id="b", source="s", images=[EncodedImage(data=b"x")]),
        Record(id="b", source="s", task="text", caption="Ein Satz 🐈."),
    ],
)
def test_whole_records_pass_as_they_are(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    assert through(record, monkeypatch) is record


def test_bad_records_pass_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = BadRecord(id="a", reason="image file missing: a.jpg")
    assert through(bad, monkeypatch) is bad


def test_file_names_that_no_disk_has() -> None:
    with pytest.raises(DataError, match="impossible file name"):
        read_image(Path("a\0b.jpg"))


@pytest.mark.parametrize("kind", ["text", "webdataset"])
def test_images_are_refused_where_there_are_none(kind: str) -> None:
    with pytest.raises(
        ConfigError, match=r"images='/pictures': source '.*' has no folder of pictures\n.*leave images out"
    ):
        open_source(SourceConfig(kind=kind, path=".", images="/pictures"))
