"""The page of a sweep: what is best, what each setting is worth, and every trial; one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ray_jobs.reporting import layout
from ray_jobs.reporting.charts import Bar, bar_chart, short
from ray_jobs.reporting.page import REPORT
from ray_jobs.reporting.scatter import Mark, interval_chart, parallel_chart, scatter_chart
from ray_jobs.reporting.style import STYLE
from ray_jobs.tuning import results
from ray_jobs.tuning.averages import AVERAGES, Answer, answers_of
from ray_jobs.tuning.names import name_of
from ray_jobs.tuning.trials import Trial
from setok.config import TuneConfig


def write_sweep_report(sweep: TuneConfig, trials: Sequence[Trial]) -> Path:
    """Write ``report.html`` into the sweep's folder."""
    path = sweep.run_dir / REPORT
    temporary = path.with_name(f".{REPORT}")
    temporary.write_text(render_sweep(sweep, trials), encoding="utf-8")
    temporary.replace(path)
    return path


def render_sweep(sweep: TuneConfig, trials: Sequence[Trial]) -> str:
    """The page as text."""
    best = results.best_of(sweep, trials)
    sections = [_header(sweep, trials, best)]
    if best is not None and (sweep.average_over or sweep.questions):
        sections.append(_averages(sweep, trials))
    if best is not None:
        sections += [_importance(sweep, trials), _against(sweep, trials, best), _trade_offs(sweep, trials, best)]
        sections.append(_parallel(sweep, trials, best))
    sections.append(_table(sweep, trials, best))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f"<title>{escape(sweep.title)}</title><style>{STYLE}</style></head><body><main>{''.join(sections)}"
        "<footer>Made by ray_jobs.reporting. The page holds everything it shows and loads nothing.</footer>"
        "</main></body></html>\n"
    )


def _header(sweep: TuneConfig, trials: Sequence[Trial], best: Trial | None) -> str:
    states = [result.state for trial in trials if (result := trial.result) is not None]
    counts = [f"{states.count(state)} {state}" for state in ("done", "halted", "failed") if state in states]
    if len(states) < len(trials):
        counts.append(f"{len(trials) - len(states)} unfinished")
    settings = ", ".join(escape(key) for key in sweep.space)
    steps = " and ".join(f"{stage.train.steps} steps of {stage.stage}" for stage in sweep.stages)
    lead = f"{len(trials)} trials, each of {steps}, that differ in {settings}: {', '.join(counts)}."
    parts = [
        f'<header><p class="eyebrow">{escape(sweep.name)}</p><h1>{escape(sweep.title)}</h1><p class="lead">{lead}</p>'
    ]
    if best is not None and best.result is not None:
        tiles = [
            f'<li class="card"><span class="name">{escape(name_of(metric))}</span>'
            f'<span class="figure">{short(best.result.metrics[metric])}</span><span class="beside">best trial</span></li>'
            for metric in sweep.metrics
            if metric in best.result.metrics
        ]
        parts.append(layout.tiles(tiles))
        parts.append(
            f'<p class="how"><b>Trial {best.number} is best</b> by {escape(name_of(sweep.objectives[0].metric))}'
            f" ({sweep.objectives[0].best_is}): {escape(_values(best))}. Its settings are in <b>{results.BEST}</b>, which"
            f" <b>python -m ray_jobs.train --config</b> takes. {_how_sure(sweep)}</p>"
        )
    return "".join(parts) + "</header>"


def _how_sure(sweep: TuneConfig) -> str:
    if sweep.average_over:
        return f"Best is the group of trials with the best mean over {escape(', '.join(sweep.average_over))}."
    return "One run a trial: differences that a second seed could bring about say nothing."


def _averages(sweep: TuneConfig, trials: Sequence[Trial]) -> str:
    """What the trials say to each question: a figure, and a table."""
    sections = [_answer(sweep, answer) for answer in answers_of(sweep, trials)]
    over = escape(", ".join(sweep.average_over))
    told = (
        f"<p class='note'>Means over {over}, with their 95 % confidence intervals. Where two intervals overlap widely, nothing"
        f" is known about which is better. The tables alone: {AVERAGES}.</p>"
    )
    return "".join(sections) + (told if sweep.average_over else "")


def _answer(sweep: TuneConfig, answer: Answer) -> str:
    charts, lines = [], []
    for metric in answer.metrics:
        known = [(group.label, one) for group in answer.groups if (one := group.interval(metric)) is not None]
        rows = [(label, one.mean, one.half) for label, one in known]
        chart = interval_chart(rows, title=name_of(metric), main=None if sweep.questions else 0)
        charts.append(f"<div><h3>{escape(name_of(metric))}</h3>{chart}</div>")
    for group in answer.groups:
        found = [group.interval(metric) for metric in answer.metrics]
        cells = "".join(f"<td>{'–' if one is None else one.told()}</td>" for one in found)
        lines.append(f'<tr><th scope="row">{escape(group.label)}</th><td>{len(group.trials)}</td>{cells}</tr>')
    heads = "".join(f'<th scope="col">{escape(name_of(metric))}</th>' for metric in answer.metrics)
    table = f"<table><thead><tr><th></th><th>trials</th>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return (
        f'<section><h2>{escape(answer.question)}</h2><figure class="card" style="margin:18px 0;padding:14px">'
        f'<div class="charts two" style="margin-top:0">{"".join(charts)}</div></figure>'
        f'<div class="scroll card" tabindex="0" role="region" aria-label="{escape(answer.question)}">{table}</div></section>'
    )


def _importance(sweep: TuneConfig, trials: Sequence[Trial]) -> str:
    """What each setting explains of each objective."""
    finished = results.done(sweep, trials)
    cards = []
    for metric in _known(sweep, finished):
        have = [trial for trial in finished if _figure(trial, metric) is not None]
        figures = [value for trial in have if (value := _figure(trial, metric)) is not None]
        bars = [
            Bar(label=_short(key), value=results.importance([trial.values[key] for trial in have], figures), main=True)
            for key in sweep.space
        ]
        chart = bar_chart(bars, title=f"Share of {name_of(metric)} explained")
        cards.append(f'<figure class="card"><h3>{escape(name_of(metric))}</h3>{chart}</figure>')
    return (
        "<section><h2>What each setting is worth</h2><p>The share of a figure's spread between trials that one setting explains"
        " by itself: 1 is all of it. Of few trials chance alone explains something.</p>"
        f'<div class="charts two">{"".join(cards)}</div></section>'
    )


def _against(sweep: TuneConfig, trials: Sequence[Trial], best: Trial) -> str:
    """Every setting against every figure."""
    shown = [trial for trial in trials if trial.result is not None and trial.result.state != "failed"]
    cards = []
    for key, dimension in sweep.space.items():
        for metric in _known(sweep, shown):
            chart = scatter_chart(
                [_mark(trial, trial.values[key], metric, main=trial.number == best.number) for trial in shown],
                title=f"{_short(key)} and {name_of(metric)}",
                x_label=_short(key),
                y_label=name_of(metric),
                log_x=dimension.log or _spans_decades(dimension.choices),
            )
            cards.append(
                f'<figure class="card"><h3>{escape(name_of(metric))} <small>{escape(_short(key))}</small></h3>{chart}</figure>'
            )
    return (
        "<section><h2>Settings and figures</h2><p>A circle is a trial, the full one the best, a gray one ended early; the line"
        f' is the mean where several trials share a value.</p><div class="charts">{"".join(cards)}</div></section>'
    )


def _trade_offs(sweep: TuneConfig, trials: Sequence[Trial], best: Trial) -> str:
    """The first objective against the other figures, with the trials that no other one beats."""
    finished = results.done(sweep, trials)
    first, *others = _known(sweep, finished)
    front = {finished[place].number for place in results.undominated(results.scores(sweep, finished))}
    cards = []
    for metric in others:
        marks = [
            _mark(trial, _figure(trial, metric), first, main=trial.number in front and len(sweep.objectives) > 1)
            for trial in finished
        ]
        if len(sweep.objectives) == 1:
            marks = [
                _mark(trial, _figure(trial, metric), first, main=trial.number == best.number) for trial in finished
            ]
        chart = scatter_chart(
            marks,
            title=f"{name_of(first)} and {name_of(metric)}",
            x_label=name_of(metric),
            y_label=name_of(first),
            width=420,
        )
        cards.append(f'<figure class="card"><h3>{escape(name_of(metric))}</h3>{chart}</figure>')
    if not cards:
        return ""
    told = (
        f"Full circles are the {len(front)} trials that no other one beats in all objectives."
        if len(sweep.objectives) > 1
        else "The full circle is the best trial."
    )
    return (
        f"<section><h2>What {escape(name_of(first))} costs</h2><p>{told}</p>"
        f'<div class="charts two">{"".join(cards)}</div></section>'
    )


def _parallel(sweep: TuneConfig, trials: Sequence[Trial], best: Trial) -> str:
    finished = results.done(sweep, trials)
    metrics = _known(sweep, finished)
    names = [*(_short(key) for key in sweep.space), *(name_of(metric) for metric in metrics)]
    rows = [
        [*(trial.values[key] for key in sweep.space), *(_figure(trial, metric) for metric in metrics)]
        for trial in finished
    ]
    logs = [dimension.log or _spans_decades(dimension.choices) for dimension in sweep.space.values()]
    main = next(place for place, trial in enumerate(finished) if trial.number == best.number)
    chart = parallel_chart(
        names, rows, title="Trials over settings and figures", main=main, logs=[*logs, *([False] * len(metrics))]
    )
    return (
        "<section><h2>All of it at once</h2><p>A line is a trial, from its settings on the left to its figures on the right;"
        f' the strong one is the best.</p><figure class="card" style="margin:18px 0 0;padding:14px">{chart}</figure></section>'
    )


def _table(sweep: TuneConfig, trials: Sequence[Trial], best: Trial | None) -> str:
    """Every trial, the best first, then those without figures."""
    finished = results.done(sweep, trials)
    points = results.scores(sweep, finished)
    order = sorted(range(len(finished)), key=lambda place: tuple(-points[place]))
    ranked = [finished[place] for place in order]
    ranked += [trial for trial in trials if trial.number not in {one.number for one in finished}]
    metrics = _known(sweep, trials)
    heads = ["trial", *(_short(key) for key in sweep.space), *(name_of(metric) for metric in metrics), "state"]
    lines = []
    for trial in ranked:
        result = trial.result
        state = "unfinished" if result is None else result.state + (f": {result.reason}" if result.reason else "")
        cells = [_told(trial.values.get(key)) for key in sweep.space]
        cells += ["–" if (value := _figure(trial, metric)) is None else short(value) for metric in metrics]
        ours = ' class="ours"' if best is not None and trial.number == best.number else ""
        told = "".join(f"<td{ours}>{escape(cell)}</td>" for cell in cells)
        lines.append(
            f'<tr><th scope="row">{trial.number}</th>{told}<td style="white-space:normal">{escape(state)}</td></tr>'
        )
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return (
        "<section><h2>Every trial</h2>"
        f'<div class="scroll card" tabindex="0" role="region" aria-label="Table of trials">{table}</div>'
        f"<p class='note'>With all figures of every trial: {results.TABLE}.</p></section>"
    )


# ---------------------------------------------------------------- helpers


def _known(sweep: TuneConfig, trials: Iterable[Trial]) -> list[str]:
    """Metrics of the sweep that at least one trial has."""
    there = list(trials)
    return [metric for metric in sweep.metrics if any(_figure(trial, metric) is not None for trial in there)]


def _figure(trial: Trial, metric: str) -> float | None:
    result = trial.result
    return None if result is None else result.metrics.get(metric)


def _mark(trial: Trial, x: Any, metric: str, *, main: bool) -> Mark:
    result = trial.result
    faint = result is None or result.state != "done"
    return Mark(x=x, y=_figure(trial, metric), name=f"trial {trial.number}, {_values(trial)}", main=main, faint=faint)


def _values(trial: Trial) -> str:
    return ", ".join(f"{_short(key)} {_told(value)}" for key, value in trial.values.items())


def _short(key: str) -> str:
    """The last part of a dotted key, which is what there is room for."""
    return key.rpartition(".")[2]


def _told(value: Any) -> str:
    return "–" if value is None else str(value)


def _spans_decades(choices: Sequence[Any]) -> bool:
    """Whether values lie so far apart that only their logarithms can be told apart."""
    numbers = [value for value in choices if isinstance(value, (int, float)) and not isinstance(value, bool)]
    return len(numbers) == len(choices) > 2 and min(numbers) > 0 and max(numbers) / min(numbers) > 20
