"""The report on Setokim: answers, captions, regions and drawn pictures next to the truth, and figures next to references."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

from ray_jobs.reporting import examples as cases
from ray_jobs.reporting import layout
from ray_jobs.reporting.charts import Bar, bar_chart
from ray_jobs.reporting.rows import BEATS, Row, is_better, is_known, mark, set_of, show

Metrics = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class SetokimReport:
    """One evaluation of Setokim: a set, its figures by task, and some examples."""

    label: str
    metrics: Metrics
    examples: tuple[Mapping[str, Any], ...] = field(default=())
    """As ``ray_jobs.evaluation.cases`` makes them; pictures are PNG in base64."""


@dataclass(frozen=True, kw_only=True)
class _Task:
    title: str
    meaning: str
    figures: tuple[Row, ...]
    references: tuple[tuple[tuple[str, ...], str], ...]
    """Where a reference's figures lie in the task's, and its name; the figure's key comes last."""


TASKS: dict[str, _Task] = {
    "vqa": _Task(
        title="Questions",
        meaning="The model reads a picture's tokens and a question. Beside it: the most frequent answer to the same words (in"
        " train_data, or in this very set where none is named), which is all that reading without seeing can give; the model"
        " itself when it is shown a gray picture; and the most frequent answer to the type of question.",
        figures=(
            Row(
                key="accuracy",
                name="Answers right",
                meaning="VQAv2's soft accuracy, with the answers written as TextVQA's scorer writes them.",
                unit="%",
                digits=0,
            ),
        ),
        references=(
            (("by_question",), "by the words alone"),
            (("blind",), "shown gray"),
            (("constant",), "one answer a type"),
        ),
    ),
    "caption": _Task(
        title="Captions",
        meaning="Every thing in the picture should be named by its right name, as often as it is there. No reference stands"
        " beside these.",
        figures=(
            Row(
                key="f1",
                name="Things, F1",
                meaning="Harmonic mean of the next two: naming everything does not help.",
                unit="%",
                digits=0,
            ),
            Row(
                key="recall",
                name="Things named",
                meaning="Share of the things in the true caption that are said.",
                unit="%",
                digits=0,
            ),
            Row(
                key="precision",
                name="Things right",
                meaning="Share of the things said that are there.",
                unit="%",
                digits=0,
            ),
            Row(
                key="exact", name="Word for word", meaning="Captions that are exactly the true one.", unit="%", digits=0
            ),
        ),
        references=(),
    ),
    "segment": _Task(
        title="Regions",
        meaning="The model is told a phrase and marks the one thing that it means. Beside it: the one mask that fits all training"
        " phrases best, and always marking the largest or second largest of the picture's tokens.",
        figures=(
            Row(
                key="giou",
                name="gIoU",
                meaning="Overlap of the marked with the true region, mean over phrases.",
                digits=3,
            ),
            Row(
                key="ciou",
                name="cIoU",
                meaning="All shared pixels over all pixels of either: large things count more.",
                digits=3,
            ),
        ),
        references=(
            (("references", "constant"), "one mask for all"),
            (("references", "second_cluster"), "second token"),
            (("references", "largest_cluster"), "largest token"),
        ),
    ),
    "generate": _Task(
        title="Pictures from captions",
        meaning="The model draws visual tokens for a caption, and the tokenizer paints them. A caption leaves places and sizes"
        " open, so the likeness to the one true picture can only be small; “true tokens” is the tokenizer's own limit.",
        figures=(
            Row(
                key="psnr", name="PSNR", unit="dB", digits=1, meaning="Likeness to the picture that the caption is of."
            ),
            Row(key="l1", name="Mean absolute error", digits=3, better="lower", meaning="In units of full brightness."),
        ),
        references=(
            (("references", "tokenizer"), "true tokens"),
            (("references", "mean_image"), "mean image"),
        ),
    ),
    "edit": _Task(
        title="Edits",
        meaning="The model reads a picture and an instruction, and draws the picture that should come of it.",
        figures=(
            Row(key="psnr", name="PSNR", unit="dB", digits=1, meaning="Likeness to the picture after the edit."),
            Row(key="l1", name="Mean absolute error", digits=3, better="lower", meaning="In units of full brightness."),
        ),
        references=(
            (("references", "tokenizer"), "true tokens"),
            (("references", "unchanged"), "unchanged"),
            (("references", "mean_image"), "mean image"),
        ),
    ),
}


def headline(reports: Sequence[SetokimReport]) -> str:
    """Tiles with the figure that matters most of every task."""
    measured: defaultdict[str, list[SetokimReport]] = defaultdict(list)
    for task, report in _measured(reports):
        measured[task].append(report)
    return layout.tiles([_tile(task, of_task) for task, of_task in measured.items()])


def _tile(task: str, reports: Sequence[SetokimReport]) -> str:
    """The leading figure of a task for every model that has one, and the references of the last."""
    about, metrics = TASKS[task], reports[-1].metrics[task]
    row = next((row for row in about.figures if is_known(metrics.get(row.key))), about.figures[0])
    unit = f"<i>{row.unit}</i>" if row.unit else ""
    shown = [(f"{show(report.metrics[task].get(row.key), row)}{unit}", escape(report.label)) for report in reports]
    figures = (
        f'<span class="figure">{shown[0][0]}</span>'
        if len(shown) == 1
        else "".join(f'<span class="figure of">{value}<i>{label}</i></span>' for value, label in shown)
    )
    beside = "<br>".join(_beside(task, metrics, row))
    name = f"{about.title}: {_inside(row.name)}"
    return f'<li class="card"><span class="name">{name}</span>{figures}<span class="beside">{beside}</span></li>'


def _beside(task: str, metrics: Metrics, row: Row) -> list[str]:
    """References of a figure in a few words, the best first; what no model can reach is no reference to be beaten."""
    found = [(value_at(metrics, (*path, row.key)), path, name) for path, name in TASKS[task].references]
    known = [(value, path, name) for value, path, name in found if is_known(value)]
    known.sort(key=lambda one: one[0], reverse=row.better != "lower")
    unit = " %" if row.unit == "%" else ""
    return [
        f"{mark(beats=path != LIMIT and is_better(value, metrics.get(row.key), row))}{show(value, row)}{unit} {escape(name)}"
        for value, path, name in known
    ]


def _inside(name: str) -> str:
    """A name inside a sentence; gIoU and PSNR stay as they are."""
    return name if name[1:2].isupper() else name[:1].lower() + name[1:]


def sections(reports: Sequence[SetokimReport]) -> list[str]:
    """A section for every task: figures beside references, then examples."""
    measured = _measured(reports)
    several = {task for task, _ in measured if sum(task == other for other, _ in measured) > 1}
    return [_section(task, report, several=task in several) for task, report in measured]


def _measured(reports: Sequence[SetokimReport]) -> list[tuple[str, SetokimReport]]:
    """Tasks in their order, each with the reports that have it: of an earlier stage first."""
    return [(task, report) for task in TASKS for report in reports if task in report.metrics]


def _section(task: str, report: SetokimReport, *, several: bool) -> str:
    about, metrics, of = TASKS[task], report.metrics[task], set_of(report.metrics, report.label)
    title = f"{about.title}: {escape(report.label)}" if several else about.title
    charts = []
    for row in (row for row in about.figures if row.key in metrics):
        bars = [Bar(label="Setokim", value=metrics.get(row.key), main=True)]
        for path, name in TASKS[task].references:
            value = value_at(metrics, (*path, row.key))
            if is_known(value):
                beats = path != LIMIT and is_better(value, metrics.get(row.key), row)
                bars.append(Bar(label=name, value=value, beats=beats))
        scaled = [replace(bar, value=_scaled(bar.value, row)) for bar in bars]
        chart = bar_chart(scaled, title=row.name, unit=row.unit, digits=row.digits)
        better = " Lower is better." if row.better == "lower" else ""
        better += f" {BEATS} A reference that does better." if any(bar.beats for bar in bars) else ""
        charts.append(
            f'<figure class="card"><h3>{row.name}{f", {row.unit}" if row.unit else ""}</h3>{chart}'
            f"<figcaption>{row.meaning}{better}</figcaption></figure>"
        )
    table = _by_type(metrics["by_type"]) if "by_type" in metrics else ""
    shown = [example for example in report.examples if example["task"] == task]
    examples = cases.examples(shown)
    return (
        f"<section><h2>{title}</h2><p>{about.meaning} {metrics['num']:,} of the set “{escape(of)}”.</p>"
        f"{layout.charts(charts)}{table}{examples}</section>"
    )


LIMIT = ("references", "tokenizer")
"""What the tokenizer makes of the true picture: the best that can be drawn, and no reference to be beaten."""


def value_at(metrics: Metrics, path: tuple[str, ...]) -> Any:
    """What lies at a path; the references of questions are figures themselves, with no key below them."""
    found: Any = metrics
    for key in path:
        if not isinstance(found, Mapping):
            return found
        found = found.get(key)
    return found


def _scaled(value: float | None, row: Row) -> float | None:
    return 100 * value if row.unit == "%" and is_known(value) else value


def _by_type(types: Mapping[str, Mapping[str, Any]]) -> str:
    """Answers by type of question."""
    row = TASKS["vqa"].figures[0]
    columns = (("accuracy", "Setokim"), *((path[-1], name) for path, name in TASKS["vqa"].references))
    heads = "".join(
        f'<th scope="col">{name}</th>' for name in ("questions that begin (% right)", *(n for _, n in columns), "asked")
    )
    lines = []
    for kind in sorted(types, key=lambda kind: -types[kind]["num"]):
        figures = types[kind]
        cells = "".join(
            f'<td class="{"ours" if key == "accuracy" else ""}">{show(figures.get(key), row)}</td>'
            for key, _ in columns
        )
        lines.append(f'<tr><th scope="row">{escape(kind)} …</th>{cells}<td>{figures["num"]}</td></tr>')
    return (
        '<div class="scroll card" tabindex="0" role="region" aria-label="Answers by type of question">'
        f'<table class="types"><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )
