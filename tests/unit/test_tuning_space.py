"""What a sweep may hold, and which trials come of it."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.tuning import space
from setok.config import Dimension, TuneConfig, build, dump_config, load_config
from setok.errors import ConfigError
from tests.sweeps import sweep_config


def dimension(**fields: Any) -> Dimension:
    return Dimension.model_validate(fields)


# ---------------------------------------------------------------- values


def test_a_grid_is_every_combination_once() -> None:
    sweep = sweep_config(space={"a": {"values": [1, 2]}, "b": {"low": 0.1, "high": 10, "log": True, "num_points": 3}})
    found = list(space.grid(sweep.space))
    assert found == [{"a": a, "b": b} for a in (1, 2) for b in (0.1, 1.0, 10.0)]
    assert list(space.grid(sweep.space)) == space.known_values(sweep)
    assert sweep.num_combinations == len(found)


def test_whole_numbers_of_a_grid_come_once() -> None:
    sweep = sweep_config(space={"a": {"low": 1, "high": 3, "whole": True, "num_points": 9}})
    assert [values["a"] for values in space.grid(sweep.space)] == [1, 2, 3]


@given(
    low=st.floats(1e-6, 1e3),
    span=st.floats(1e-3, 1e3),
    log=st.booleans(),
    seed=st.integers(0, 99),
    n=st.integers(0, 99),
)
def test_draws_lie_in_their_range_and_repeat_themselves(low: float, span: float, log: bool, seed: int, n: int) -> None:
    ranges = {"a": dimension(low=low, high=low + span, log=log), "b": dimension(values=[3, 4])}
    drawn = space.draw(ranges, seed=seed, number=n)
    assert low <= drawn["a"] <= low + span
    assert drawn["b"] in (3, 4)
    assert drawn == space.draw(ranges, seed=seed, number=n)


def test_draws_are_even() -> None:
    ranges = {
        "whole": dimension(low=1, high=4, whole=True),
        "log": dimension(low=1, high=100, log=True),
        "choice": dimension(values=["x", "y"]),
    }
    drawn = [space.draw(ranges, seed=0, number=number) for number in range(2000)]
    counts = Counter(one["whole"] for one in drawn)
    assert set(counts) == {1, 2, 3, 4}
    assert all(400 < count < 600 for count in counts.values())
    assert 900 < sum(one["log"] < 10 for one in drawn) < 1100
    assert 900 < sum(one["choice"] == "x" for one in drawn) < 1100
    assert len({one["log"] for one in drawn}) > 1900


def test_random_search_never_draws_the_same_twice_and_ends_with_the_space() -> None:
    few = {"seed": {"values": [1, 2, 3]}}
    assert len(space.known_values(sweep_config(space=few, search="random", num_trials=9))) == 3
    many = {"optim.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    first = space.known_values(sweep_config(space=many, search="random", num_trials=4))
    more = space.known_values(sweep_config(space=many, search="random", num_trials=6))
    assert more[:4] == first, "a sweep that is made longer keeps what it has"


# ---------------------------------------------------------------- configs


def test_values_become_the_settings_of_a_run(tmp_path: Path) -> None:
    both = {"soft": {"model.clustering.assignment": "soft"}, "hard": {"model.clustering.assignment": "hard"}}
    sweep = sweep_config(space={"optim.learning_rate": {"values": [0.5]}, "kind": {"variants": both}})
    config = space.train_config(
        sweep, {"optim.learning_rate": 0.5, "kind": "hard"}, name="0007", output_dir=str(tmp_path)
    )
    assert config.optim.learning_rate == 0.5
    assert config.model.clustering.assignment == "hard"
    assert config.run_dir == tmp_path / "0007"
    assert config.train == sweep.train.train


def test_remedies_of_trials_name_settings_of_the_sweep() -> None:
    frozen = {"optim": {"learning_rate_scale": {"encoder": 0.0}}, "data": {"train": [{"path": "d"}], "features": "f"}}
    sweep = sweep_config(train=frozen, space={"optim.learning_rate_scale": {"values": [{"encoder": 0.1}]}})
    with pytest.raises(ConfigError, match=r"--set train\.optim\.learning_rate_scale\.encoder=0"):
        space.check_space(sweep)


def test_true_is_not_one() -> None:
    assert dimension(values=[True, 1]).choices == (True, 1)


def test_a_variant_may_set_a_section_and_another_one_a_key_in_it() -> None:
    variants = {"a": {"model.encoder": {"width": 24}}, "b": {"model.encoder.width": 48}}
    space.check_space(sweep_config(space={"v": {"variants": variants}}))


def test_a_trial_leaves_the_space_as_it_is() -> None:
    changes = {"model.clustering": {"feature_dim": 8}, "model.clustering.max_tokens": 3}
    space._changed(sweep_config().train.model_dump(mode="json"), changes, {}, "train")
    assert changes["model.clustering"] == {"feature_dim": 8}


def test_trials_share_a_store_below_the_sweeps_name() -> None:
    sweep = sweep_config(name="mine", train={"checkpoint": {"store": "s3://bucket/runs?region=x"}})
    config = space.train_config(sweep, {"optim.learning_rate": 0.1}, name="0000", output_dir="o")
    assert config.checkpoint.store == "s3://bucket/runs/mine?region=x"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"space": {"model.clusterng.sharpness": {"values": [1.0]}}}, ["clusterng", "did you mean 'clustering'"]),
        ({"space": {"optim.learning_rate": {"values": [-1.0]}}}, ["optim.learning_rate=-1.0", "greater than 0"]),
        ({"space": {"model.clustering.num_clusters": {"values": [3]}}}, ["num_clusters=3", "variants"]),
        ({"space": {"stage.x": {"values": [3]}}}, ["'stage' is a value"]),
    ],
)
def test_impossible_trials_are_refused_before_anything_starts(changes: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        space.check_space(sweep_config(**changes))
    for words in expected:
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"space": {"a": {}}}, "not exactly one"),
        ({"space": {"a": {"values": [1], "low": 0.0, "high": 1.0}}}, "not exactly one"),
        ({"space": {"a": {"low": 2.0, "high": 1.0}}}, "low=2.0 and high=1.0"),
        ({"space": {"a": {"low": 2.0}}}, "high=None"),
        ({"space": {"a": {"low": 0.0, "high": 1.0, "log": True}}}, "no logarithm"),
        ({"space": {"a": {"low": 0.5, "high": 2.0, "whole": True}}}, "not whole"),
        ({"space": {"a": {"values": [1], "log": True}}}, "are for ranges"),
        ({"space": {"a": {"low": 0.0, "high": 1.0}}}, "search=grid needs values"),
        ({"search": "random"}, "num_trials=20"),
        ({"space": {"name": {"values": ["x"]}}}, "every trial has for itself"),
        ({"space": {"scaling.num_workers": {"values": [1, 2]}}}, "sweeps of their own"),
        ({"space": {"seed": {"values": [1]}, "v": {"variants": {"a": {"seed": 2}}}}}, "two dimensions"),
        (
            {"space": {"model.clustering": {"values": [{}]}, "model.clustering.min_tokens": {"values": [2]}}},
            "model.clustering as a whole, and model.clustering.min_tokens",
        ),
        (
            {"space": {"v": {"variants": {"a": {"model.encoder.width": 8, "model.encoder": {}}}}}},
            "model.encoder as a whole, and model.encoder.width",
        ),
        ({"space": {"optim.learning_rate": {"values": [0.1, 0.2, 0.1]}}}, "0.1 and 0.1, which make the same trial"),
        ({"space": {"optim.learning_rate": {"values": [1, 1.0]}}}, "1 and 1.0, which make the same trial"),
        ({"space": {"optim.betas": {"values": [[0, 0.9], [0.0, 0.9]]}}}, "same trial twice"),
        ({"average_over": ["seed"]}, r"'seed'(.|\n)*average_over=\[\]"),
        ({"train": {"data": {"train": [{"path": "d"}], "features": "f"}}}, r"--set train\.optim\.learning_rate_scale"),
        ({"objectives": [{"metric": "psnr"}]}, "eval/psnr"),
        ({"objectives": [{"metric": "eval/psnr"}]}, "train.validation"),
        ({"halving": {"first_step": 8}}, "halving.first_step=8"),
        (
            {"halving": {"first_step": 2}, "objectives": [{"metric": "train/loss"}, {"metric": "train/l1"}]},
            "2 objectives",
        ),
    ],
)
def test_contradictions_are_told(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        sweep_config(**changes)


def test_a_dumped_sweep_is_the_same_sweep(tmp_path: Path) -> None:
    sweep = sweep_config(space={"kind": {"variants": {"a": {"seed": 1}, "b": {"seed": 2}}}})
    file = tmp_path / "sweep.yaml"
    file.write_text(dump_config(sweep))
    assert load_config(TuneConfig, file) == sweep


def test_ranges_have_no_end_of_combinations() -> None:
    sweep = sweep_config(space={"optim.learning_rate": {"low": 0.1, "high": 1}}, search="random", num_trials=3)
    assert sweep.num_combinations == math.inf
    assert len(space.known_values(sweep)) == 3


def test_the_preset_has_twelve_trials() -> None:
    sweep = load_config(TuneConfig, "sweep_scenes")
    space.check_space(sweep)
    assert len(space.known_values(sweep)) == 12
    assert build(TuneConfig, sweep.model_dump(mode="json")) == sweep
