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
