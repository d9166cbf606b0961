"""Which records are the same, against sets of Python's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.ingesting.duplicates import record_key, repeated
from setok.data.schema import EncodedImage, Mask, Record, Turn

RECORD = Record(
    id="a",
    source="one",
    task="vqa",
    images=[EncodedImage(data=b"picture"), EncodedImage(data=b"other", role="target")],
    conversation=[Turn(role="user", text="what?"), Turn(role="assistant", text="a cat")],
    caption="a cat",
    answers=["cat", "dog"],
    choices=["cat"],
    masks=[Mask(counts=[0, 4], height=2, width=2)],
)


def test_where_a_record_comes_from_plays_no_part() -> None:
    assert record_key(RECORD) == record_key(replace(RECORD, id="b", source="two", provenance={"x": "1"}))
    assert len(record_key(RECORD)) == 16


@pytest.mark.parametrize(
    "change",
    [
        {"images": RECORD.images[:1]},
        {"images": RECORD.images[::-1]},
        {"images": [EncodedImage(data=b"picture"), EncodedImage(data=b"other")]},
        {"images": [EncodedImage(data=b"pictureother"), EncodedImage(data=b"", role="target")]},
        {"conversation": [Turn(role="user", text="where?"), RECORD.conversation[1]]},
        {"conversation": [Turn(role="assistant", text="what?"), RECORD.conversation[1]]},
        {"caption": ""},
        {"answers": ["catdog"]},
        {"answers": ["cat"], "choices": ["dog", "cat"]},
        {"answers": ["cat", "dog", "cat"], "choices": []},
        {"masks": [Mask(counts=[0, 4], height=4, width=1)]},
        {"masks": []},
    ],
)
def test_any_other_difference_makes_another_record(change: dict[str, Any]) -> None:
    assert record_key(replace(RECORD, **change)) != record_key(RECORD)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=40))
def test_the_first_in_order_stays(pairs: list[tuple[int, int]]) -> None:
    keys = np.array(pairs, np.uint64).reshape(-1, 2)
    assert repeated(keys).tolist() == [pair in pairs[:index] for index, pair in enumerate(pairs)]
