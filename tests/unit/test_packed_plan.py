"""Packing: every sample once, no pack over the budget, and the same packs from any step and for any chunk read first."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setok.data.packed_plan import CHUNK, GROUP, PackedPlan, TooLongError, best_fit_decreasing
from setok.data.plan import Plan
from setok.errors import ConfigError, DataError

BUDGET = 512


def lengths(rows: int, seed: int = 0, longest: int = BUDGET) -> np.ndarray:
    """Many short ones, few long ones, as texts are."""
    return np.clip(np.random.default_rng(seed).lognormal(4.5, 0.9, rows), 1, longest).astype(np.int32)


def packed(num_rows: list[int], *, max_epochs: int | None = None, seed: int = 0, **changes: object) -> PackedPlan:
    plan = Plan(seed, num_rows, [1.0 + i for i in range(len(num_rows))], max_epochs=[max_epochs] * len(num_rows))
    arguments = {"budget": BUDGET, "rows_per_step": 8} | changes
    return PackedPlan(plan, [lengths(rows, i) for i, rows in enumerate(num_rows)], **arguments)  # type: ignore[arg-type]


def slow_best_fit(sizes: list[int], budget: int) -> list[int]:
    packs: list[list[int]] = []
    for item in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        room = [budget - sum(sizes[i] for i in pack) for pack in packs]
        fits = [i for i, free in enumerate(room) if free >= sizes[item]]
        if fits:
            packs[min(fits, key=lambda i: (room[i], i))].append(item)
        else:
            packs.append([item])
    return [next(min(pack) for pack in packs if item in pack) for item in range(len(sizes))]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=60))
def test_best_fit_is_that_of_the_textbook(sizes: list[int]) -> None:
    owners = best_fit_decreasing(np.array(sizes, np.int64), 60)
    assert owners.tolist() == slow_best_fit(sizes, 60)


def test_every_sample_once_and_no_pack_over_the_budget() -> None:
    plan = packed([20_000, 7_000], max_epochs=1)
    steps = plan.num_steps()
    assert steps is not None
    num_packs = plan.first_packs[-1]
    assert steps == num_packs // 8
    positions, starts = plan.packs(0, num_packs)
    np.testing.assert_array_equal(np.sort(positions), np.arange(27_000))
    source, row, _ = plan.plan.samples_at(positions)
    tokens = np.where(source == 0, lengths(20_000)[row % 20_000], lengths(7_000, 1)[row % 7_000])
    sums = np.add.reduceat(tokens, starts[:-1])
    assert 0 < sums.max() <= BUDGET
    assert sums.sum() / (num_packs * BUDGET) == pytest.approx(plan.efficiency(0, num_packs))
    assert plan.efficiency(0, num_packs) > 0.97
    for pack in np.split(positions, starts[1:-1]):
        assert len(pack) and (np.diff(pack) > 0).all()
        assert pack[0] // GROUP == pack[-1] // GROUP
    firsts = positions[starts[:-1]]
    assert (np.diff(firsts // GROUP) >= 0).all()
    assert (np.diff(firsts)[np.diff(firsts // GROUP) == 0] > 0).all()
    with pytest.raises(DataError, match=rf"27000 samples fill {num_packs} packs, which is {steps} steps of 8"):
        plan.packs(num_packs, num_packs + 1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9_000), st.integers(0, 300))
def test_packs_do_not_depend_on_what_was_read_before(start: int, count: int) -> None:
    whole = packed([5_000, 3_000], seed=3)
    positions, starts = whole.packs(start, start + count)
    assert len(starts) == count + 1
    cut = start + count // 3
    for fresh in (packed([5_000, 3_000], seed=3), packed([5_000, 3_000], seed=3, first_packs=whole.first_packs)):
        late, early = fresh.packs(cut, start + count), fresh.packs(start, cut)
        np.testing.assert_array_equal(np.concatenate([early[0], late[0]]), positions)
        np.testing.assert_array_equal(np.concatenate([early[1], early[1][-1] + late[1][1:]]), starts)


def test_packs_change_with_what_they_depend_on() -> None:
    def first(**changes: object) -> list[int]:
        positions, starts = packed([5_000], **changes).packs(0, 50)  # type: ignore[arg-type]
        return [*positions.tolist(), *starts.tolist()]

    assert first() == first()
    assert first() != first(budget=600)
    assert first() != first(seed=1)


def test_a_sample_that_is_too_long() -> None:
    rows = lengths(3_000)
    rows[1234] = BUDGET + 1
    plan = Plan(0, [3_000], [1.0])
    strict = PackedPlan(plan, [rows], budget=BUDGET, rows_per_step=8)
    with pytest.raises(TooLongError, match="row 1234 of source 0 has 513 tokens, a row of the batch has 512") as caught:
        strict.packs(0, 1)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.source, again.row, str(again)) == (0, 1234, str(caught.value))
    masking = PackedPlan(plan, [rows], budget=BUDGET, rows_per_step=8, too_long="mask")
    source, row, _ = plan.samples_at(masking.packs(0, 600)[0])
    bad = masking.is_too_long(source, row)
    assert bad.any() and set(row[bad]) == {1234}
    PackedPlan(Plan(0, [3_000], [1.0]), [np.full(3_000, BUDGET, np.int32)], budget=BUDGET, rows_per_step=8).packs(0, 9)


def test_a_million_rows_in_little_memory() -> None:
    rows = lengths(1_000_000)
    tracemalloc.start()
    plan = PackedPlan(Plan(0, [1_000_000], [1.0], max_epochs=[1]), [rows], budget=BUDGET, rows_per_step=64)
    steps = plan.num_steps()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert steps is not None and steps > rows.sum() / BUDGET / 64 - 1
    assert len(plan.first_packs) == -(-1_000_000 // CHUNK) + 1
    assert peak < 20e6


def test_golden_packs() -> None:
    """The order of finished runs: a change here breaks resuming them."""
    positions, starts = packed([5_000, 3_000], seed=7).packs(1000, 1004)
    assert positions.tolist() == [3656, 3926, 3658, 3728, 3741, 3665, 3845, 3669, 3752, 4004]
    assert starts.tolist() == [0, 2, 5, 7, 10]


def test_what_no_packed_plan_can_do() -> None:
    with pytest.raises(ConfigError, match="budget=0"):
        packed([10], budget=0)
    plan = Plan(0, [10], [1.0])
    with pytest.raises(DataError, match="1 sources have 0 arrays"):
        PackedPlan(plan, [], budget=9, rows_per_step=1)
    for wrong in (np.ones(9, np.int32), np.zeros(10, np.int32)):
        with pytest.raises(DataError, match=rf"10 rows and {len(wrong)} lengths"):
            PackedPlan(plan, [wrong], budget=9, rows_per_step=1)
