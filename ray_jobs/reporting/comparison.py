"""Figures of checkpoints side by side, above the references that they must be seen with: for pages, files and terminals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rich.table import Table

from ray_jobs import launch
from ray_jobs.reporting import setokim
from ray_jobs.reporting.rows import ALONE, COMPARED, REFERENCES, Row, is_known, name_of, of_reference, show
from ray_jobs.scoring.tasks import OWN, TASKS

Metrics = Mapping[str, Any]
Evaluations = Mapping[str, Metrics]
"""What ``metrics.json`` holds, by the name of the checkpoint."""
_OF_TOKENS = {row.key: row for row in (*COMPARED, *ALONE)}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One figure, or a reference of the figure above."""

    task: str
    """Empty where it is that of the line above."""
    figure: str
    values: tuple[str, ...]
    """Of every checkpoint, ``–`` where it has none."""
    is_reference: bool = False


def lines_of(evaluations: Evaluations) -> list[Line]:
    """All figures of all tasks, in the order of the tasks' list."""
    lines: list[Line] = []
    for task in TASKS:
        own = [_figures(task, metrics) for metrics in evaluations.values()]
        number = next((_number(figures) for figures in own if figures), None)
        about = f"{task} ({number:,})" if number is not None else task
        found = list(_of_task(task, own))
        lines += [
            Line(task=about if i == 0 else "", figure=name, values=values, is_reference=is_reference)
            for i, (name, values, is_reference) in enumerate(found)
        ]
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


def _of_task(task: str, own: Sequence[Metrics]) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    if task in OWN:
        yield from _tokens(own) if task == "tokens" else _setokim(task, own)
        return
    for name in TASKS[task].headline:
        values = [figures.get(name) for figures in own]
        if any(is_known(value) for value in values):
            yield name, tuple(_plain(value) for value in values), False
    if not any(is_known(figures.get(name)) for name in TASKS[task].headline for figures in own):
        notes = tuple(str(figures.get("note") or "–") if figures else "–" for figures in own)
        if any(note != "–" for note in notes):
            yield "no figure", notes, False


def _tokens(own: Sequence[Metrics]) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    for key in TASKS["tokens"].headline:
        row = _OF_TOKENS[key]
        if not any(is_known(figures.get(key)) for figures in own):
            continue
        yield _name(row), tuple(show(figures.get(key), row) for figures in own), False
        for reference in REFERENCES:
            values = [of_reference(figures, reference).get(key) for figures in own]
            name = next((name_of(figures, reference) for figures in own if figures), reference.short)
            if any(map(is_known, values)) and (reference.path[-1] != "above"):
                yield name, tuple(show(value, row) for value in values), True


def _setokim(task: str, own: Sequence[Metrics]) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    about = setokim.TASKS[task]
    for row in about.figures:
        if not any(is_known(figures.get(row.key)) for figures in own):
            continue
        yield _name(row), tuple(show(figures.get(row.key), row) for figures in own), False
        for path, name in about.references:
            values = [setokim.value_at(figures, (*path, row.key)) for figures in own]
            if any(map(is_known, values)):
                yield name, tuple(show(value if is_known(value) else None, row) for value in values), True


def _plain(value: Any) -> str:
    """A benchmark's figure, be it a share or percent."""
    return "–" if not is_known(value) else f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def _name(row: Row) -> str:
    return f"{row.name}, {row.unit}" if row.unit else row.name


# ---------------------------------------------------------------- as text, page and on the terminal


def markdown(lines: Sequence[Line], labels: Sequence[str]) -> str:
    """A Markdown table."""
    rows = [["task", "figure", *labels], ["---", "---", *["---:"] * len(labels)]]
    for line in lines:
        figure = f"· {line.figure}" if line.is_reference else line.figure
        rows.append([line.task, figure, *line.values])
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def table(lines: Sequence[Line], labels: Sequence[str]) -> str:
    """A table of a page."""
    heads = "".join(f'<th scope="col">{escape(label)}</th>' for label in labels)
    body = []
    for line in lines:
        cells = "".join(f'<td class="{"none" if line.is_reference else "ours"}">{escape(v)}</td>' for v in line.values)
        kind = "" if line.task else ' class="more"'
        name = f"<small>{escape(line.figure)}</small>" if line.is_reference else escape(line.figure)
        body.append(f'<tr{kind}><td>{escape(line.task)}</td><th scope="row">{name}</th>{cells}</tr>')
    return (
        '<div class="scroll card" tabindex="0" role="region" aria-label="All figures"><table class="beside"><thead><tr>'
        f'<th scope="col">task</th><th scope="col">figure</th>{heads}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )


def on_console(lines: Sequence[Line], labels: Sequence[str]) -> None:
    """Print a table where people read."""
    shown = Table(box=None, pad_edge=False)
    shown.add_column("task")
    shown.add_column("figure")
    for label in labels:
        shown.add_column(label, justify="right")
    for line in lines:
        figure = f"  {line.figure}" if line.is_reference else line.figure
        shown.add_row(line.task, figure, *line.values, style="dim" if line.is_reference else "")
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
