"""Trials are handed out once, whatever happens in between: what is known of them lies on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from ray_jobs.training.stopping import STOP
from ray_jobs.tuning.halving import Halving
from ray_jobs.tuning.running import Overseer, run_trial
from ray_jobs.tuning.search import NUMBER, Search, source_of
from ray_jobs.tuning.space import identity
from ray_jobs.tuning.trials import Halted, Result, Trial, Trials
from setok.config import TrainConfig, TuneConfig
from setok.errors import TrainingError
from tests.sweeps import fake_train, sweep_config, write_metrics

RATE = "optim.learning_rate"


def open_search(sweep: TuneConfig) -> tuple[Trials, Search]:
    trials = Trials(sweep)
    return trials, Search(sweep, trials, source_of(sweep, trials))


def sweep_in(folder: Path, **changes: Any) -> TuneConfig:
    return sweep_config(output_dir=str(folder), **changes)


def run_one(sweep: TuneConfig, search: Search, name: str, *, loss: Any = lambda config: 1.0) -> Trial | None:
    """What Tune does with the next trial: suggest, run, complete."""
    suggested = search.suggest(name)
    if not isinstance(suggested, dict):
        assert suggested == Searcher.FINISHED
        return None
    run_trial(suggested, sweep=sweep, train=fake_train(loss), directory=str(Path.cwd()))
    search.on_trial_complete(name)
    return Trials(sweep).read(suggested[NUMBER])


def finish_all(sweep: TuneConfig, search: Search, **kwargs: Any) -> list[Trial]:
    found = []
    while (trial := run_one(sweep, search, f"t{len(found)}", **kwargs)) is not None:
        found.append(trial)
    return found


# ---------------------------------------------------------------- once each


def test_every_combination_is_run_once(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path)
    _, search = open_search(sweep)
    found = finish_all(sweep, search)
    assert [trial.values[RATE] for trial in found] == [0.1, 0.2, 0.4]
    assert all(trial.result is not None and trial.result.state == "done" for trial in found)
    assert open_search(sweep)[1].suggest("again") == Searcher.FINISHED


@pytest.mark.parametrize("search_by", ["grid", "random", "optuna"])
def test_a_killed_driver_loses_and_repeats_nothing(tmp_path: Path, search_by: str) -> None:
    changes: dict[str, Any] = {"search": search_by, "num_trials": 6}
    if search_by != "grid":
        changes["space"] = {RATE: {"low": 1e-4, "high": 1e-1, "log": True}, "seed": {"values": [1, 2]}}
    else:
        changes["space"] = {RATE: {"values": [0.1, 0.2]}, "seed": {"values": [1, 2, 3]}}
    sweep = sweep_in(tmp_path, **changes)
    _, search = open_search(sweep)
    first = [run_one(sweep, search, "a"), run_one(sweep, search, "b")]
    under_way = search.suggest("c")  # and here the driver is killed
    assert isinstance(under_way, dict)
    marks = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert len(marks) == 2
    trials, search = open_search(sweep)
    left = finish_all(sweep, search)
    assert left[0].number == under_way[NUMBER], "what was under way comes first"
    assert [trial.number for trial in left] == [2, 3, 4, 5]
    assert len({identity(trial.values) for trial in trials.all()}) == 6
    assert {path: path.stat().st_mtime_ns for path in marks} == marks
    assert [one.values for one in first if one is not None] == [trial.values for trial in trials.all()[:2]]


def test_a_longer_sweep_keeps_what_it_has(tmp_path: Path) -> None:
    short = sweep_in(tmp_path)
    finish_all(short, open_search(short)[1])
    longer = sweep_in(tmp_path, space={RATE: {"values": [0.05, 0.1, 0.2, 0.3, 0.4]}})
    added = finish_all(longer, open_search(longer)[1])
    assert [(trial.number, trial.values[RATE]) for trial in added] == [(3, 0.05), (4, 0.3)]


def test_a_failed_trial_is_told_and_tried_again_another_time(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path)

    def diverge(config: TrainConfig) -> float:
        if config.optim.learning_rate == 0.2:
            raise TrainingError("the loss is NaN", "lower the rate")
        return 1.0

    trials, search = open_search(sweep)
    finish_all(sweep, search, loss=diverge)
    result = trials.read(1).result
    assert result is not None
    assert (result.state, result.reason) == ("failed", "the loss is NaN")
    again = finish_all(sweep, open_search(sweep)[1])
    assert [trial.number for trial in again] == [1]
    assert trials.read(1).is_finished


def test_a_trial_whose_process_died_for_good_is_a_failed_one(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path)
    trials, search = open_search(sweep)
    search.suggest("a")
    search.on_trial_complete("a", error=True)
    result = trials.read(0).result
    assert result is not None
    assert result.state == "failed"
    assert "max_failures" in result.reason


def test_a_trial_without_its_objective_says_what_there_is(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path, objectives=[{"metric": "train/l9"}])
    trial = run_one(sweep, open_search(sweep)[1], "a")
    assert trial is not None and trial.result is not None
    assert trial.result.state == "failed"
    assert "train/l9 was not measured" in trial.result.reason and "train/loss" in trial.result.reason


def test_a_folder_that_a_kill_left_empty_is_passed_over(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path)
    trials, search = open_search(sweep)
    run_one(sweep, search, "a")
    (trials.folder / "0001").mkdir()
    assert [trial.number for trial in finish_all(sweep, open_search(sweep)[1])] == [2, 3]


# ---------------------------------------------------------------- ends before the end


def stopped_training(config: TrainConfig) -> Path:
    from ray_jobs.launch import Stopped

    write_metrics(config.run_dir, {2: {"train/loss": 3.0}})
    raise Stopped(config.run_dir, 15)


def test_a_stopped_sweep_leaves_its_trials_to_the_next_start(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path)
    trials, search = open_search(sweep)
    suggested = search.suggest("a")
    assert isinstance(suggested, dict)
    (sweep.run_dir / STOP).touch()
    overseer = Overseer(sweep, search, trials.all(), 3)
    overseer._looked = -100.0
    overseer.on_step_begin(0, [])
    assert (trials.read(0).folder / STOP).exists(), "the running trial is asked to save"
    run_trial(suggested, sweep=sweep, train=stopped_training, directory=str(Path.cwd()))
    search.on_trial_complete("a")
    assert trials.read(0).result is None
    assert search.suggest("b") == Searcher.FINISHED
    (sweep.run_dir / STOP).unlink()
    assert len(finish_all(sweep, open_search(sweep)[1])) == 3


def test_a_trial_that_falls_behind_is_asked_to_stop_and_keeps_its_figures(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path, halving={"first_step": 2, "factor": 2})
    trials, search = open_search(sweep)
    overseer = Overseer(sweep, search, trials.all(), 3)
    suggested = [search.suggest(name) for name in "abc"]
    for number, loss in enumerate((1.0, 2.0, 3.0)):
        write_metrics(trials.read(number).folder, {2: {"train/loss": loss}})
        overseer._looked = -100.0
        overseer.on_step_begin(0, [])
    assert [trial.halted is not None for trial in trials.all()] == [False, True, True]
    assert trials.read(2).halted == Halted(step=2, value=3.0, cutoff=1.5)
    assert isinstance(suggested[2], dict)
    run_trial(suggested[2], sweep=sweep, train=stopped_training, directory=str(Path.cwd()))
    result = trials.read(2).result
    assert result is not None
    assert (result.state, result.reason) == ("halted", "3 at step 2, and 1.5 was needed")
    assert result.metrics["train/loss"] == 3.0
    assert trials.read(2).is_finished


def test_a_restart_remembers_who_was_how_far(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path, halving={"first_step": 2, "factor": 2})
    trials, search = open_search(sweep)
    run_one(sweep, search, "a")
    write_metrics(trials.read(0).folder, {2: {"train/loss": 1.0}})
    trials, search = open_search(sweep)
    overseer = Overseer(sweep, search, trials.all(), 3)
    search.suggest("b")
    write_metrics(trials.read(1).folder, {2: {"train/loss": 9.0}})
    overseer._looked = -100.0
    overseer.on_step_begin(0, [])
    assert trials.read(1).halted is not None


# ---------------------------------------------------------------- Optuna


def test_optuna_finds_the_valley_and_beats_chance(tmp_path: Path) -> None:
    def loss(config: TrainConfig) -> float:
        return (config.optim.weight_decay - 0.3) ** 2 + (config.optim.warmup_fraction - 0.6) ** 2

    axes = {"optim.weight_decay": {"low": 0.0, "high": 1.0}, "optim.warmup_fraction": {"low": 0.0, "high": 0.99}}
    best = {}
    for by in ("optuna", "random"):
        sweep = sweep_in(tmp_path / by, search=by, num_trials=40, space=axes)
        found = finish_all(sweep, open_search(sweep)[1], loss=loss)
        assert len(found) == 40
        best[by] = sum(sorted(t.result.metrics["train/loss"] for t in found if t.result is not None)[:10])
    assert best["optuna"] < best["random"] / 2


def test_optuna_takes_several_objectives_choices_and_failures(tmp_path: Path) -> None:
    def diverge(config: TrainConfig) -> float:
        if config.model.clustering.assignment == "hard" and config.seed == 1:
            raise TrainingError("no", "no")
        return config.optim.learning_rate

    sweep = sweep_in(
        tmp_path,
        search="optuna",
        num_trials=14,
        objectives=[
            {"metric": "train/loss", "best_is": "lowest"},
            {"metric": "perf/train_seconds", "best_is": "lowest"},
        ],
        space={
            RATE: {"low": 1e-3, "high": 1e-1, "log": True},
            "seed": {"low": 1, "high": 3, "whole": True},
            "kind": {
                "variants": {
                    "soft": {"model.clustering.assignment": "soft"},
                    "hard": {"model.clustering.assignment": "hard"},
                }
            },
        },
    )
    found = finish_all(sweep, open_search(sweep)[1], loss=diverge)
    assert len(found) == 14
    assert {trial.values["kind"] for trial in found} == {"soft", "hard"}
    assert all(isinstance(trial.values["seed"], int) for trial in found)
    trials, search = open_search(sweep)  # all is known after a restart, the failed ones are tried again
    failed = [trial.number for trial in trials.all() if not trial.is_finished]
    assert [trial.number for trial in finish_all(sweep, search)] == failed


def test_optuna_ends_where_nothing_new_is_left(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path, search="optuna", num_trials=20, space={"seed": {"values": [1, 2, 3]}})
    found = finish_all(sweep, open_search(sweep)[1])
    assert sorted(trial.values["seed"] for trial in found) == [1, 2, 3]


def test_optuna_is_told_how_far_a_halted_trial_came(tmp_path: Path) -> None:
    from ray_jobs.tuning.optuna_source import OptunaSource

    sweep = sweep_in(
        tmp_path, search="optuna", num_trials=9, halving={"first_step": 2}, space={"seed": {"values": [1, 2]}}
    )
    trials = Trials(sweep)
    trial = trials.plan({"seed": 2})
    trial.halt(Halted(step=2, value=5.0, cutoff=1.0))
    trial.finish(Result(state="halted", metrics={"train/loss": 5.0}))
    source = OptunaSource(sweep, trials)
    source.ended(trial)
    (known,) = source.study.trials
    assert known.state.name == "PRUNED"
    assert known.intermediate_values == {2: 5.0}
    assert known.params == {"seed": 1}, "the place of the value 2 among the choices"


def test_the_rule_of_the_config_is_the_rule_that_is_used(tmp_path: Path) -> None:
    from ray_jobs.tuning.running import halving_of

    assert halving_of(sweep_in(tmp_path)) is None
    made = halving_of(sweep_in(tmp_path, halving={"first_step": 1, "factor": 2}))
    assert isinstance(made, Halving)
    assert list(made._rungs) == [1.0, 2.0, 4.0]
