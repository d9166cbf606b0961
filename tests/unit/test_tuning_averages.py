"""Means over repetitions, and how sure they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ray_jobs.reporting.sweep import render_sweep
from ray_jobs.tuning.averages import Interval, groups_of, write_averages
from ray_jobs.tuning.results import best_of
from ray_jobs.tuning.space import known_values
from ray_jobs.tuning.trials import Result, Trials
from setok.errors import ConfigError
from tests.pages import check
from tests.sweeps import sweep_config


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=45))
def test_intervals_are_those_of_students_t(figures: list[float]) -> None:
    found = Interval.of(figures)
    assert found is not None and found.half is not None
    assert found.mean == pytest.approx(np.mean(figures), abs=1e-6)
    expected = stats.t.ppf(0.975, len(figures) - 1) * stats.sem(figures)
    assert found.half == pytest.approx(expected, rel=0.04, abs=1e-6)


def test_one_figure_has_no_interval_and_none_no_mean() -> None:
    one = Interval.of([2.0])
    assert one is not None
    assert (one.mean, one.half, one.told()) == (2.0, None, "2")
    assert Interval.of([]) is None


@pytest.mark.parametrize(
    ("mean", "half", "told"),
    [
        (18.8123, 0.0261, "18.812 ± 0.026"),
        (18.8123, 0.0996, "18.81 ± 0.10"),
        (0.8479, 0.3, "0.85 ± 0.30"),
        (4.5, 6.353, "4.5 ± 6.4"),
        (18.8, 12.4, "19 ± 12"),
        (12345.6, 234.5, "12,346 ± 234"),
        (1234.56, 0.0123, "1,234.560 ± 0.012"),
        (5.0, 0.0, "5 ± 0"),
        (0.5, None, "0.5"),
    ],
)
def test_a_mean_is_told_as_far_as_its_interval_goes(mean: float, half: float | None, told: str) -> None:
    assert Interval(mean=mean, half=half, count=3).told() == told


@given(st.floats(-1e4, 1e4), st.floats(1e-6, 1e4))
def test_what_is_told_is_not_coarser_than_the_interval(mean: float, half: float) -> None:
    shown, around = (
        float(part.replace(",", "")) for part in Interval(mean=mean, half=half, count=2).told().split(" ± ")
    )
    assert abs(shown - mean) <= max(0.051 * half, 0.5 + 1e-9)
    assert around == pytest.approx(half, rel=0.051, abs=0.5)


def test_seeds_are_taken_together_and_the_best_mean_wins(tmp_path: Path) -> None:
    space = {"optim.learning_rate": {"values": [0.1, 0.2]}, "seed": {"values": [0, 1, 2]}}
    sweep = sweep_config(output_dir=str(tmp_path), space=space, average_over=["seed"])
    trials = Trials(sweep)
    losses = {(0.1, 0): 1.0, (0.1, 1): 9.0, (0.1, 2): 9.0, (0.2, 0): 4.0, (0.2, 1): 5.0}
    for values in known_values(sweep):
        trial = trials.plan(values)
        loss = losses.get((values["optim.learning_rate"], values["seed"]))
        trial.finish(Result(state="failed") if loss is None else Result(state="done", metrics={"train/loss": loss}))
    groups = groups_of(sweep, trials.all())
    assert [(group.values, len(group.trials)) for group in groups] == [
        ({"optim.learning_rate": 0.2}, 2),
        ({"optim.learning_rate": 0.1}, 3),
    ]
    best = best_of(sweep, trials.all())
    assert best is not None
    assert best.values["optim.learning_rate"] == 0.2, "the lucky seed of the other one does not count"
    path = write_averages(sweep, trials.all())
    assert path is not None
    table = path.read_text().splitlines()
    assert table[0] == "| optim.learning_rate | trials | training loss |"
    assert table[2] == "| 0.2 | 2 | 4.5 ± 6.4 |"
    page = check(render_sweep(sweep, trials.all()))
    assert "95 % confidence" in page.text and "4.5 ± 6.4" in page.text


def test_nothing_is_written_where_nothing_repeats(tmp_path: Path) -> None:
    assert write_averages(sweep_config(output_dir=str(tmp_path)), []) is None


def test_what_is_averaged_over_must_be_there() -> None:
    with pytest.raises(ConfigError, match=r"'sed'.*no dimension"):
        sweep_config(average_over=["sed"])
