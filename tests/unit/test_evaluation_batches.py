"""Which samples go through the model together, and what is known after an evaluation was stopped."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.evaluation.batches import WINDOW, Item, batches_of
from ray_jobs.evaluation.journal import REQUEST, Journal, Shard, check
from setok.errors import ConfigError, DataError

# ---------------------------------------------------------------- batches

lengths = st.lists(st.tuples(st.sampled_from(["vqa", "edit"]), st.integers(1, 40)), max_size=60)


@settings(max_examples=100, deadline=None)
@given(lengths, st.integers(1, 8), st.integers(1, 120))
def test_every_sample_is_in_one_batch_that_fits(samples: list[tuple[str, int]], size: int, budget: int) -> None:
    items = [Item(index=i, asks=asks, length=length) for i, (asks, length) in enumerate(samples)]
    batches = batches_of(items, batch_size=size, max_tokens=budget)
    assert sorted(item.index for batch in batches for item in batch.items) == list(range(len(items)))
    assert [batch.number for batch in batches] == list(range(len(batches)))
    for batch in batches:
        longest = max(item.length for item in batch.items)
        assert len({item.asks for item in batch.items}) == 1
        assert len(batch.items) <= size
        assert len(batch.items) == 1 or len(batch.items) * longest <= budget


def test_like_lengths_are_together_and_equal_ones_in_order() -> None:
    items = [Item(index=i, asks="vqa", length=length) for i, length in enumerate((9, 3, 8, 3, 9, 3))]
    batches = batches_of(items, batch_size=3, max_tokens=100)
    assert [[item.index for item in batch.items] for batch in batches] == [[1, 3, 5], [2, 0, 4]]


def test_samples_that_are_far_apart_in_the_set_are_not_read_together() -> None:
    items = [Item(index=i, asks="vqa", length=1 + i % 2) for i in range(2 * WINDOW)]
    batches = batches_of(items, batch_size=64, max_tokens=10**6)
    assert all(max(i.index for i in b.items) - min(i.index for i in b.items) < WINDOW for b in batches)
    assert len(batches) == 2 * WINDOW // 64


# ---------------------------------------------------------------- the journal

SIZES = {0: 2, 1: 1, 2: 2}


def begun(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path, SIZES)
    journal.begin({"data": "a", "seed": 0})
    return journal


def test_what_was_written_is_known_and_what_was_being_written_is_not(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    first, second = Shard(journal.folder), Shard(journal.folder)
    first.append(2, [{"index": 3, "accuracy": 0.1}, {"index": 4, "accuracy": math.nan}])
    second.append(0, [{"index": 0}, {"index": 1}])
    second.append(1, [{"index": 2}])
    assert journal.finished() == {0, 1, 2}
    assert sorted(row["index"] for row in journal.rows()) == [0, 1, 2, 3, 4]
    assert {row["index"]: row for row in journal.rows()}[4]["accuracy"] is None
    whole = {path: path.read_bytes() for path in journal.folder.glob("*.jsonl")}
    (other,) = (path for path, data in whole.items() if b'"batch": 0' in data)
    for cut in range(len(whole[other])):  # killed at any byte
        other.write_bytes(whole[other][:cut])
        assert {2} <= journal.finished() <= {0, 1, 2}
        assert (0 in journal.finished()) == (whole[other][:cut].count(b"\n") >= 2)
        assert len(list(journal.rows())) == sum(SIZES[batch] for batch in journal.finished())


def test_a_batch_that_was_asked_twice_counts_once(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    for _ in range(2):
        Shard(journal.folder).append(0, [{"index": 0}, {"index": 1}])
    Shard(journal.folder).append(7, [{"index": 9}])  # of a plan that there is no more
    assert [row["index"] for row in journal.rows()] == [0, 1]


def test_another_request_is_refused_with_what_differs(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.begin({"data": "a", "seed": 0})
    with pytest.raises(ConfigError, match=r"unfinished .*seed was 0 and is 1, limit was None and is 5\n.*rm -r"):
        journal.begin({"data": "a", "seed": 1, "limit": 5})
    assert json.loads((journal.folder / REQUEST).read_text()) == {"data": "a", "seed": 0}
    journal.clear()
    assert not journal.folder.exists()
    check(tmp_path, {"data": "b"})


def test_an_infinite_figure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a figure of batch 3 is no number"):
        Shard(begun(tmp_path).folder).append(3, [{"index": 0, "psnr": math.inf}])
