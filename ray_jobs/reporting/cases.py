"""What the charts of a sweep are of: trials, or, where they repeat each other, their means."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ray_jobs.reporting.scales import name_of
from ray_jobs.tuning import results
from ray_jobs.tuning.averages import Group, Interval, groups_of
from ray_jobs.tuning.names import setting_names
from ray_jobs.tuning.space import Values
from ray_jobs.tuning.trials import Trial
from setok.config import TuneConfig


@dataclass(frozen=True, kw_only=True)
class Case:
    """One trial, or several that repeat each other."""

    name: str
    """In full, for those who point at it."""
    short: str
    """What stands beside its mark: a trial's number, or a group's values."""
    values: Values
    """What it was told, without what is averaged over."""
    figures: Mapping[str, Interval]
    """By metric, those that are known and finite."""
    is_best: bool
    is_done: bool = True

    def figure(self, metric: str) -> float | None:
        """A figure, or its mean."""
        found = self.figures.get(metric)
        return None if found is None else found.mean


def shown_keys(sweep: TuneConfig) -> dict[str, str]:
    """Settings that are no repetition, with their names."""
    names = setting_names(sweep.space)
    return {key: name for key, name in names.items() if key not in sweep.average_over}


def cases_of(sweep: TuneConfig, trials: Sequence[Trial], best: Trial, *, unfinished: bool = False) -> list[Case]:
    """All finished cases.

    Args:
        best: the best trial; its group is the best where the sweep averages.
        unfinished: trials that ended early, too, as far as they came; where nothing is averaged.
    """
    if sweep.average_over:
        groups = groups_of(sweep, trials)
        return [_of_group(sweep, group, is_best=best in group.trials) for group in groups]
    states = {"done", "halted"} if unfinished else {"done"}
    shown = [trial for trial in trials if (result := trial.result) is not None and result.state in states]
    return [_of_trial(sweep, trial, is_best=trial.number == best.number) for trial in shown]


def _of_group(sweep: TuneConfig, group: Group, *, is_best: bool) -> Case:
    metrics = {name for trial in group.trials if (result := trial.result) is not None for name in result.metrics}
    found = {metric: group.interval(metric) for metric in metrics}
    return Case(
        name=f"{told(sweep, group.values)} ({group.size})",
        short=group.label,
        values=group.values,
        figures={metric: one for metric, one in found.items() if one is not None and math.isfinite(one.mean)},
        is_best=is_best,
    )


def _of_trial(sweep: TuneConfig, trial: Trial, *, is_best: bool) -> Case:
    result = trial.result
    assert result is not None  # the caller has seen to it
    return Case(
        name=f"trial {trial.number}, {told(sweep, trial.values)}",
        short=str(trial.number),
        values=trial.values,
        figures={
            metric: Interval(mean=value, half=None, count=1)
            for metric, value in result.metrics.items()
            if math.isfinite(value)
        },
        is_best=is_best,
        is_done=result.state == "done",
    )


def scores(sweep: TuneConfig, cases: Sequence[Case]) -> Float[np.ndarray, "cases objectives"]:
    """Objectives, turned so that more is better."""
    signs = [1.0 if objective.best_is == "highest" else -1.0 for objective in sweep.objectives]
    rows = [[case.figure(objective.metric) for objective in sweep.objectives] for case in cases]
    known = [[-math.inf if one is None else one * sign for one, sign in zip(row, signs, strict=True)] for row in rows]
    return np.array(known, dtype=np.float64).reshape(len(cases), len(signs))


def undominated(sweep: TuneConfig, cases: Sequence[Case]) -> list[Case]:
    """The cases that no other one beats in all objectives."""
    return [cases[place] for place in results.undominated(scores(sweep, cases))]


def known_metrics(sweep: TuneConfig, cases: Sequence[Case]) -> list[str]:
    """Metrics of the sweep that at least one case has."""
    return [metric for metric in sweep.metrics if any(metric in case.figures for case in cases)]


def told(sweep: TuneConfig, values: Values) -> str:
    """Settings in words."""
    names = setting_names(sweep.space)
    return ", ".join(f"{names.get(key, key)} {name_of(value)}" for key, value in values.items())


def told_alike(intervals: Sequence[Interval | None]) -> list[str]:
    """Means of one figure with as many decimals each, so that they can be read one below the other.

    Two digits of the surest interval, but no more than three of the mean (four, where that is 10 to 100), as the median has
    it. Where none of them varies, no interval is told.
    """
    known = [one for one in intervals if one is not None]
    sizes = [abs(one.mean) for one in known if one.mean and math.isfinite(one.mean)] or [1.0]
    size = math.floor(math.log10(statistics.median_high(sizes)))
    digits = 2 - size + (size == 1)
    halves = [half for one in known if (half := half_of(one)) and math.isfinite(half)]
    if halves:
        digits = min(digits, 1 - math.floor(math.log10(min(halves))))
    digits = min(max(0, digits), 6)
    means = ["–" if one is None else f"{one.mean:,.{digits}f}".replace("-", "−") for one in intervals]
    if not halves:
        return means
    told = zip(means, intervals, strict=True)
    return [mean if one is None or one.half is None else f"{mean} ± {one.half:,.{digits}f}" for mean, one in told]


def half_of(one: Interval) -> float | None:
    """Half the width of an interval; 0 where it is nothing but rounding."""
    return 0.0 if one.half is not None and one.half <= 1e-9 * abs(one.mean) else one.half


def told_figures(figures: Sequence[float | None]) -> list[str]:
    """The same of single figures."""
    return told_alike([None if one is None else Interval(mean=one, half=None, count=1) for one in figures])
