"""Values that Optuna proposes, by its tree-structured Parzen estimator (Bergstra et al. 2011; for several objectives, Ozaki et
al. 2022).

The study lives in memory, and is made anew from the trials' files whenever the sweep starts.
"""

from __future__ import annotations

from typing import Any

import optuna

from ray_jobs.tuning.space import Values, identity, tidy
from ray_jobs.tuning.trials import Trial, Trials
from setok.config import Dimension, TuneConfig
from setok.errors import ConfigError

_MOST_TRIES = 100
"""Proposals in a row that were there before, after which nothing new is to be expected."""
Distribution = optuna.distributions.BaseDistribution


class OptunaSource:
    """Asks a study for values, and tells it results; see ``ray_jobs.tuning.search.Source``."""

    def __init__(self, sweep: TuneConfig, trials: Trials) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        assert sweep.num_trials is not None  # the config has seen to it
        self._sweep, self._trials = sweep, trials
        self._distributions = {key: _distribution(dimension) for key, dimension in sweep.space.items()}
        self._asked: dict[int, optuna.Trial] = {}
        there = trials.all()
        # The same seed would propose the first values again.
        sampler = optuna.samplers.TPESampler(
            seed=sweep.seed + len(there), n_startup_trials=max(4, min(10, sweep.num_trials // 3)), constant_liar=True
        )
        up, down = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
        directions = [up if objective.best_is == "highest" else down for objective in sweep.objectives]
        self.study = optuna.create_study(sampler=sampler, directions=directions)

    def next(self) -> Values | None:
        """What may be best, or teaches most; never what is there already."""
        assert self._sweep.num_trials is not None
        there = self._trials.by_identity()
        if len(there) >= min(self._sweep.num_trials, self._sweep.num_combinations):
            return None
        for _ in range(_MOST_TRIES):
            asked = self.study.ask(self._distributions)
            values = self._to_values(asked.params)
            known = there.get(identity(values))
            if known is None:
                self._asked[len(there)] = asked  # the number that it will have: they are planned one by one
                return values
            # What came of it is told once more: it draws the estimator away from here.
            self._tell(asked, known)
        return None

    def started(self, trial: Trial) -> None:
        """Have the study count on a trial that was there before."""
        self.study.enqueue_trial(self._to_params(trial.values))
        self._asked[trial.number] = self.study.ask(self._distributions)

    def ended(self, trial: Trial) -> None:
        """Tell the study what came of a trial."""
        if trial.number not in self._asked:
            self.started(trial)
        self._tell(self._asked.pop(trial.number), trial)

    def _tell(self, asked: optuna.Trial, trial: Trial) -> None:
        result = trial.result
        state = None if result is None else result.state
        found = [] if result is None else [result.metrics.get(one.metric) for one in self._sweep.objectives]
        halted = trial.halted
        if state == "done" and None not in found:
            self.study.tell(asked, [value for value in found if value is not None])
        elif state == "halted" and halted is not None:
            asked.report(halted.value, halted.step)
            self.study.tell(asked, state=optuna.trial.TrialState.PRUNED)
        else:
            self.study.tell(asked, state=optuna.trial.TrialState.FAIL)

    def _to_values(self, params: dict[str, Any]) -> dict[str, Any]:
        return {key: _value(self._sweep.space[key], params[key]) for key in self._sweep.space}

    def _to_params(self, values: Values) -> dict[str, Any]:
        return {key: _param(key, dimension, values[key]) for key, dimension in self._sweep.space.items()}


def _distribution(dimension: Dimension) -> Distribution:
    if not dimension.is_range:  # by index: Optuna takes no lists and mappings
        return optuna.distributions.CategoricalDistribution(range(len(dimension.choices)))
    low, high = dimension.low, dimension.high
    assert low is not None and high is not None
    if dimension.whole:
        return optuna.distributions.IntDistribution(int(low), int(high), log=dimension.log)
    return optuna.distributions.FloatDistribution(low, high, log=dimension.log)


def _value(dimension: Dimension, param: Any) -> Any:
    return tidy(dimension, param) if dimension.is_range else dimension.choices[param]


def _param(key: str, dimension: Dimension, value: Any) -> Any:
    if dimension.is_range:
        return value
    if value not in dimension.choices:
        raise ConfigError(
            f"a trial of this sweep has {key}={value!r}, which is no longer in the space",
            "put it back, or give the sweep another name",
        )
    return dimension.choices.index(value)
