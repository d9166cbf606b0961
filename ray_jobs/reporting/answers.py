"""What a sweep says to each of its questions: one figure and one table, means with their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from ray_jobs.reporting import layout
from ray_jobs.reporting.cases import half_of, shown_keys, told_alike
from ray_jobs.reporting.charts import short
from ray_jobs.reporting.intervals import Line, Span, constant, interval_chart
from ray_jobs.tuning.averages import AVERAGES, Answer, Group, Interval, answers_of, groups_of, is_repeated
from ray_jobs.tuning.names import beside, name_of
from ray_jobs.tuning.trials import Trial
from setok.config import TuneConfig


def answers(sweep: TuneConfig, trials: Sequence[Trial]) -> str:
    """All questions, and how to read what is said to them."""
    sections = [_answer(sweep, answer) for answer in answers_of(sweep, trials)]
    if sections and sweep.average_over:
        over = escape(", ".join(shown_over(sweep)))
        if is_repeated(groups_of(sweep, trials)):
            how = (
                f"A large dot is the mean over {over}, the line its 95 % confidence interval (Student's t), a small dot one"
                " trial. Where two intervals overlap widely, nothing is known about which is better."
            )
        else:
            how = (
                f"A dot is one trial: none is repeated over {over} yet, so that there are no intervals, and nothing is known"
                " about how sure the differences are."
            )
        told = f"<p class='note legend-of-all'>{how} The tables alone: {AVERAGES}.</p>"
        sections.insert(0, told)
    return "".join(sections)


def shown_over(sweep: TuneConfig) -> list[str]:
    """What is averaged over, in words."""
    return [key.rpartition(".")[2].replace("_", " ") for key in sweep.average_over]


def _answer(sweep: TuneConfig, answer: Answer) -> str:
    parts = _parts(answer.metrics)
    wide = layout.width(len(parts))
    charts = [_panel(sweep, answer, metric, beside_it, wide) for metric, beside_it in parts.items()]
    kind = "answer beside-it" if len(charts) == 1 else "answer"
    return (
        f'<section class="{kind}"><h2>{escape(answer.question)}</h2><figure class="card">{layout.panels(charts)}</figure>'
        f'<div class="scroll card" tabindex="0" role="region" aria-label="{escape(answer.question)}">'
        f"{_table(sweep, answer)}</div></section>"
    )


def _parts(metrics: Sequence[str]) -> dict[str, list[str]]:
    """Metrics that have a panel of their own, with the references that are drawn in it."""
    owners = {metric: found[0] for metric in metrics if (found := beside(metric)) is not None and found[0] in metrics}
    return {
        metric: [reference for reference, owner in owners.items() if owner == metric]
        for metric in metrics
        if metric not in owners
    }


def _panel(sweep: TuneConfig, answer: Answer, metric: str, references: Sequence[str], wide: int) -> str:
    """One figure of all groups, on one axis."""
    means = [group.interval(metric) for group in answer.groups]
    known = [one if one is not None and math.isfinite(one.mean) else None for one in means]
    lines = [
        Line(
            label=group.label,
            span=None if one is None else _span(one),
            told=text,
            points=_points(group, metric) if one is not None and one.count > 1 else (),
            beside=_beside(group, references),
            main=not sweep.questions and group is answer.groups[0],
        )
        for group, one, text in zip(answer.groups, known, told_alike(known), strict=True)
    ]
    names = [found[1] for reference in references if (found := beside(reference)) is not None]
    chart = interval_chart(lines, title=name_of(metric), references=names, width=wide)
    return f"<div><h3>{escape(name_of(metric))}</h3>{chart}{_legend(answer, references)}</div>"


def _legend(answer: Answer, references: Sequence[str]) -> str:
    """What the gray marks of a panel are."""
    told = []
    for reference in references:
        found = beside(reference)
        assert found is not None  # it is one
        value = constant([_beside(group, [reference])[0] for group in answer.groups])
        if value is not None:
            told.append(f'<span class="key across"></span>{escape(found[1])}, {short(value)}')
        else:
            told.append(f'<span class="key dot"></span>{escape(found[1])}')
    return f'<p class="legend">{" ".join(f"<span>{one}</span>" for one in told)}</p>' if told else ""


def _beside(group: Group, references: Sequence[str]) -> tuple[Span | None, ...]:
    """What a group's figure must be seen with."""
    found = [group.interval(reference) for reference in references]
    return tuple(None if one is None or not math.isfinite(one.mean) else _span(one) for one in found)


def _span(one: Interval) -> Span:
    return Span(mean=one.mean, half=half_of(one))


def _points(group: Group, metric: str) -> tuple[float, ...]:
    results = [result for trial in group.trials if (result := trial.result) is not None]
    return tuple(result.metrics[metric] for result in results if metric in result.metrics)


def _column_names(answer: Answer) -> list[str]:
    """A reference right of its figure has no need to repeat its name."""
    names = []
    for before, metric in zip((None, *answer.metrics), answer.metrics, strict=False):
        found = beside(metric)
        own = found is None or before is None or found[0] not in (before, (beside(before) or ("",))[0])
        names.append(name_of(metric) if found is None or own else found[1])
    return names


def _table(sweep: TuneConfig, answer: Answer) -> str:
    columns = [told_alike([group.interval(metric) for group in answer.groups]) for metric in answer.metrics]
    lines = []
    for number, group in enumerate(answer.groups):
        cells = "".join(f"<td>{column[number]}</td>" for column in columns)
        lines.append(f'<tr><th scope="row">{escape(group.label)}</th><td>{len(group.trials)}</td>{cells}</tr>')
    first = escape(", ".join(shown_keys(sweep).values()))
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in _column_names(answer))
    return (
        f'<table class="tight"><thead><tr><th scope="col">{first}</th><th scope="col">trials</th>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )
