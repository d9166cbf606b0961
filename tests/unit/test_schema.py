"""The canonical record: slots fit pictures and masks, and a row holds all of it."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from setok.data.schema import ARROW_SCHEMA, Box, EncodedImage, Mask, Record, Segment, Turn
from setok.errors import DataError

RECORD = Record(
    id="a/1",
    source="test",
    task="edit",
    images=[EncodedImage(data=b"one"), EncodedImage(data=b"two", role="target")],
    conversation=[
        Turn(role="system", text="Be brief."),
        Turn(role="user", text="<image>\nMake it red, and point at it."),
        Turn(role="assistant", text="<image> <mask>"),
    ],
    caption="a cup",
    concepts=["cup"],
    segments=[Segment(counts=[0, 4], height=2, width=2, category="cup", is_thing=True)],
    masks=[Mask(counts=[1, 3], height=2, width=2)],
    boxes=[Box(label="cup", x0=0.25, y0=0.0, x1=1.0, y1=0.5, is_group=True)],
    answers=["yes", "no"],
    choices=["yes", "no"],
    provenance={"question_id": "7"},
)


def test_a_row_of_the_arrow_schema_holds_all_of_a_record() -> None:
    table = pa.Table.from_pylist([RECORD.to_row()], ARROW_SCHEMA)
    assert Record.from_row(table.to_pylist()[0]) == RECORD
    RECORD.check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": RECORD.images[:1]}, "slots and target images differ: 1 slots, 0"),
        ({"images": RECORD.images[1:]}, "slots and input images differ: 1 slots, 0"),
        ({"images": [*RECORD.images, EncodedImage(data=b"")]}, "slots and input images differ: 1 slots, 2"),
        ({"masks": []}, "slots and masks differ: 1 slots, 0"),
        ({"task": "captoin"}, "did you mean 'caption'"),
        ({"conversation": [Turn(role="human", text="hi")]}, "unknown role: 'human'"),
        ({"images": [EncodedImage(data=b"", role="output")]}, "unknown role: 'output'"),
    ],
)
def test_parts_that_do_not_fit_together(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(RECORD, **change).check()


def test_a_record_without_conversation_may_have_any_pictures() -> None:
    replace(RECORD, conversation=[], masks=[]).check()
