"""Early ends follow the rule of Ray's ASHA scheduler, and survive a restart."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.tuning.halving import Halving

FIRST, FACTOR, LAST = 2, 3.0, 30


def halving(best_is: str = "highest") -> Halving:
    return Halving(first_step=FIRST, factor=FACTOR, last_step=LAST, best_is=best_is)  # type: ignore[arg-type]


@given(
    reports=st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, LAST - 1), st.integers(-9, 9)),
        max_size=60,
        unique_by=lambda r: r[:2],
    ),
    best_is=st.sampled_from(["highest", "lowest"]),
)
@settings(max_examples=200)
def test_decisions_are_those_of_rays_scheduler(reports: list[tuple[int, int, int]], best_is: str) -> None:
    """Whatever comes in whatever order, as long as a trial's own steps rise."""
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.schedulers.async_hyperband import _Bracket

    sign = 1 if best_is == "highest" else -1
    bracket = _Bracket(FIRST, LAST - 1, FACTOR, 0, stop_last_trials=False)
    ours = halving(best_is)
    histories: dict[int, dict[int, float]] = {}
    ended: set[int] = set()
    for number, step, value in reports:
        history = histories.setdefault(number, {})
        if number in ended or step <= max(history, default=0):
            continue
        history[step] = float(value)
        theirs = bracket.on_result(SimpleNamespace(trial_id=number), step, sign * value)
        why = ours.judge(number, history)
        assert (why is not None) == (theirs == TrialScheduler.STOP)
        if why is not None:
            assert (why.step, why.value) == (step, value)
            assert sign * value < sign * why.cutoff
            ended.add(number)


def test_what_was_seen_before_a_restart_is_judged_by_after_it() -> None:
    histories = {number: {2: float(number), 6: float(number)} for number in range(1, 5)}
    whole, again = halving(), halving()
    for number, history in histories.items():
        whole.judge(number, history)
        again.remember(number, history)
    for value in np.linspace(0, 5, 11):
        assert whole.judge(9, {2: float(value)}) == again.judge(9, {2: float(value)})
        whole._rungs[2.0].pop(9)
        again._rungs[2.0].pop(9)


def test_nobody_is_judged_alone_or_before_the_first_rung() -> None:
    ours = halving()
    assert ours.judge(0, {2: -5.0}) is None
    ours.remember(1, {2: 5.0})
    assert ours.judge(2, {1: -100.0}) is None
    assert ours.judge(2, {1: -100.0, 2: -100.0}) is not None


@pytest.mark.parametrize(("best_is", "bad"), [("highest", 0.0), ("lowest", 9.0)])
def test_it_says_what_was_needed(best_is: str, bad: float) -> None:
    ours = halving(best_is)
    for number, value in enumerate((4.0, 5.0, 6.0)):
        ours.remember(number, {2: value})
    why = ours.judge(7, {3: bad})
    assert why is not None
    assert why.cutoff == pytest.approx(np.percentile([4, 5, 6], 100 * 2 / 3 if best_is == "highest" else 100 / 3))
