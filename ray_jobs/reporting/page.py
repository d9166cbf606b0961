"""One page that shows what a run learned: a single HTML file that needs nothing else, on a screen, a phone or paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ray_jobs.reporting import layout, setokim
from ray_jobs.reporting.charts import Bar, bar_chart, bubble_chart, histogram
from ray_jobs.reporting.data import (
    EvaluationReport,
    ReportData,
    StageReport,
    load_report_data,
)
from ray_jobs.reporting.examples import STYLE as EXAMPLES_STYLE
from ray_jobs.reporting.gallery import gallery
from ray_jobs.reporting.rows import (
    ALONE,
    COMPARED,
    REFERENCES,
    Reference,
    Row,
    is_better,
    is_known,
    mark,
    name_of,
    of_reference,
    set_of,
    show,
)
from ray_jobs.reporting.run import training, what_ran
from ray_jobs.reporting.style import STYLE

__all__ = ["EvaluationReport", "ReportData", "StageReport", "load_report_data", "render", "write_report"]

REPORT = "report.html"
_ROWS = {row.key: row for row in (*COMPARED, *ALONE)}
_BESIDE = 3
"""So many references stand below a headline figure."""
_HEADLINES = ("psnr", "ari", "foreground_ari", "mean_tokens", "tokens_objects_correlation")


def write_report(source: str | Path | ReportData, path: str | Path | None = None, *, first: str = "") -> Path:
    """Write a report.

    Args:
        source: a run's folder (see ``load_report_data``), or the data itself.
        path: the page's file; ``None`` means ``report.html`` in the run's folder.
        first: a section of the caller's, which comes after the header.

    Returns:
        The page's file.

    Raises:
        DataError: the folder holds nothing to report.
        ValueError: data was given without a path.
    """
    if isinstance(source, ReportData):
        if path is None:
            raise ValueError("a report of data needs a path")
        data, target = source, Path(path)
    else:
        data, target = load_report_data(source), Path(path) if path is not None else Path(source) / REPORT
    temporary = target.with_name(f".{target.name}")
    temporary.write_text(render(data, first=first), encoding="utf-8")
    temporary.replace(target)
    return target


def render(data: ReportData, *, first: str = "") -> str:
    """The page as text."""
    sections = [_header(data), first]
    if any(evaluation.pictures for evaluation in data.evaluations):
        sections.append(_pictures(data.evaluations))
    sections += setokim.sections(data.setokim)
    if data.evaluations:
        sections += [_comparison(data.evaluations), _counts(data.evaluations), _alone(data.evaluations)]
    sections += [training(stage) for stage in data.stages if stage.curves]
    sections.append(what_ran(data))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f"<title>{escape(data.title)}</title><style>{STYLE}{EXAMPLES_STYLE if data.setokim else ''}</style></head><body>"
        f"<main>{''.join(sections)}"
        "<footer>Made by ray_jobs.reporting. The page holds everything it shows and loads nothing.</footer>"
        "</main></body></html>\n"
    )


# ---------------------------------------------------------------- header


def _header(data: ReportData) -> str:
    first = data.evaluations[0] if data.evaluations else None
    beside = [evaluation for evaluation in data.evaluations if _same_set(evaluation, data.evaluations[0])]
    parts = [
        f'<header><p class="eyebrow">{escape(data.name)}</p><h1>{escape(data.title)}</h1><p class="lead">'
        f"{_what(first, data_has_words=bool(data.setokim))}</p>"
    ]
    if first is not None:
        parts.append(layout.tiles([_tile(beside, key) for key in _HEADLINES]))
        others = ", ".join(escape(evaluation.label) for evaluation in data.evaluations if evaluation not in beside)
        if others:
            parts.append(f'<p class="note">Figures above: {escape(first.label)}. Further down also: {others}.</p>')
    parts.append(setokim.headline(data.setokim))
    if first is not None or data.setokim:
        parts.append(
            '<p class="how"><b>How to read this.</b> Nothing here means much alone, so figures stand beside'
            " <b>references</b> that learn nothing, where there are such: one colour for the whole picture, cutting it into"
            f" squares, or sorting patches by raw colour. What beats them was learned; {mark(beats=True)}stands before one that"
            " does better. Higher is better unless a row says otherwise.</p>"
        )
    return "".join(parts) + "</header>"


def _what(first: EvaluationReport | None, *, data_has_words: bool) -> str:
    what = (
        "SeTok turns a picture into a handful of tokens, one for each group of patches that belong together,"
        " and paints the picture back from those tokens alone."
    )
    if data_has_words:
        what += (
            " Setokim is a small language model that reads such tokens and says them too: it answers, describes, draws, edits"
            " and points."
        )
    if first is None and data_has_words:
        return f"{what} This page shows what it says, draws and marks."
    if first is None:
        return f"{what} This page shows how training went; nothing was evaluated."
    number = first.metrics.get("num_images")
    pictures = f"{number:,} pictures" if isinstance(number, int) else "pictures"
    return (
        f"{what} This page shows what it makes of {pictures} of the set “{escape(set_of(first.metrics, first.label))}”."
    )


def _same_set(one: EvaluationReport, other: EvaluationReport) -> bool:
    """Whether two models were measured on the same records, and so stand beside the same references."""

    def measured(evaluation: EvaluationReport) -> tuple[Any, ...]:
        run = evaluation.metrics.get("run") or {}
        data = (run.get("fingerprints") or {}).get("data")
        return data, run.get("data"), evaluation.metrics.get("num_images")

    return one is other or (None not in measured(one) and measured(one) == measured(other))


def _tile(evaluations: Sequence[EvaluationReport], key: str) -> str:
    """A headline figure of models that were measured on one set, and its references."""
    row, metrics = _ROWS[key], evaluations[0].metrics
    values = [evaluation.metrics.get(key) for evaluation in evaluations]
    unit = f"<i>{row.unit}</i>" if row.unit else ""
    if len(evaluations) == 1:
        figures = f'<span class="figure">{show(values[0], row)}{unit}</span>'
    else:
        figures = "".join(
            f'<span class="figure of">{show(value, row)}{unit}<i>{escape(evaluation.label)}</i></span>'
            for value, evaluation in zip(values, evaluations, strict=True)
        )
    if not any(map(is_known, values)):
        beside = escape(str((metrics.get("notes") or {}).get(key, "not measured")))
    elif key == "mean_tokens":
        spread = [show(evaluation.metrics.get("std_tokens"), _ROWS["std_tokens"]) for evaluation in evaluations]
        beside = f"± {' and '.join(dict.fromkeys(spread))} between pictures"
    else:
        beside = "<br>".join(_beside(metrics, row, max(filter(is_known, values))))
    return f'<li class="card"><span class="name">{row.short or row.name}</span>{figures}<span class="beside">{beside}</span></li>'


def _beside(metrics: Mapping[str, Any], row: Row, ours: float) -> list[str]:
    """The best references of a figure in a few words, marked where they do better than ours."""
    shown = [reference for reference in REFERENCES if not reference.is_finer]
    found = {name_of(metrics, reference): of_reference(metrics, reference).get(row.key) for reference in shown}
    known = sorted(((value, name) for name, value in found.items() if is_known(value)), reverse=True)
    return [f"{mark(beats=value > ours)}{show(value, row)} {escape(name)}" for value, name in known[:_BESIDE]]


# ---------------------------------------------------------------- pictures


def _pictures(evaluations: Sequence[EvaluationReport]) -> str:
    shown = [evaluation for evaluation in evaluations if evaluation.pictures]
    galleries = [
        f"<details{' open' if number == 0 else ''}><summary>{escape(evaluation.label)}</summary>"
        f"{gallery(evaluation.pictures)}</details>"
        for number, evaluation in enumerate(shown)
    ]
    body = "".join(galleries) if len(shown) > 1 else gallery(shown[0].pictures)
    return (
        "<section><h2>Pictures</h2><p>Left the original, in the middle its token map with one colour for each token, right what"
        f" the tokens bring back. Point at a region, or tap it, to see what its token covers.</p>{body}</section>"
    )


# ---------------------------------------------------------------- figures


def _comparison(evaluations: Sequence[EvaluationReport]) -> str:
    charts = []
    for evaluation in evaluations:
        for key in ("psnr", "ari", "foreground_ari"):
            if not is_known(evaluation.metrics.get(key)):
                continue  # without masks there is nothing to compare
            chart = _bars(evaluation.metrics, _ROWS[key])
            label = f" <small>{escape(evaluation.label)}</small>" if len(evaluations) > 1 else ""
            unit = f", {_ROWS[key].unit}" if _ROWS[key].unit else ""
            charts.append(f'<figure class="card"><h3>{_ROWS[key].name}{unit}{label}</h3>{chart}</figure>')
    names = [_column(evaluations, reference) for reference in REFERENCES]
    table = _compared(evaluations, names)
    return (
        "<section><h2>Beside what needs no training</h2><p>In the table, a reference that does better than SeTok is marked"
        f" {mark(beats=True)}.</p>{layout.charts(charts)}{table}</section>"
    )


def _bars(metrics: Mapping[str, Any], row: Row) -> str:
    bars = [Bar(label="SeTok", value=metrics.get(row.key), main=True)]
    for reference in REFERENCES:
        value = of_reference(metrics, reference).get(row.key)
        if is_known(value):
            beats = is_better(value, metrics.get(row.key), row)
            bars.append(Bar(label=name_of(metrics, reference), value=value, beats=beats))
    return bar_chart(bars, title=row.name, unit=row.unit, digits=row.digits)


def _column(evaluations: Sequence[EvaluationReport], reference: Reference) -> str:
    names = {name_of(evaluation.metrics, reference) for evaluation in evaluations}
    return names.pop() if len(names) == 1 else reference.name


def _reference_cells(metrics: Mapping[str, Any], row: Row) -> str:
    cells, ours = [], metrics.get(row.key)
    for reference in REFERENCES:
        value = of_reference(metrics, reference).get(row.key)
        if not is_known(value):
            cells.append("<td></td>")
            continue
        cells.append(f"<td>{mark(beats=is_better(value, ours, row))}{show(value, row)}</td>")
    return "".join(cells)


def _compared(evaluations: Sequence[EvaluationReport], names: Sequence[str]) -> str:
    """Figures with references; of several evaluations each has a line of its own below the figure's name."""
    several = len(evaluations) > 1
    lines, notes = [], list[str]()
    for row in COMPARED:
        if several:
            lines.append(
                f'<tr><th class="wide" scope="colgroup" colspan="{len(names) + 2}">{_explained(row)}</th></tr>'
            )
        for evaluation in evaluations:
            head = f'<th class="set" scope="row">{escape(evaluation.label)}</th>'
            head = head if several else f'<th scope="row">{_explained(row)}</th>'
            cells = _cell(evaluation, row, notes, several=several) + _reference_cells(evaluation.metrics, row)
            lines.append(f'<tr class="{"more" if several else "only"}">{head}{cells}</tr>')
    return _framed("set" if several else "figure", ["SeTok", *names], lines, notes, kind="compared")


def _cell(evaluation: EvaluationReport, row: Row, notes: list[str], *, several: bool) -> str:
    value = evaluation.metrics.get(row.key)
    if is_known(value):
        return f'<td class="ours">{show(value, row)}</td>'
    reason = escape(str((evaluation.metrics.get("notes") or {}).get(row.key, "not measured")))
    notes.append(f"– {row.name}{f' ({escape(evaluation.label)})' if several else ''}: {reason}.")
    return f'<td class="ours none" title="{reason}">–</td>'


def _alone(evaluations: Sequence[EvaluationReport]) -> str:
    """Figures without references: one column for every evaluation."""
    lines, notes = [], list[str]()
    for row in ALONE:
        values = "".join(_cell(evaluation, row, notes, several=len(evaluations) > 1) for evaluation in evaluations)
        lines.append(f'<tr><th scope="row">{_explained(row)}</th>{values}</tr>')
    names = [escape(evaluation.label) if len(evaluations) > 1 else "SeTok" for evaluation in evaluations]
    return f"<section><h2>More figures</h2>{_framed('figure', names, lines, notes)}</section>"


def _explained(row: Row) -> str:
    """A figure's name, unit and meaning."""
    unit = f' <span class="unit">{row.unit}</span>' if row.unit else ""
    return f"{row.name}{unit}<small>{row.meaning}{' Lower is better.' if row.better == 'lower' else ''}</small>"


def _framed(
    first: str, names: Sequence[str], lines: Sequence[str], notes: Sequence[str], *, kind: str = "alone"
) -> str:
    """A table with its heading, and below it why figures are missing."""
    heads = "".join(f'<th scope="col">{name}</th>' for name in (first, *names))
    listed = f'<ul class="notes">{"".join(f"<li>{note}</li>" for note in dict.fromkeys(notes))}</ul>' if notes else ""
    table = f"<table class='{kind}'><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="scroll card" tabindex="0" role="region" aria-label="Table of figures">{table}</div>{listed}'


def _counts(evaluations: Sequence[EvaluationReport]) -> str:
    cards = []
    for evaluation in evaluations:
        if not evaluation.token_counts:
            continue
        label = f" <small>{escape(evaluation.label)}</small>" if len(evaluations) > 1 else ""
        chart = histogram(evaluation.token_counts, title="Tokens per image", x_label="tokens", y_label="images")
        cards.append(f'<figure class="card"><h3>Tokens per image{label}</h3>{chart}</figure>')
        if any(count is not None for count in evaluation.object_counts):
            chart = bubble_chart(
                evaluation.object_counts,
                evaluation.token_counts,
                title="Tokens by objects",
                x_label="objects",
                y_label="tokens",
            )
            caption = "<figcaption>Area: how many pictures. Line: mean.</figcaption>"
            cards.append(f'<figure class="card"><h3>Tokens by number of objects{label}</h3>{chart}{caption}</figure>')
    if not cards:
        return ""
    return (
        "<section><h2>How many tokens</h2><p>The number of tokens is the model's own choice for every picture. It should grow"
        f" with what there is to see.</p>{layout.charts(cards)}</section>"
    )
