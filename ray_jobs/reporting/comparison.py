"""Figures of checkpoints side by side, above the references that they must be seen with: for pages, files and terminals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from rich.markup import escape as plain
from rich.table import Table

from ray_jobs import launch
from ray_jobs.reporting import setokim
from ray_jobs.reporting.benchmarks import row_of
from ray_jobs.reporting.rows import (
    ALONE,
    BEATS,
    COMPARED,
    REFERENCES,
    Row,
    is_better,
    is_known,
    label_of,
    name_of,
    of_reference,
    show,
)
from ray_jobs.scoring.tasks import OWN, TASKS

Metrics = Mapping[str, Any]
Evaluations = Mapping[str, Metrics]
"""What ``metrics.json`` holds, by the name of the checkpoint."""
_OF_TOKENS = {row.key: row for row in (*COMPARED, *ALONE)}
NOTHING = "–"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One figure, or a reference of the figure above."""

    task: str = ""
    """With the number of samples; empty where it is that of the line above."""
    scorer: str = ""
    """Of a benchmark, whose definition its figures follow; beside its name."""
    figure: str
    """Its name, its unit, and an arrow where lower is better."""
    values: tuple[str, ...]
    """Of every checkpoint, ``–`` where it has none; a reference that does better has a mark in front."""
    is_best: tuple[bool, ...] = ()
    """Of every checkpoint, whether none of the others has a better figure; all false where they are the same."""
    is_reference: bool = False


def lines_of(evaluations: Evaluations) -> list[Line]:
    """All figures of all tasks, in the order of the tasks' list."""
    lines: list[Line] = []
    for task in TASKS:
        own = [_figures(task, metrics) for metrics in evaluations.values()]
        found = list(_of_task(task, own))
        if found:
            number = next((_number(figures) for figures in own if figures), None)
            about = f"{task} ({number:,})" if number is not None else task
            found[0] = replace(found[0], task=about, scorer="" if task in OWN else TASKS[task].scorer)
        lines += found
    return lines


def _figures(task: str, metrics: Metrics) -> Metrics:
    """The figures of a task; those of ``tokens`` lie at the top."""
    if task == "tokens":
        return metrics if "num_images" in metrics else {}
    found = metrics.get(task)
    return found if isinstance(found, Mapping) else {}


def _number(figures: Metrics) -> int | None:
    names = ("num", "num_samples", "num_images")
    return next((figures[name] for name in names if isinstance(figures.get(name), int)), None)


def _of_task(task: str, own: Sequence[Metrics]) -> Iterator[Line]:
    if task in OWN:
        yield from _tokens(own) if task == "tokens" else _setokim(task, own)
        return
    known = [key for key in TASKS[task].headline if any(is_known(figures.get(key)) for figures in own)]
    for key in known:
        yield _figure(row_of(task, key), [figures.get(key) for figures in own])
    notes = tuple(str(figures.get("note") or NOTHING) if figures else NOTHING for figures in own)
    if not known and any(note != NOTHING for note in notes):
        yield Line(figure="no figure", values=notes)


def _tokens(own: Sequence[Metrics]) -> Iterator[Line]:
    for key in TASKS["tokens"].headline:
        row, ours = _OF_TOKENS[key], [figures.get(key) for figures in own]
        if not any(map(is_known, ours)):
            continue
        yield _figure(row, ours)
        for reference in (reference for reference in REFERENCES if not reference.is_finer):
            values = [of_reference(figures, reference).get(key) for figures in own]
            if any(map(is_known, values)):
                name = next((name_of(figures, reference) for figures in own if figures), reference.name)
                yield _reference(row, name, values, ours)


def _setokim(task: str, own: Sequence[Metrics]) -> Iterator[Line]:
    about = setokim.TASKS[task]
    for row in about.figures:
        ours = [figures.get(row.key) for figures in own]
        if not any(map(is_known, ours)):
            continue
        yield _figure(row, ours)
        for path, name in about.references:
            values = [setokim.value_at(figures, (*path, row.key)) for figures in own]
            if any(map(is_known, values)):
                yield _reference(row, name, values, [None] * len(own) if path == setokim.LIMIT else ours)


def _figure(row: Row, values: Sequence[Any]) -> Line:
    """A figure of all checkpoints; what is shown alike is equally good."""
    shown = tuple(show(value, row) if is_known(value) else NOTHING for value in values)
    known = [value for value in values if is_known(value)]
    best = {show(value, row) for value in known if not any(is_better(other, value, row) for other in known)}
    differ = bool(row.better) and len({text for text in shown if text != NOTHING}) > 1
    return Line(figure=label_of(row), values=shown, is_best=tuple(differ and text in best for text in shown))


def _reference(row: Row, name: str, values: Sequence[Any], ours: Sequence[Any]) -> Line:
    """A reference of all checkpoints, marked where it does better than theirs."""
    shown = []
    for value, own in zip(values, ours, strict=True):
        text = show(value, row) if is_known(value) else NOTHING
        shown.append(f"{BEATS} {text}" if is_better(value, own, row) else text)
    return Line(figure=name, values=tuple(shown), is_best=(False,) * len(shown), is_reference=True)


# ---------------------------------------------------------------- as text, page and on the terminal


def _marked(line: Line, mark: Callable[[str], str], text: Callable[[str], str] = str) -> list[str]:
    """The values as text, the best ones marked."""
    best = line.is_best or (False,) * len(line.values)
    return [mark(text(value)) if is_best else text(value) for value, is_best in zip(line.values, best, strict=True)]


def markdown(lines: Sequence[Line], labels: Sequence[str]) -> str:
    """A Markdown table."""
    rows = [["task", "figure", *labels], ["---", "---", *["---:"] * len(labels)]]
    for line in lines:
        figure = f"· {line.figure}" if line.is_reference else line.figure
        rows.append([line.task, figure, *_marked(line, lambda value: f"**{value}**")])
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def table(lines: Sequence[Line], labels: Sequence[str]) -> str:
    """A table of a page, each task below a line of its own."""
    heads = "".join(f'<th scope="col">{escape(label)}</th>' for label in labels)
    body = []
    for line in lines:
        if line.task:
            scorer = f"<small>{escape(line.scorer)}</small>" if line.scorer else ""
            name = f'<th scope="colgroup" colspan="{len(labels) + 1}">{escape(line.task)}{scorer}</th>'
            body.append(f'<tr class="task">{name}</tr>')
        texts = _marked(line, lambda value: f'<b title="the best of these">{value}</b>', escape)
        cells = "".join(f"<td>{text}</td>" for text in texts)
        kind = "reference" if line.is_reference else "figure"
        body.append(f'<tr class="{kind}"><th scope="row">{escape(line.figure)}</th>{cells}</tr>')
    return (
        '<div class="scroll card" tabindex="0" role="region" aria-label="All figures"><table class="beside"><thead><tr>'
        f'<th scope="col">figure</th>{heads}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )


def on_console(lines: Sequence[Line], labels: Sequence[str]) -> None:
    """Print a table where people read."""
    shown = Table(box=None, pad_edge=False)
    for name in ("task", "figure"):
        shown.add_column(name)
    for label in labels:
        shown.add_column(plain(label), justify="right")
    for line in lines:
        figure = f"  {line.figure}" if line.is_reference else line.figure
        values = _marked(line, lambda value: f"[bold]{value}[/bold]", plain)
        shown.add_row(line.task, plain(figure), *values, style="dim" if line.is_reference else "")
    launch.console().print(shown)


def headlines(metrics: Metrics) -> list[str]:
    """The figures of one evaluation without what stands beside them, a line for each task."""
    found: dict[str, list[str]] = {}
    task = ""
    for line in lines_of({"": metrics}):
        task = line.task or task
        if not line.is_reference:
            found.setdefault(task, []).append(f"{line.figure} {line.values[0]}")
    return [f"{task}: {' · '.join(figures)}" for task, figures in found.items()]
