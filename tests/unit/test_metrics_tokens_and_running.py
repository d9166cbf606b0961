"""Token statistics by hand, and accumulators that must not care how images were split."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from setok.errors import DataError
from setok.metrics.running import ImageRows, MeanImage, correlation_of, deviation_of, mean_of
from setok.metrics.tokens import concept_hit_rate, correlation, mean_similarity


def test_correlation_is_numpys_and_guards_what_does_not_vary() -> None:
    x, y = np.array([1, 2, 3, 5]), np.array([2, 1, 4, 6])
    assert correlation(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert correlation(x, np.full(4, 7)) == 0
    assert math.isnan(correlation(np.array([1]), np.array([1])))


def test_mean_similarity_leaves_padding_out() -> None:
    tokens = torch.tensor([[[1.0, 0], [0, 2], [3, 0]], [[1, 0], [5, 0], [9, 9]], [[1, 0], [7, 7], [7, 7]]])
    mask = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    got = mean_similarity(tokens, mask).tolist()
    assert got[:2] == pytest.approx([1 / 3, 1])
    assert math.isnan(got[2])


def test_concept_hit_rate() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.8, 0.2], [0.5, 0.5, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4]])
    present = torch.tensor([[True, False, False, True], [True, False, False, False], [False, False, False, False]])
    got = concept_hit_rate(scores, present).tolist()
    assert got[:2] == [0.5, 1]
    assert math.isnan(got[2])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 5), min_size=6, max_size=30), st.permutations(range(4)), st.integers(0, 2**16))
def test_rows_do_not_care_how_they_were_split_or_merged(sizes: list[int], order: list[int], seed: int) -> None:
    count = sum(sizes)
    values = np.random.default_rng(seed).normal(size=count) * 10.0 ** np.arange(count)
    values[::5] = np.nan
    whole = ImageRows()
    whole.update({"index": np.arange(count), "x": values})
    workers = [ImageRows() for _ in range(4)]
    start = 0
    for number, size in enumerate(sizes):
        rows = slice(start, start + size)
        workers[number % 4].update({"index": np.arange(count)[rows], "x": values[rows]})
        start += size
    merged = ImageRows()
    for number in order:
        merged = merged.merge(pickle.loads(pickle.dumps(workers[number])))
    assert len(merged) == count
    assert merged.compute() == whole.compute()
    assert np.array_equal(merged.table()["x"], whole.table()["x"], equal_nan=True)


def test_rows_refuse_what_cannot_be_merged() -> None:
    rows = ImageRows()
    rows.update({"index": np.array([0, 1]), "x": np.array([1.0, 2.0])})
    with pytest.raises(DataError, match="'y'"):
        rows.update({"index": np.array([2]), "y": np.array([1.0])})
    with pytest.raises(DataError, match="lengths"):
        rows.update({"index": np.array([2]), "x": np.array([1.0, 2.0])})
    with pytest.raises(DataError, match="index"):
        ImageRows().update({"x": np.array([1.0])})
    again = ImageRows()
    again.update({"index": np.array([1]), "x": np.array([2.0])})
    with pytest.raises(DataError, match="image number 1 was evaluated twice"):
        rows.merge(again).compute()


def test_figures_that_do_not_apply_are_none() -> None:
    rows = ImageRows()
    assert rows.compute() == {}
    rows.update({"index": np.array([0]), "x": np.array([np.nan]), "id": np.array(["a"])})
    assert rows.compute() == {"x": None}
    assert mean_of(np.array([1.0, np.nan, 3.0])) == 2
    assert deviation_of(np.array([1.0, np.nan, 3.0])) == 1
    assert deviation_of(np.array([np.nan])) is None
    assert correlation_of(np.array([1.0, 2.0, np.nan]), np.array([2.0, 4.0, 0.0])) == pytest.approx(1)
    assert correlation_of(np.array([1.0]), np.array([2.0])) is None


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(5)))
def test_mean_image_is_exact_in_any_order(order: list[int]) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 2, 3, 4, 4), dtype=np.uint8)
    merged = MeanImage()
    for number in order:
        part = MeanImage()
        part.update(pictures[number])
        merged = merged.merge(part)
    assert merged.count == 10
    expected = (pictures.reshape(10, 3, 4, 4).astype(np.int64).sum(0) / 2550).astype(np.float32)
    assert np.array_equal(merged.compute(), expected)


def test_mean_of_no_pictures() -> None:
    with pytest.raises(DataError, match="no picture"):
        MeanImage().compute()
