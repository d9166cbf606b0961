"""Which trial comes next: first those that an earlier start of the sweep left unfinished, then new ones."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from ray.tune.search import Searcher

from ray_jobs.training.stopping import is_asked_to_stop
from ray_jobs.tuning.space import Values, identity, known_values
from ray_jobs.tuning.trials import Result, Trial, Trials
from setok.config import TuneConfig

NUMBER = "number"
"""What a Tune trial's config holds: the number of ours."""
_DIED = "its process ended without a word, more than max_failures times; failure.txt in its folder may say more"


class Source(Protocol):
    """Where new values come from."""

    def next(self) -> Values | None:
        """Values of one more trial; ``None`` where there are no more."""

    def started(self, trial: Trial) -> None:
        """A trial that was there before is run again."""

    def ended(self, trial: Trial) -> None:
        """A trial has ended; so has one that was there before, and is not run again."""


class KnownSource:
    """Grid and random search: values that do not depend on results."""

    def __init__(self, sweep: TuneConfig, trials: Trials) -> None:
        have = trials.by_identity()
        self._left = deque(values for values in known_values(sweep) if identity(values) not in have)

    def next(self) -> Values | None:
        return self._left.popleft() if self._left else None

    def started(self, trial: Trial) -> None:
        """Changes nothing."""

    def ended(self, trial: Trial) -> None:
        """Changes nothing."""


def source_of(sweep: TuneConfig, trials: Trials) -> Source:
    """What the sweep's ``search`` asks for."""
    if sweep.search == "optuna":
        from ray_jobs.tuning.optuna_source import OptunaSource

        return OptunaSource(sweep, trials)
    return KnownSource(sweep, trials)


class Search(Searcher):
    """Hands trials to Tune. What it knows is on disk, so Tune's own ways to save it are left empty."""

    def __init__(self, sweep: TuneConfig, trials: Trials, source: Source) -> None:
        super().__init__()
        self._sweep, self._trials, self._source = sweep, trials, source
        self.running: dict[str, Trial] = {}
        """By Tune's id."""
        there = trials.all()
        for trial in there:
            if trial.is_finished:
                source.ended(trial)
        self._again = [trial for trial in there if not trial.is_finished]

    def suggest(self, trial_id: str) -> dict[str, int] | str | None:
        """The number of the next trial, which is on disk by then."""
        if is_asked_to_stop(self._sweep.run_dir):
            return Searcher.FINISHED
        if self._again:
            trial = self._again.pop(0)
            trial.forget_failure()
            self._source.started(trial)
        else:
            values = self._source.next()
            if values is None:
                return Searcher.FINISHED
            trial = self._trials.plan(values)
        self.running[trial_id] = trial
        return {NUMBER: trial.number}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """What trials find out lies in their folders."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note a trial whose process is gone, and let the source learn from its result."""
        trial = self.running.pop(trial_id)
        if error and trial.result is None:
            trial.finish(Result(state="failed", reason=_DIED))
        if trial.result is not None:  # without one it was asked to stop, and goes on another time
            self._source.ended(trial)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""
