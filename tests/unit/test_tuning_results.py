"""The winner, the front, what settings are worth, and the files of a sweep."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.reporting.sweep import render_sweep
from ray_jobs.tuning import results
from ray_jobs.tuning.averages import answers_of, markdown_of
from ray_jobs.tuning.trials import Halted, Result, Trial, Trials
from setok.config import TrainConfig, TuneConfig, load_config
from tests.pages import check
from tests.sweeps import sweep_config

RATE = "optim.learning_rate"
EVIL = "<script>alert('x')</script>\" onload=\"boo & co"


def filled(folder: Path, losses: list[float | None], **changes: Any) -> tuple[TuneConfig, list[Trial]]:
    """A sweep whose trials have these losses; ``None`` for one that failed."""
    space = {RATE: {"values": [0.1 * (number + 1) for number in range(len(losses))]}}
    sweep = sweep_config(output_dir=str(folder), **({"space": space} | changes))
    trials = Trials(sweep)
    for loss, values in zip(losses, list(results_values(sweep)), strict=False):
        trial = trials.plan(values)
        if loss is None:
            trial.finish(Result(state="failed", reason=f"it broke {EVIL}"))
        else:
            trial.finish(Result(state="done", metrics={"train/loss": loss, "perf/train_seconds": 10 - loss}))
    return sweep, trials.all()


def results_values(sweep: TuneConfig) -> list[dict[str, Any]]:
    from ray_jobs.tuning.space import known_values

    return known_values(sweep)


# ---------------------------------------------------------------- best


def test_the_best_is_the_lowest_loss_of_those_that_are_done(tmp_path: Path) -> None:
    sweep, trials = filled(tmp_path, [3.0, 1.0, None, 1.0])
    trials[0].halt(Halted(step=1, value=0.0, cutoff=1.0))
    trials[0].finish(Result(state="halted", metrics={"train/loss": 0.0}))
    best = results.best_of(sweep, trials)
    assert best is not None
    assert best.number == 1, "the earlier one of equals, and none that ended early"


@pytest.mark.parametrize("best_is", ["lowest", "highest"])
@pytest.mark.parametrize("repeated", [False, True])
def test_what_is_no_number_is_worst_and_does_not_break_the_page(tmp_path: Path, best_is: str, repeated: bool) -> None:
    objective = {"metric": "train/loss", "best_is": best_is}
    changes = {"space": {RATE: {"values": [0.1, 0.2, 0.3]}, "seed": {"values": [0]}}, "objectives": [objective]}
    sweep, trials = filled(tmp_path, [math.nan, 2.0, math.inf], **changes, average_over=["seed"] if repeated else [])
    best = results.best_of(sweep, trials)
    assert best is not None and best.number == (1 if best_is == "lowest" else 2)
    assert check(render_sweep(sweep, trials)).unlabelled == []
    sweep, trials = filled(tmp_path / "all", [math.nan] * 3, **changes, average_over=["seed"] if repeated else [])
    assert check(render_sweep(sweep, trials)).unlabelled == []


def test_null_is_a_value_like_any_other(tmp_path: Path) -> None:
    space = {"model.clustering.sharpness": {"values": [None, 4.0]}, RATE: {"values": [0.1, 0.2]}}
    sweep, trials = filled(tmp_path, [3.0, 1.0, 4.0, 2.0], space=space)
    text = check(render_sweep(sweep, trials)).text
    assert "4 lines over" in text
    assert "null" not in text and "sharpness none" in text


def test_names_of_ones_own_do_not_break_files(tmp_path: Path) -> None:
    evil = "a|b\n<b>c: {\x85d\u2028- e"
    space = {"kind": {"variants": {evil: {}, "other": {}}}, "seed": {"values": [0]}}
    sweep, trials = filled(tmp_path, [1.0, 2.0], space=space, average_over=["seed"])
    best = results.best_of(sweep, trials)
    assert best is not None
    config = load_config(TrainConfig, results.write_best(sweep, best))
    assert config.name == "sweep-best"
    (answer,) = answers_of(sweep, trials)
    table = markdown_of(sweep, answer).splitlines()
    assert len(table) == 4 and table[2].startswith(r"| a\|b &lt;b&gt;c: { d - e | 1 |")


def test_nothing_is_best_where_nothing_is_done(tmp_path: Path) -> None:
    sweep, trials = filled(tmp_path, [None, None])
    assert results.best_of(sweep, trials) is None


@given(
    points=st.integers(1, 3).flatmap(
        lambda width: st.lists(st.lists(st.integers(0, 3), min_size=width, max_size=width), min_size=1, max_size=8)
    )
)
def test_the_front_is_what_nobody_beats(points: list[list[int]]) -> None:
    front = results.undominated(np.array(points, dtype=np.float64))
    for place, point in enumerate(points):
        beaten = [o for o in points if o != point and all(a >= b for a, b in zip(o, point, strict=True))]
        assert (place in front) == (not beaten)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(-5, 5)), min_size=2, max_size=30))
def test_importance_is_the_share_of_variance_between_groups(rows: list[tuple[str, float]]) -> None:
    names, figures = [name for name, _ in rows], np.array([figure for _, figure in rows])
    found = results.importance(names, figures.tolist())
    means = {name: figures[[n == name for n in names]].mean() for name in names}
    between = sum((means[name] - figures.mean()) ** 2 for name in names)
    total = ((figures - figures.mean()) ** 2).sum()
    if found is None:
        assert total == 0 or len(means) < 2
    else:
        assert found == pytest.approx(between / total, abs=1e-6)


def test_importance_of_numbers_goes_by_quantiles() -> None:
    values = [float(number) for number in range(16)]
    steps = [number // 4 for number in range(16)]
    assert results.importance(values, [float(step) for step in steps]) == pytest.approx(1.0)
    assert results.importance(values, [number % 4 for number in range(16)]) == pytest.approx(0.0)
    assert results.importance([1.0] * 4, [1.0, 2.0, 3.0, 4.0]) is None
    assert results.importance([1, 2, 3, 4], [1.0] * 4) is None


# ---------------------------------------------------------------- files


def test_the_table_holds_every_trial(tmp_path: Path) -> None:
    sweep, trials = filled(tmp_path, [3.0, None, 1.0])
    table = pq.read_table(results.write_table(sweep, trials)).to_pydict()
    assert table["trial"] == [0, 1, 2]
    assert table["state"] == ["done", "failed", "done"]
    assert table[f"set/{RATE}"] == pytest.approx([0.1, 0.2, 0.3])
    assert table["train/loss"] == [3.0, None, 1.0]


def test_values_of_any_kind_have_a_column(tmp_path: Path) -> None:
    space = {
        "optim.betas": {"values": [[0.9, 0.9], [0.9, 0.99]]},
        "seed": {"values": [1, 2]},
        "kind": {"variants": {"a": {}, "b": {}}},
    }
    sweep, trials = filled(tmp_path, [1.0] * 8, space=space)
    table = results.table_of(sweep, trials).to_pydict()
    assert table["set/optim.betas"][0] == "[0.9, 0.9]"
    assert table["set/seed"][:4] == [1, 1, 2, 2]
    assert table["set/kind"][:2] == ["a", "b"]


def test_the_winners_file_is_a_config_that_train_takes(tmp_path: Path) -> None:
    sweep, trials = filled(tmp_path, [3.0, 1.0], train={"checkpoint": {"store": str(tmp_path / "store")}})
    best = results.best_of(sweep, trials)
    assert best is not None
    config = load_config(TrainConfig, results.write_best(sweep, best))
    assert config.optim.learning_rate == 0.2
    assert config.run_dir == sweep.run_dir.parent / "sweep-best"
    assert config.checkpoint.store == str(tmp_path / "store")
    assert config.model == sweep.train.model


# ---------------------------------------------------------------- the page


def test_the_page_is_well_formed_and_holds_every_trial(tmp_path: Path) -> None:
    space = {RATE: {"low": 0.001, "high": 1.0, "log": True, "num_points": 8}, "kind": {"variants": {EVIL: {}, "b": {}}}}
    sweep, trials = filled(
        tmp_path, [4.0, 3.0, None, 1.0, 2.0, 7.0, 8.0, 9.0], space=space, title=EVIL, figures=["perf/train_seconds"]
    )
    page = check(render_sweep(sweep, trials))
    assert page.unlabelled == [] and page.loads == []
    assert "Trial 3 is best" in page.text
    assert "it broke" in page.text and "8 trials" in page.text
    assert page.tags.count("tr") == 9
    assert page.tags.count("svg") == 2 + 2 * 2 + 1 + 1


def test_a_page_of_failures_only_says_so(tmp_path: Path) -> None:
    sweep, trials = filled(tmp_path, [None, None])
    page = check(render_sweep(sweep, trials))
    assert "2 failed" in page.text
    assert "svg" not in page.tags


def test_several_objectives_show_their_front(tmp_path: Path) -> None:
    both = [{"metric": "train/loss", "best_is": "lowest"}, {"metric": "perf/train_seconds", "best_is": "lowest"}]
    sweep, trials = filled(tmp_path, [4.0, 3.0, 1.0], objectives=both)
    assert "Full circles are the 3 trials" in check(render_sweep(sweep, trials)).text
