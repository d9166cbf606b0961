"""The order of samples: a bijection in every epoch, exact shares, and the same for any start and any workers."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setok.data.permutation import derive_key, permute
from setok.data.plan import WINDOW, Plan, block_positions, num_blocks, rank_slots, step_of
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


# ---------------------------------------------------------------- caps


def test_max_samples_is_one_subset_for_all_epochs() -> None:
    source, row, epoch = Plan(5, [1000, 50], [1.0, 1.0], max_samples=[30, None]).samples(0, 200)
    capped = row[source == 0]
    assert len(set(capped.tolist())) == 30
    for turn in range(int(epoch[source == 0].max())):
        assert sorted(capped[epoch[source == 0] == turn]) == sorted(set(capped.tolist()))
    assert max(capped) > 500  # not the first ones of the set
    others = set(Plan(6, [1000], [1.0], max_samples=[30]).samples(0, 30)[1].tolist())
    assert others != set(capped.tolist())
    whole = Plan(5, [1000], [1.0]).samples(0, 2000)
    for more in (1000, 10**6):  # a cap that takes nothing away changes nothing
        np.testing.assert_array_equal(Plan(5, [1000], [1.0], max_samples=[more]).samples(0, 2000)[1], whole[1])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.lists(st.tuples(st.integers(1, 9000), st.floats(0.05, 1.0), st.integers(1, 3)), min_size=1, max_size=4),
)
def test_max_epochs_is_exact_and_the_rest_goes_to_the_others(seed: int, sources: list[tuple[int, float, int]]) -> None:
    rows, weights, epochs = ([source[i] for source in sources] for i in range(3))
    plan = Plan(seed, rows, weights, max_epochs=epochs)
    totals = [n * e for n, e in zip(rows, epochs, strict=True)]
    assert plan.length == sum(totals)
    source, row, epoch = plan.samples(0, plan.length)
    assert np.bincount(source, minlength=len(rows)).tolist() == totals
    for index, turns in enumerate(epochs):
        for turn in range(turns):
            np.testing.assert_array_equal(np.sort(row[(source == index) & (epoch == turn)]), np.arange(rows[index]))
    order = np.argsort(np.random.default_rng(0).random(plan.length))[:50]
    again = plan.samples_at(order.astype(np.int64))
    for column, part in zip((source, row, epoch), again, strict=True):
        np.testing.assert_array_equal(column[order], part)
    with pytest.raises(DataError, match=rf"position {plan.length} of a plan of {plan.length} samples"):
        plan.samples(plan.length, plan.length + 1)


def test_a_capped_source_leaves_after_its_last_sample_and_not_before() -> None:
    free, capped = (
        Plan(5, [2000, 7000, 900], [0.5, 0.3, 0.2]),
        Plan(5, [2000, 7000, 900], [0.5, 0.3, 0.2], max_epochs=[5, None, None]),
    )
    assert capped.length is None
    source = capped.samples(0, 40 * WINDOW)[0]
    end = int(np.flatnonzero(source == 0)[9_999]) + 1
    assert not (source[end:] == 0).any()
    for one, other in zip(capped.samples(0, end), free.samples(0, end), strict=True):
        np.testing.assert_array_equal(one, other)  # until then as if there were no cap
    for at in range(end, end + 3 * WINDOW, WINDOW):  # and then 3 : 2 in windows that start there
        shares = np.bincount(source[at : at + WINDOW], minlength=3)
        np.testing.assert_allclose(shares / WINDOW, [0, 0.6, 0.4], atol=1 / WINDOW)
    later = capped.samples(end, end + 30 * WINDOW)
    first = capped.samples(0, end)
    for index in (1, 2):  # their own epochs go on where they were
        draws = np.concatenate([part[1][part[0] == index] for part in (first, later)])
        rows = capped.num_rows[index]
        for turn in range(len(draws) // rows):
            np.testing.assert_array_equal(np.sort(draws[turn * rows : (turn + 1) * rows]), np.arange(rows))


def test_both_caps_together() -> None:
    source, row, _ = (plan := Plan(1, [100, 100], [1.0, 1.0], [10, None], [3, 1])).samples(0, 130)
    assert plan.length == 130
    assert sorted(np.unique(row[source == 0], return_counts=True)[1].tolist()) == [3] * 10


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**7), st.integers(1, 200))
def test_samples_do_not_depend_on_where_one_starts(start: int, length: int) -> None:
    plan = Plan(11, [1234, 77, 900], [2.0, 1.0, 2.0], [None, 50, None], [None, None, 1000])
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
    seen = np.zeros(1_000_000, np.uint8)
    tracemalloc.start()
    plan = Plan(0, [1_000_000], [1.0])
    for start in range(0, 1_000_000, WINDOW):
        seen[plan.samples(start, min(start + WINDOW, 1_000_000))[1]] += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (seen == 1).all()
    assert peak < 20e6


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
    with pytest.raises(ConfigError, match="1 sources have 1 weights, 2 max_samples"):
        Plan(0, [5], [1.0], [1, 2])
    with pytest.raises(ConfigError, match="source 0 of the mixture has max_epochs 0"):
        Plan(0, [5], [1.0], max_epochs=[0])
    with pytest.raises(
        ConfigError, match=r"10 in micro-batches of 4 has nothing for some of 4[\s\S]*at most 3 workers"
    ):
        block_positions(0, start_step=0, steps_per_block=1, num_workers=4, global_batch_size=10, micro_batch_size=4)


@settings(deadline=None, max_examples=300)
@given(size=st.integers(1, 60), micro=st.integers(1, 9), data=st.data())
def test_every_number_of_workers_gets_the_same_micro_batches(size: int, micro: int, data: st.DataObject) -> None:
    whole = [list(range(at, min(at + micro, size))) for at in range(0, size, micro)]
    num_workers = data.draw(st.integers(1, len(whole)))
    sizes = {"num_workers": num_workers, "global_batch_size": size, "micro_batch_size": micro}
    ranks = [rank_slots(rank, **sizes).reshape(-1, micro).tolist() for rank in range(num_workers)]
    assert {len(rank) for rank in ranks} == {-(-len(whole) // num_workers)}, "all ranks run as many"
    real = [[[slot for slot in part if slot >= 0] for part in rank] for rank in ranks]
    assert [part for rank in real for part in rank if part] == whole
    assert all(rank[0] for rank in real), "nobody is without samples"
    assert all(
        part[: len(kept)] == kept for r, k in zip(ranks, real, strict=True) for part, kept in zip(r, k, strict=True)
    )
    assert all(real[0]), "what rank 0 shows in its log is never padding alone"


def test_positions_of_padding_say_their_step() -> None:
    sizes = {"num_workers": 3, "global_batch_size": 7, "micro_batch_size": 2}
    of_blocks = {"start_step": 5, "stop_step": 7, "steps_per_block": 4} | sizes
    blocks = [block_positions(number, **of_blocks) for number in range(3)]
    assert [block.tolist() for block in blocks] == [
        [35, 36, 37, 38, 42, 43, 44, 45],
        [39, 40, -6, -6, 46, 47, -7, -7],
        [41, -6, -6, -6, 48, -7, -7, -7],
    ]
    for block in blocks:
        assert step_of(block, global_batch_size=7).tolist() == [5] * 4 + [6] * 4
