"""Run lengths of masks, and COCO's compressed strings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setok.data import rle
from setok.errors import DataError


def compress(counts: list[int]) -> str:
    """The inverse of ``rle.decompress``, after cocoapi's ``rleToString``."""
    text = ""
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            digit, value = value & 0x1F, value >> 5
            more = value != -1 if digit & 0x10 else value != 0
            text += chr((digit | 0x20 if more else digit) + 48)
    return text


def test_column_major_with_background_first() -> None:
    mask = np.array([[0, 1, 1], [0, 0, 1]], bool)
    assert rle.encode(mask) == [2, 1, 1, 2]
    assert rle.encode(~mask) == [0, 2, 1, 1, 2]
    np.testing.assert_array_equal(rle.decode([2, 1, 1, 2], 2, 3), mask)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32))
def test_round_trip(height: int, width: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    counts = rle.encode(mask)
    np.testing.assert_array_equal(rle.decode(counts, height, width), mask)
    assert rle.decompress(compress(counts)) == counts


def test_encode_map_is_encode_of_every_value() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (9, 7))
    for value, counts in zip([3, 0, 8], rle.encode_map(labels, [3, 0, 8]), strict=True):
        assert counts == rle.encode(labels == value)


def test_empty_and_full_masks() -> None:
    assert rle.encode(np.zeros((2, 2), bool)) == [4]
    assert rle.encode(np.ones((2, 2), bool)) == [0, 4]


@pytest.mark.parametrize("counts", [[3], [5], [-1, 5]])
def test_runs_that_do_not_fit(counts: list[int]) -> None:
    with pytest.raises(DataError, match=r"2 × 2 = 4 pixels"):
        rle.decode(counts, 2, 2)


def test_compressed_string_that_is_cut_off() -> None:
    with pytest.raises(DataError, match="middle of a number"):
        rle.decompress(compress([100, 2000])[:-1])


def test_official_compressed_strings(realdata: Path) -> None:
    rows = json.loads((realdata / "coco/annotations/stuff_val2017.json").read_text())["annotations"]
    assert len(rows) == 94
    for row in rows:
        height, width = row["segmentation"]["size"]
        counts = rle.counts_of(row["segmentation"])
        assert rle.decode(counts, height, width).sum() == row["area"]
        assert compress(counts) == row["segmentation"]["counts"]
