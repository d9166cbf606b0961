"""The page of a sweep: what is best, what each setting is worth, and every trial; one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from ray_jobs.reporting import layout, sweep_charts
from ray_jobs.reporting.answers import answers, shown_over
from ray_jobs.reporting.cases import shown_keys, told, told_alike, told_figures
from ray_jobs.reporting.page import REPORT
from ray_jobs.reporting.scales import name_of as told_value
from ray_jobs.reporting.style import STYLE
from ray_jobs.reporting.sweep_style import STYLE as OWN_STYLE
from ray_jobs.tuning import results
from ray_jobs.tuning.averages import Group, Interval, groups_of, is_repeated
from ray_jobs.tuning.names import name_of, setting_names
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
    best, title = results.best_of(sweep, trials), sweep.title or sweep.name
    sections = [_header(sweep, trials, best)]
    if best is not None and (sweep.average_over or sweep.questions):
        sections.append(answers(sweep, trials))
    if best is not None:
        sections.append(sweep_charts.importance(sweep, trials))
        sections += [show(sweep, trials, best) for show in (sweep_charts.against, sweep_charts.trade_offs)]
        sections.append(sweep_charts.parallel(sweep, trials, best))
    sections.append(_table(sweep, trials, best))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f"<title>{escape(title)}</title><style>{STYLE}{OWN_STYLE}</style></head><body><main>{''.join(sections)}"
        "<footer>Made by ray_jobs.reporting. The page holds everything it shows and loads nothing.</footer>"
        "</main></body></html>\n"
    )


def _header(sweep: TuneConfig, trials: Sequence[Trial], best: Trial | None) -> str:
    parts = [
        f'<header><p class="eyebrow">{escape(sweep.name)}</p><h1>{escape(sweep.title or sweep.name)}</h1>'
        f'<p class="lead">{_lead(sweep, trials)}</p>'
    ]
    if best is not None:
        group, *others = groups_of(sweep, trials) if sweep.average_over else [Group(values=best.values, trials=(best,))]
        parts.append(layout.tiles(_tiles(sweep, group, best)))
        parts.append(f'<p class="how">{_best(sweep, group, others, best)}</p>')
    return "".join(parts) + "</header>"


def _lead(sweep: TuneConfig, trials: Sequence[Trial]) -> str:
    """How many trials of what, and what became of them."""
    states = [result.state for trial in trials if (result := trial.result) is not None]
    counts = [f"{states.count(state)} {state}" for state in ("done", "halted", "failed") if state in states]
    if len(states) < len(trials):
        counts.append(f"{len(trials) - len(states)} unfinished")
    became = "All are done" if counts == [f"{len(trials)} done"] else ", ".join(counts).capitalize()
    differ = escape(_listed(list(shown_keys(sweep).values())))
    groups = groups_of(sweep, trials) if sweep.average_over else []
    repeated = f", each repeated over {escape(', '.join(shown_over(sweep)))}" if is_repeated(groups) else ""
    steps = ", then ".join(f"{stage.train.steps} steps of {stage.stage}" for stage in sweep.stages)
    return f"{len(trials)} trials that differ in {differ}{repeated}; each is {steps}. {became}."


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _tiles(sweep: TuneConfig, group: Group, best: Trial) -> list[str]:
    """Headline figures of the best trial, or the means of the best trials."""
    count = len(group.trials)
    which = f"mean of {count} trials" if count > 1 else f"trial {best.number}"
    tiles = []
    for metric in sweep.metrics:
        if (one := group.interval(metric)) is None:
            continue
        mean, _, half = told_alike([one])[0].partition(" ± ")
        half = f"<i>± {half}</i>" if half else ""
        tiles.append(
            f'<li class="card"><span class="name">{escape(name_of(metric))}</span>'
            f'<span class="figure">{mean}{half}</span><span class="beside">{which}</span></li>'
        )
    return tiles


def _best(sweep: TuneConfig, group: Group, others: Sequence[Group], best: Trial) -> str:
    """Which is best, how sure that is, and where its settings are."""
    objective = sweep.objectives[0]
    by = f"by {escape(name_of(objective.metric))} ({objective.best_is} is best)"
    files = f"<b>{results.BEST}</b>, which <b>python -m ray_jobs.train --config</b> takes."
    if not sweep.average_over:
        return (
            f"<b>Trial {best.number} is best</b> {by}: {escape(told(sweep, best.values))}. Its settings are in {files} One run a"
            " trial: differences that a second seed could bring about say nothing."
        )
    spans = [one for each in (group, *others[:1]) if (one := each.interval(objective.metric)) is not None]
    figures = told_alike(spans)
    text = f"<b>{escape(group.label)}</b> is best {by}: {figures[0]}, over {group.size}."
    if len(spans) > 1:
        text += f" Next is {escape(others[0].label)}, {figures[1]}: {_sureness(*spans)}."
    which = ", ".join(f"{name} {told_value(best.values[key])}" for key, name in _repeated(sweep).items())
    return f"{text} The settings of its trial {best.number} ({escape(which)}) are in {files}"


def _sureness(first: Interval, second: Interval) -> str:
    """Whether one of two means is surely better."""
    if first.half is None or second.half is None:
        return "a single trial has no interval, so that it may be as good"
    if abs(first.mean - second.mean) > first.half + second.half:
        return "their intervals lie apart"
    return "their intervals overlap, so that it may be as good"


def _repeated(sweep: TuneConfig) -> dict[str, str]:
    return dict(zip(sweep.average_over, shown_over(sweep), strict=True))


def _table(sweep: TuneConfig, trials: Sequence[Trial], best: Trial | None) -> str:
    """Every trial, the best first (together with those that repeat it), then those without figures."""
    ranked, ours = _ranked(sweep, trials, best)
    metrics = [metric for metric in sweep.metrics if any(_figure(trial, metric) is not None for trial in trials)]
    names = setting_names(sweep.space)
    heads = '<th scope="col">trial</th>'
    heads += "".join(f'<th scope="col" title="{escape(key)}">{escape(name)}</th>' for key, name in names.items())
    heads += "".join(f'<th scope="col">{escape(name_of(metric))}</th>' for metric in metrics)
    lines = []
    figures = [told_figures([_figure(trial, metric) for trial in ranked]) for metric in metrics]
    for place, trial in enumerate(ranked):
        result = trial.result
        state = "unfinished" if result is None else result.state + (f": {result.reason}" if result.reason else "")
        cells = [told_value(trial.values[key]) if key in trial.values else "–" for key in sweep.space]
        cells += [column[place] for column in figures]
        kind = ' class="ours"' if trial.number in ours else ""
        shown = "".join(f"<td{kind}>{escape(cell)}</td>" for cell in cells)
        room = "state long" if result is not None and result.reason else "state"
        lines.append(f'<tr><th scope="row">{trial.number}</th>{shown}<td class="{room}">{escape(state)}</td></tr>')
    table = (
        f'<table class="tight"><thead><tr>{heads}<th scope="col">state</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )
    return (
        "<section><h2>Every trial</h2>"
        f'<div class="scroll card" tabindex="0" role="region" aria-label="Table of trials">{table}</div>'
        f"<p class='note'>With all figures of every trial: {results.TABLE}.</p></section>"
    )


def _ranked(sweep: TuneConfig, trials: Sequence[Trial], best: Trial | None) -> tuple[list[Trial], set[int]]:
    """All trials in the order of the table, and the numbers of the best."""
    finished = results.done(sweep, trials)
    if sweep.average_over:
        groups = groups_of(sweep, trials)
        ranked = [trial for group in groups for trial in group.trials]
        ours = {trial.number for trial in groups[0].trials} if groups else set()
    else:
        points = results.scores(sweep, finished)
        ranked = [finished[place] for place in sorted(range(len(finished)), key=lambda place: tuple(-points[place]))]
        ours = {best.number} if best is not None else set()
    there = {trial.number for trial in ranked}
    return ranked + [trial for trial in trials if trial.number not in there], ours


def _figure(trial: Trial, metric: str) -> float | None:
    result = trial.result
    return None if result is None else result.metrics.get(metric)
