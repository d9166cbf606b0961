"""Runs the trials of a sweep with Ray Tune: Tune gives them room and processes, their files say the rest."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback

from ray_jobs import launch
from ray_jobs.training.room import check_cluster, most_to_come
from ray_jobs.training.stopping import is_asked_to_stop
from ray_jobs.tuning.halving import Halving
from ray_jobs.tuning.resources import most_at_a_time, own_resources
from ray_jobs.tuning.search import NUMBER, Search, source_of
from ray_jobs.tuning.trials import Result, Trial, Trials
from setok.config import TrainConfig, TuneConfig
from setok.errors import SetokError

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often running trials are looked at."""
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the other output is not silent when it is told to be
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # metrics.jsonl and TensorBoard have it all
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C asks trials to save and stop; Tune's answer would be to kill them
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


# ---------------------------------------------------------------- one trial


def run_trial(
    config: dict[str, int], *, sweep: TuneConfig, train: Callable[[TrainConfig], Path], directory: str
) -> None:
    """Train one trial, all its stages, from its newest checkpoint if it has one; what a Tune trial runs, in a process of its own.

    Args:
        config: its number.
        train: the job ``ray_jobs.train``, which only an entry point may import.
        directory: where the sweep was started: relative paths among the values start there.
    """
    launch.setup_logging()
    launch.set_data_context()
    with contextlib.suppress(OSError):  # on another node it may not be there
        os.chdir(directory)
    trials = Trials(sweep)
    trial = trials.read(config[NUMBER])
    try:
        for stage in trials.configs(trial):  # of the first one too, where it is finished: its evaluation may be left
            train(stage)
    except launch.Stopped:
        if (why := trial.halted) is None:
            return  # the whole sweep is to stop, and goes on another time
        reason = f"{why.value:.4g} at step {why.step}, and {why.cutoff:.4g} was needed"
        trial.finish(Result(state="halted", metrics=trial.metrics(), reason=reason))
    except SetokError as error:
        trial.finish(Result(state="failed", metrics=trial.metrics(), reason=error.problem))
    else:
        trial.finish(result_of(sweep, trial))


def result_of(sweep: TuneConfig, trial: Trial) -> Result:
    """What a trial whose training is over came to; without its objectives it failed."""
    metrics = trial.metrics()
    missing = [objective.metric for objective in sweep.objectives if objective.metric not in metrics]
    if not missing:
        return Result(state="done", metrics=metrics)
    group = missing[0].partition("/")[0]
    known = ", ".join(sorted(name for name in metrics if name.startswith(f"{group}/"))) or "nothing"
    return Result(
        state="failed", metrics=metrics, reason=f"{missing[0]} was not measured; of {group}/ there is: {known}"
    )


# ---------------------------------------------------------------- all of them


class _Silent(TrialProgressCallback):
    """In place of Tune's own, which prints a line for every trial even where it is told not to."""

    def _print(self, msg: str) -> None:
        """Say nothing."""

    def log_result(self, trial: Any, result: dict[str, Any], error: bool = False) -> None:
        """Say nothing."""


class Overseer(tune.Callback):
    """Looks at running trials from where Tune runs, ends those that fall behind, and tells what has ended."""

    def __init__(self, sweep: TuneConfig, search: Search, trials: Iterable[Trial], total: float) -> None:
        self._sweep, self._search, self._total = sweep, search, total
        self._looked = time.monotonic()
        self._began, self._ended = time.monotonic(), 0
        self._halving = halving_of(sweep)
        there = list(trials)
        self._before = sum(trial.is_finished for trial in there)
        if self._halving is not None:
            for trial in there:
                self._halving.remember(trial.number, trial.history(sweep.objectives[0].metric))

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called again and again while trials run."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        stopping = is_asked_to_stop(self._sweep.run_dir)
        for trial in list(self._search.running.values()):
            if stopping or self._is_to_end(trial):
                trial.ask_to_stop()

    def _is_to_end(self, trial: Trial) -> bool:
        if self._halving is None:
            return False
        if trial.halted is not None:
            return True
        why = self._halving.judge(trial.number, trial.history(self._sweep.objectives[0].metric))
        if why is not None:
            trial.halt(why)
        return why is not None

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell how it went."""
        self._tell(Trials(self._sweep).read(trial.config[NUMBER]))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell that its process died; Tune calls this for good only."""
        self._tell(Trials(self._sweep).read(trial.config[NUMBER]))

    def _tell(self, trial: Trial) -> None:
        result = trial.result
        if result is None:
            return
        self._ended += 1
        done, seconds = self._before + self._ended, time.monotonic() - self._began
        left = f", about {seconds / self._ended * (self._total - done) / 60:.0f} min left" if done < self._total else ""
        launch.console().print(
            f"{trial.name} {result.state}: {told(self._sweep, trial)}   [{done} of {self._total:g}{left}]"
        )


def told(sweep: TuneConfig, trial: Trial) -> str:
    """A trial's values, and what came of them, in a line."""
    values = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in trial.values.items())
    result = trial.result
    if result is None:
        return values
    if result.state != "done":
        return f"{values} → {result.reason}"
    return f"{values} → " + ", ".join(f"{one.metric} {result.metrics[one.metric]:.4g}" for one in sweep.objectives)


def halving_of(sweep: TuneConfig) -> Halving | None:
    """What ends trials early, where the config asks for that."""
    if sweep.halving is None:
        return None
    return Halving(
        first_step=sweep.halving.first_step,
        factor=sweep.halving.factor,
        last_step=sweep.train.train.steps,
        best_is=sweep.objectives[0].best_is,
    )


def check_room(sweep: TuneConfig) -> None:
    """Refuse trials that the cluster has no room for, before anything is made for them; Ray must be running.

    Raises:
        ConfigError: with what a trial needs.
    """
    for stage in sweep.stages:
        if stage.scaling.max_workers:
            check_cluster(stage)
    if not most_to_come():  # else nodes may come while the data is made
        num_at_a_time(sweep)


def num_at_a_time(sweep: TuneConfig) -> int:
    """Trials that run at the same time: what the cluster has room for, and no more than the config allows.

    Raises:
        ConfigError: it has no room for a single one.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = min(most_at_a_time(stage, nodes) for stage in sweep.stages)
    return min(most, sweep.max_concurrent or most)


def run_trials(sweep: TuneConfig, total: float, train: Callable[[TrainConfig], Path]) -> None:
    """Run all trials that are not finished, until there are no more or the sweep is asked to stop.

    Args:
        total: how many there will be.
        train: see ``run_trial``.

    Raises:
        ConfigError: the cluster has no room for a single one.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    trials = Trials(sweep)
    at_a_time = num_at_a_time(sweep)
    search = Search(sweep, trials, source_of(sweep, trials))
    trainable = tune.with_parameters(run_trial, sweep=sweep, train=train, directory=os.getcwd())
    storage = sweep.run_dir / "ray"
    tuner = tune.Tuner(
        tune.with_resources(trainable, own_resources(sweep.train)),
        tune_config=tune.TuneConfig(
            search_alg=search,
            num_samples=-1,  # the search says when it is over
            max_concurrent_trials=at_a_time,
        ),
        run_config=tune.RunConfig(
            name=time.strftime("%Y%m%d-%H%M%S"),
            storage_path=str(storage),
            failure_config=tune.FailureConfig(max_failures=sweep.max_failures),
            callbacks=[Overseer(sweep, search, trials.all(), total), _Silent()],
            verbose=0,
        ),
    )
    tuner.fit()
    shutil.rmtree(storage, ignore_errors=True)  # what Tune keeps would be a second opinion on the trials
