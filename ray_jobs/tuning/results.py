"""What a sweep found: which trials are best, what each setting is worth, and the files that say so.

trials.parquet   a row for every trial: its values, state and figures
best.yaml        the winner's settings, which ``python -m ray_jobs.train --config`` takes
best_then.yaml   those of its second stage, to be trained after it
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from ray_jobs.training.before_start import BEST_OF_SWEEP
from ray_jobs.tuning.averages import groups_of
from ray_jobs.tuning.space import then_config, train_config
from ray_jobs.tuning.trials import Trial
from setok.config import TuneConfig, dump_config

TABLE, BEST, BEST_THEN = "trials.parquet", "best.yaml", "best_then.yaml"
NUM_GROUPS = 4
"""Into so many groups of about equal size the values of a range are put, to see what it is worth."""


def done(sweep: TuneConfig, trials: Sequence[Trial]) -> list[Trial]:
    """Trials with all steps and all objectives."""
    return [trial for trial in trials if trial.result is not None and trial.result.state == "done"]


def scores(sweep: TuneConfig, trials: Sequence[Trial]) -> Float[np.ndarray, "trials objectives"]:
    """Objectives of finished trials, turned so that more is better; what is no number is worst."""
    rows = [[_signed(sweep, trial, place) for place in range(len(sweep.objectives))] for trial in trials]
    return np.array(rows, dtype=np.float64).reshape(len(trials), len(sweep.objectives))


def _signed(sweep: TuneConfig, trial: Trial, place: int) -> float:
    objective, result = sweep.objectives[place], trial.result
    assert result is not None  # of trials that are done
    value = result.metrics[objective.metric]
    if math.isnan(value):
        return -math.inf
    return value if objective.best_is == "highest" else -value


def undominated(points: Float[np.ndarray, "trials objectives"]) -> list[int]:
    """Places of the points that no other one beats: as good in everything, and better in something (the Pareto front)."""
    return [
        place
        for place, point in enumerate(points)
        if not any((other >= point).all() and (other > point).any() for other in points)
    ]


def best_of(sweep: TuneConfig, trials: Sequence[Trial]) -> Trial | None:
    """The trial that is best by the first objective; of equal ones by the next, then the earlier one.

    Where the sweep averages over repetitions, the first trial of the group with the best mean.
    """
    finished = done(sweep, trials)
    if not finished:
        return None
    if sweep.average_over:
        return groups_of(sweep, finished)[0].trials[0]
    points = scores(sweep, finished)
    return finished[max(range(len(finished)), key=lambda place: (*points[place], -place))]


def importance(values: Sequence[Any], figures: Sequence[float]) -> float | None:
    """Share of a figure's spread over trials that a setting explains by itself: the correlation ratio η² (Pearson 1905).

    1 − (spread around the mean of each group) / (spread around the mean of all), a group being the trials of one value. Where
    numbers take more than ``NUM_GROUPS`` values, their groups are quantiles. Settings that only matter together show
    little here, and of few trials chance alone explains something: (groups − 1) / (trials − 1) on average.

    Returns:
        Between 0 and 1; ``None`` where the figure or the setting does not differ.
    """
    groups, figure = _groups(values), np.asarray(figures, dtype=np.float64)
    total = ((figure - figure.mean()) ** 2).sum() if len(figure) else 0.0
    if total <= 0 or len(set(groups)) < 2:
        return None
    labels = np.array(groups)
    within = sum(((figure[labels == one] - figure[labels == one].mean()) ** 2).sum() for one in set(groups))
    return float(np.clip(1 - within / total, 0.0, 1.0))


def chance(values: Sequence[Any]) -> float:
    """What a setting that changes nothing explains on average: (groups − 1) / (trials − 1); see ``importance``."""
    return (len(set(_groups(values))) - 1) / (len(values) - 1) if len(values) > 1 else 0.0


def _groups(values: Sequence[Any]) -> list[int]:
    names = [json.dumps(value, sort_keys=True) for value in values]
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    if not numbers or len(set(names)) <= NUM_GROUPS:
        return [sorted(set(names)).index(name) for name in names]
    array = np.asarray(values, dtype=np.float64)
    edges = np.quantile(array, np.linspace(0, 1, NUM_GROUPS + 1)[1:-1])
    return np.searchsorted(edges, array, side="right").tolist()


# ---------------------------------------------------------------- files


def table_of(sweep: TuneConfig, trials: Sequence[Trial]) -> pa.Table:
    """A row for every trial; values of settings that are no plain numbers or words are JSON."""
    columns: dict[str, Any] = {
        "trial": [trial.number for trial in trials],
        "state": ["unfinished" if (result := trial.result) is None else result.state for trial in trials],
        "reason": ["" if (result := trial.result) is None else result.reason for trial in trials],
    }
    for key in sweep.space:
        columns[f"set/{key}"] = _column([trial.values.get(key) for trial in trials])
    figures: list[Mapping[str, float]] = [
        {} if (result := trial.result) is None else result.metrics for trial in trials
    ]
    for name in sorted({name for row in figures for name in row}):
        columns[name] = [row.get(name) for row in figures]
    return pa.table(columns)


def _column(values: Sequence[Any]) -> list[Any]:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        return [None if value is None else float(value) for value in values] if float in kinds else list(values)
    if kinds in ({str}, {bool}):
        return list(values)
    return [None if value is None else json.dumps(value) for value in values]


def write_table(sweep: TuneConfig, trials: Sequence[Trial]) -> Path:
    """Write ``trials.parquet``."""
    path = sweep.run_dir / TABLE
    temporary = path.with_suffix(".tmp")
    pq.write_table(table_of(sweep, trials), temporary)
    temporary.replace(path)
    return path


def write_best(sweep: TuneConfig, best: Trial) -> Path:
    """Write the winner's settings as ``best.yaml``: the run that it describes has a name of its own, and begins anew.

    Its second stage is in ``best_then.yaml``, and starts from that run.
    """
    config = train_config(sweep, best.values, name=f"{sweep.name}{BEST_OF_SWEEP}", output_dir=sweep.output_dir)
    store = config.checkpoint.model_copy(update={"store": sweep.train.checkpoint.store})
    config = config.model_copy(update={"checkpoint": store})
    told = ", ".join(f"{key}={value}" for key, value in best.values.items())
    values = "".join(letter if letter.isprintable() else " " for letter in told)  # a comment is a single line
    about = f"# The best trial of the sweep {sweep.name}, number {best.number}: {values}\n"
    then = then_config(sweep, best.values, config)
    if then is not None:
        own = {"name": f"{config.name}-then", "output_dir": sweep.output_dir}
        checkpoint = then.checkpoint.model_copy(update={"store": sweep.train.checkpoint.store})
        first = f"# It starts from the run of {BEST}: train that first\n"
        then = then.model_copy(update=own | {"checkpoint": checkpoint})
        _write(sweep.run_dir / BEST_THEN, about + first + dump_config(then))
    return _write(sweep.run_dir / BEST, about + dump_config(config))


def _write(path: Path, text: str) -> Path:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return path
