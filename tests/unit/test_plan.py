"""The order of samples: a bijection in every epoch, exact shares, and the same for any start and any workers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setok.data.plan import WINDOW, Plan, block_positions, derive_key, num_blocks, permute
from setok.errors import ConfigError, DataError


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**63))
def test_permute_is_a_bijection_for_every_key(size: int, seed: int) -> None:
    out = permute(np.arange(size, dtype=np.uint64), size, derive_key(seed))
    np.testing.assert_array_equal(np.sort(out), np.arange(size))


def test_keys_for_each_index_are_keys_for_all() -> None:
    index = np.arange(100, dtype=np.uint64)
    keys = derive_key(1, np.arange(100, dtype=np.uint64) % np.uint64(2))
    mixed = permute(index, 1000, keys)
    for parity in (0, 1):
        alone = permute(index, 1000, derive_key(1, parity))
        np.testing.assert_array_equal(mixed[parity::2], alone[parity::2])


def test_all_orders_of_few_rows_come_up_about_equally_often() -> None:
    keys = derive_key(0, np.repeat(np.arange(2400, dtype=np.uint64), 4))
    orders = permute(np.tile(np.arange(4, dtype=np.uint64), 2400), 4, keys).reshape(2400, 4)
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert 60 < counts.min() <= counts.max() < 140


def test_order_has_no_correlation_with_the_rows() -> None:
    row = Plan(1, [100_000], [1.0]).samples(0, 100_000)[1]
    assert abs(np.corrcoef(np.arange(len(row)), row)[0, 1]) < 0.02
    assert abs(np.corrcoef(row[:-1], row[1:])[0, 1]) < 0.02


@pytest.mark.parametrize("rows", [1, 2, 7, 1000])
def test_one_source_gives_every_row_once_an_epoch(rows: int) -> None:
    source, row, epoch = Plan(3, [rows], [1.0]).samples(0, 3 * rows)
    assert not source.any()
    np.testing.assert_array_equal(epoch, np.repeat([0, 1, 2], rows))
    for turn in row.reshape(3, rows):
        np.testing.assert_array_equal(np.sort(turn), np.arange(rows))
    if rows == 1000:
        assert (row[:rows] != row[rows : 2 * rows]).any()


def test_shares_are_exact_in_every_window_and_epochs_exact_in_every_source() -> None:
    plan = Plan(5, [300, 7000, 40], [0.7, 0.3, 1e-9])
    assert plan.shares == (11_468, 4_915, 1)
    source, row, epoch = plan.samples(0, 5 * WINDOW)
    for window in source.reshape(5, WINDOW):
        assert tuple(np.bincount(window, minlength=3)) == plan.shares
    for index, rows in enumerate(plan.num_rows):
        own = source == index
        for turn in range(int(epoch[own].max())):  # the last one may be unfinished
            np.testing.assert_array_equal(np.sort(row[own & (epoch == turn)]), np.arange(rows))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**7), st.integers(1, 200))
def test_samples_do_not_depend_on_where_one_starts(start: int, length: int) -> None:
    plan = Plan(11, [1234, 77], [2.0, 1.0])
    whole = plan.samples(start, start + length)
    cut = length // 3
    parts = [plan.samples(start, start + cut), plan.samples(start + cut, start + length)]
    for column, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(column, np.concatenate(pieces))
    backwards = plan.samples_at(np.arange(start, start + length)[::-1].copy())
    np.testing.assert_array_equal(backwards[1][::-1], whole[1])


def test_seeds_and_sources_have_orders_of_their_own() -> None:
    first, second = (Plan(seed, [1000], [1.0]).samples(0, 1000)[1] for seed in (0, 1))
    assert (first == second).mean() < 0.05
    source, row, _ = Plan(0, [1000, 1000], [1.0, 1.0]).samples(0, WINDOW)
    assert (row[source == 0][:1000] == row[source == 1][:1000]).mean() < 0.05


def test_golden_positions() -> None:
    """The order of finished runs: a change here breaks resuming them."""
    assert Plan(7, [1000], [1.0]).samples(0, 8)[1].tolist() == [831, 678, 712, 447, 112, 381, 995, 940]
    source, row, epoch = Plan(7, [5, 9], [1.0, 3.0]).samples(10 * WINDOW, 10 * WINDOW + 8)
    assert source.tolist() == [1, 0, 1, 1, 1, 1, 1, 0]
    assert row.tolist() == [0, 4, 4, 7, 8, 6, 1, 1]
    assert epoch.tolist() == [13653, 8192, 13653, 13653, 13653, 13653, 13653, 8192]


def test_a_million_rows() -> None:
    _, row, _ = Plan(0, [1_000_000], [1.0]).samples(0, 1_000_000)
    assert np.bincount(row).tolist().count(1) == 1_000_000


@pytest.mark.parametrize("start_step", [0, 13])
@pytest.mark.parametrize("num_workers", [1, 2, 3, 4])
def test_blocks_dealt_round_give_the_same_global_batches(num_workers: int, start_step: int) -> None:
    stop_step, size, share = start_step + 10, 12, 12 // num_workers
    of_blocks = {"start_step": start_step, "stop_step": stop_step, "steps_per_block": 4, "num_workers": num_workers}
    ranks: list[list[int]] = [[] for _ in range(num_workers)]
    for block in range(num_blocks(**of_blocks)):
        ranks[block % num_workers] += block_positions(block, global_batch_size=size, **of_blocks).tolist()
    for step in range(start_step, stop_step):
        own = slice((step - start_step) * share, (step - start_step + 1) * share)
        batch = [position for rank in ranks for position in rank[own]]
        assert batch == list(range(step * size, (step + 1) * size))
    assert {len(rank) for rank in ranks} == {10 * share}


def test_blocks_past_the_end_are_empty() -> None:
    positions = block_positions(0, start_step=5, stop_step=5, steps_per_block=4, num_workers=2, global_batch_size=8)
    assert positions.tolist() == []
    assert num_blocks(start_step=5, stop_step=5, steps_per_block=4, num_workers=2) == 0


def test_what_no_plan_can_do() -> None:
    with pytest.raises(DataError, match="source 1 of the mixture has 0 rows"):
        Plan(0, [5, 0], [1.0, 1.0])
    with pytest.raises(ConfigError, match=r"weight 0\.0"):
        Plan(0, [5], [0.0])
    with pytest.raises(ConfigError, match="2 sources have 1 weights"):
        Plan(0, [5, 5], [1.0])
    with pytest.raises(ConfigError, match="global batch of 10 does not divide among 4"):
        block_positions(0, start_step=0, steps_per_block=1, num_workers=4, global_batch_size=10)
