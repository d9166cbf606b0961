"""What an evaluation leaves for people: ``table.md`` and ``report.html``, over all checkpoints that were measured together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any, TypeVar

from ray_jobs.reporting.comparison import lines_of, markdown, table
from ray_jobs.reporting.data import EvaluationReport, ReportData
from ray_jobs.reporting.examples import examples
from ray_jobs.reporting.gallery import gallery
from ray_jobs.reporting.page import REPORT, load_report_data, write_report
from ray_jobs.reporting.rows import mark
from ray_jobs.reporting.setokim import TASKS, SetokimReport

TABLE = "table.md"
R = TypeVar("R", EvaluationReport, SetokimReport)

__all__ = ["REPORT", "TABLE", "write_evaluation"]


def write_evaluation(run_dir: Path, evaluations: Mapping[str, Mapping[str, Any]]) -> None:
    """Write both files.

    Args:
        run_dir: the folder of the evaluation, with those of its checkpoints in it.
        evaluations: what each ``metrics.json`` holds, by the checkpoint's name.
    """
    lines, labels = lines_of(evaluations), list(evaluations)
    (run_dir / TABLE).write_text(markdown(lines, labels), encoding="utf-8")
    folders = {run_dir.name: labels[0]} if len(labels) == 1 else {label: label for label in labels}
    data = load_report_data(run_dir)
    data = replace(
        data,
        title=_listed(labels) if len(labels) < 4 else f"{len(labels)} checkpoints",
        name=run_dir.name,
        evaluations=tuple(_of_folders(data.evaluations, folders)),
        setokim=tuple(_of_folders(data.setokim, folders)),
    )
    beside = (
        "<section><h2>All figures</h2><p>Every figure of every task; below it, in small, what is reached without learning"
        f" anything, {mark(beats=True)}where that does better. The number of samples stands beside the task; ↓: lower is"
        f" better.{' The best of a line is strong.' if len(labels) > 1 else ''}</p>{table(lines, labels)}</section>"
    )
    write_report(_with_figures(data), run_dir / REPORT, first=beside + "".join(_bare_cases(data)))


def _listed(labels: Sequence[str]) -> str:
    """Names as a sentence has them."""
    *others, last = labels
    return f"{', '.join(others)} and {last}" if others else last


def _with_figures(data: ReportData) -> ReportData:
    """Without the tokenizers of which only benchmarks were measured: they have no figures of ours to show."""
    return replace(data, evaluations=tuple(report for report in data.evaluations if "psnr" in report.metrics))


def _bare_cases(data: ReportData) -> Iterator[str]:
    """Sections of the cases whose tasks have no figures of ours, beside which they would stand."""
    for report in data.evaluations:
        if report.pictures and "psnr" not in report.metrics:
            yield f"<section><h2>Pictures: {escape(report.label)}</h2>{gallery(report.pictures)}</section>"
    for asked in data.setokim:
        for task in dict.fromkeys(case["task"] for case in asked.examples if case["task"] not in asked.metrics):
            cases = examples([case for case in asked.examples if case["task"] == task])
            yield f"<section><h2>{TASKS[task].title}: {escape(asked.label)}</h2>{cases}</section>"


def _of_folders(reports: Sequence[R], folders: Mapping[str, str]) -> Iterator[R]:
    """The reports of these folders, in their order and by their names."""
    for folder, name in folders.items():
        yield from (replace(report, label=name) for report in reports if report.label == folder)
