"""Charts of a sweep: what each setting is worth, settings against figures, trade-offs, and everything at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ray_jobs.reporting import layout
from ray_jobs.reporting.cases import Case, cases_of, known_metrics, shown_keys, told_figures, undominated
from ray_jobs.reporting.charts import Bar, bar_chart
from ray_jobs.reporting.intervals import Line, Span, interval_chart
from ray_jobs.reporting.parallel import parallel_chart
from ray_jobs.reporting.scales import is_number, wants_log
from ray_jobs.reporting.scales import name_of as told_value
from ray_jobs.reporting.scatter import Mark, scatter_chart
from ray_jobs.tuning import results
from ray_jobs.tuning.averages import answers_of, groups_of, is_repeated
from ray_jobs.tuning.names import name_of
from ray_jobs.tuning.trials import Trial
from setok.config import TuneConfig


def importance(sweep: TuneConfig, trials: Sequence[Trial]) -> str:
    """What each setting explains of each figure; one chart where there is one setting."""
    finished = results.done(sweep, trials)
    keys = shown_keys(sweep)
    worth = {metric: _worth(metric, keys, finished) for metric in sweep.metrics if _having(metric, finished)}
    if len(keys) == 1:
        name = next(iter(keys.values()))
        bars = [_bar(name_of(metric), *found) for metric, (found,) in worth.items()]
        charts = {name: bars}
    else:
        charts = {
            name_of(metric): [_bar(name, *one) for name, one in zip(keys.values(), found, strict=True)]
            for metric, found in worth.items()
        }
    wide = layout.width(len(charts))
    cards = [
        f'<figure class="card"><h3>{escape(name)}</h3>'
        f"{bar_chart(bars, title=f'{name}: share explained', full=1.0, width=wide)}</figure>"
        for name, bars in charts.items()
    ]
    return (
        "<section><h2>What each setting is worth</h2><p>The share of a figure's spread between trials that one setting explains"
        " by itself; a full bar is all of it. The stroke is what a setting that changes nothing explains on average, of so few"
        f" trials.</p>{layout.charts(cards)}</section>"
    )


def _worth(metric: str, keys: Iterable[str], finished: Sequence[Trial]) -> list[tuple[float | None, float]]:
    """Of each setting the share that it explains, and what chance would."""
    have = _having(metric, finished)
    columns = [[trial.values[key] for trial, _ in have] for key in keys]
    figures = [value for _, value in have]
    return [(results.importance(column, figures), results.chance(column)) for column in columns]


def _having(metric: str, trials: Sequence[Trial]) -> list[tuple[Trial, float]]:
    """The trials that have a figure, with it; what is no number is none."""
    found = ((trial, trial.result) for trial in trials)
    have = ((trial, one.metrics.get(metric, math.nan)) for trial, one in found if one is not None)
    return [(trial, value) for trial, value in have if math.isfinite(value)]


def _bar(name: str, value: float | None, chance: float) -> Bar:
    return Bar(label=name, value=value, main=True, chance=chance)


# ---------------------------------------------------------------- settings and figures


def against(sweep: TuneConfig, trials: Sequence[Trial], best: Trial) -> str:
    """Every setting against every figure; of a single setting, only what no answer shows."""
    cases = cases_of(sweep, trials, best, unfinished=True)
    keys, metrics = shown_keys(sweep), known_metrics(sweep, cases)
    if len(keys) == 1 and (sweep.average_over or sweep.questions):
        answered = {metric for answer in answers_of(sweep, trials) for metric in answer.metrics}
        metrics = [metric for metric in metrics if metric not in answered]
    if not metrics:
        return ""
    parts = []
    for key, name in keys.items():
        wide = layout.width(len(metrics))
        cards = [_by_setting(sweep, cases, key, name, metric, wide) for metric in metrics]
        heading = f"<h3>By {escape(name)}</h3>" if len(keys) > 1 else ""
        parts.append(f'<div class="by" title="{escape(key)}">{heading}{layout.charts(cards)}</div>')
    what = _one_of(sweep, trials)
    return (
        f"<section><h2>Settings and figures</h2><p>A circle is {what}, the full one the best, a gray one ended early; the line"
        f" is the mean where several share a value, and beside names the full circle is.</p>{''.join(parts)}</section>"
    )


def _by_setting(sweep: TuneConfig, cases: Sequence[Case], key: str, name: str, metric: str, wide: int) -> str:
    title = f"{name} and {name_of(metric)}"
    if any(not is_number(case.values[key]) for case in cases):
        chart = _by_name(sweep, cases, key, metric, title, wide)
    else:
        chart = scatter_chart(
            [_mark(case, case.values[key], metric) for case in cases],
            title=title,
            x_label=name,
            log_x=sweep.space[key].log or wants_log(sweep.space[key].choices),
            joined=True,
            width=wide,
        )
    return f'<figure class="card"><h3>{escape(name_of(metric))}</h3>{chart}</figure>'


def _by_name(sweep: TuneConfig, cases: Sequence[Case], key: str, metric: str, title: str, wide: int) -> str:
    """A figure by a setting whose values are names: a line each, with the mean of what has it."""
    order = dict.fromkeys(
        told_value(value) for value in (*sweep.space[key].choices, *(case.values[key] for case in cases))
    )
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(told_value(case.values[key]), []).append(case)
    points = {
        name: tuple(case.figures[metric].mean for case in found if metric in case.figures)
        for name, found in groups.items()
    }
    means = {name: sum(values) / len(values) if values else None for name, values in points.items()}
    told = dict(zip(means, told_figures(list(means.values())), strict=True))
    lines = [
        Line(
            label=name,
            span=None if (mean := means[name]) is None else Span(mean=mean),
            told=told[name],
            points=points[name] if len(points[name]) > 1 else (),
            main=any(case.is_best for case in groups[name]),
        )
        for name in order
        if name in groups
    ]
    return interval_chart(lines, title=title, width=wide)


def _mark(case: Case, x: Any, metric: str) -> Mark:
    return Mark(x=x, y=case.figure(metric), name=case.name, main=case.is_best, faint=not case.is_done)


# ---------------------------------------------------------------- figures and figures


def trade_offs(sweep: TuneConfig, trials: Sequence[Trial], best: Trial) -> str:
    """The first objective against the other figures, with the cases that no other one beats."""
    cases = cases_of(sweep, trials, best)
    known = known_metrics(sweep, cases)
    if len(known) < 2:
        return ""
    first, *others = known
    front = undominated(sweep, cases) if len(sweep.objectives) > 1 else [case for case in cases if case.is_best]
    wide = layout.width(len(others))
    cards = []
    for metric in others:
        chart = scatter_chart(
            [_point(case, metric, first, main=case in front) for case in cases],
            title=f"{name_of(first)} by {name_of(metric)}",
            x_label=name_of(metric),
            y_label=name_of(first),
            log_x=wants_log([case.figure(metric) or 0.0 for case in cases]),
            width=wide,
            height=round(0.62 * wide),
        )
        cards.append(f'<figure class="card"><h3>{escape(name_of(metric))}</h3>{chart}</figure>')
    what = (
        "means with their 95 % intervals, named where there is room"
        if _is_repeated(sweep, trials)
        else "trials, named where there is room for them"
    )
    which = "The full circle is the best one."
    if len(sweep.objectives) > 1:
        kind = "cases" if sweep.average_over else "trials"
        which = f"Full circles are the {len(front)} {kind} that no other one beats in all objectives."
    return (
        f"<section><h2>Trade-offs</h2><p>{escape(name_of(first))} upwards, each other figure across: {what}. {which}</p>"
        f"{layout.charts(cards)}</section>"
    )


def _point(case: Case, across: str, upwards: str, *, main: bool) -> Mark:
    figures: Mapping[str, Any] = case.figures
    return Mark(
        x=case.figure(across),
        y=case.figure(upwards),
        name=case.name,
        beside=case.short,
        half_x=figures[across].half if across in figures else None,
        half_y=figures[upwards].half if upwards in figures else None,
        main=main,
    )


def parallel(sweep: TuneConfig, trials: Sequence[Trial], best: Trial) -> str:
    """All settings and figures of all cases."""
    cases = cases_of(sweep, trials, best)
    names, metrics = shown_keys(sweep), known_metrics(sweep, cases)
    keys = sorted(names, key=lambda key: -_letters(cases, key))
    rows = [
        [*(_there(case.values[key]) for key in keys), *(case.figure(metric) for metric in metrics)] for case in cases
    ]
    logs = [sweep.space[key].log or wants_log(sweep.space[key].choices) for key in keys]
    logs += [wants_log([case.figure(metric) or 0.0 for case in cases]) for metric in metrics]
    chart = parallel_chart(
        [*(names[key] for key in keys), *(name_of(metric) for metric in metrics)],
        rows,
        title="Trials over settings and figures",
        main=next(place for place, case in enumerate(cases) if case.is_best),
        logs=logs,
    )
    what = _one_of(sweep, trials)
    return (
        f"<section><h2>All of it at once</h2><p>A line is {what}, from its settings on the left to its figures on the right;"
        ' the strong one is the best.</p><figure class="card scroll wide" tabindex="0" role="region"'
        f' aria-label="All of it at once">{chart}</figure></section>'
    )


def _there(value: Any) -> Any:
    """A setting's value for a chart in which nothing would be a gap."""
    return told_value(value) if value is None else value


def _letters(cases: Sequence[Case], key: str) -> int:
    """Of the longest name among a setting's values; the first axis has room for those. 0 of numbers."""
    return max((len(told_value(case.values[key])) for case in cases if not is_number(case.values[key])), default=0)


def _is_repeated(sweep: TuneConfig, trials: Sequence[Trial]) -> bool:
    return bool(sweep.average_over) and is_repeated(groups_of(sweep, trials))


def _one_of(sweep: TuneConfig, trials: Sequence[Trial]) -> str:
    """What a circle or a line stands for."""
    return "the mean of trials that repeat each other" if _is_repeated(sweep, trials) else "a trial"
