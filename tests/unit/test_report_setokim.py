"""The report on Setokim: every figure beside its references, every example beside the truth, and nothing that breaks a page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_jobs.evaluation.files import ANSWERS, EXAMPLES
from ray_jobs.evaluation.pictures import lit, png
from ray_jobs.evaluation.references import questions_in
from ray_jobs.evaluation.setokim_files import read_examples, write_lines
from ray_jobs.reporting import setokim as page
from ray_jobs.reporting.page import ReportData, load_report_data, render
from ray_jobs.reporting.setokim import TASKS, SetokimReport

VQA = {"accuracy": 0.61, "by_question": 0.31, "blind": 0.28, "constant": 0.25, "num": 40}
METRICS: dict[str, Any] = {
    "vqa": VQA | {"by_type": {"how many": VQA | {"num": 30}, "is there a": VQA | {"accuracy": 0.75, "num": 10}}},
    "caption": {"f1": 0.44, "recall": 0.42, "precision": 0.43, "exact": 0.11, "num": 20},
    "segment": {"giou": 0.512, "ciou": 0.498, "references": {"constant": {"giou": 0.07, "ciou": 0.06}}, "num": 9},
    "generate": {
        "psnr": 11.2,
        "l1": 0.25,
        "tokens": 4.5,
        "references": {"mean_image": {"psnr": 12.3, "l1": 0.2}},
        "num": 20,
    },
    "edit": {"psnr": 15.1, "l1": 0.1, "tokens": 4.4, "references": {"unchanged": {"psnr": 19.8, "l1": 0.07}}, "num": 5},
}
PICTURE = png(np.zeros((4, 4, 3), np.uint8))


def example(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"task": "vqa", "id": "q1", "asked": "how many?", "said": "3", "truth": "4"}
    return given | {"images": {"given": PICTURE}} | changes


class Balance(HTMLParser):
    """Counts tags that are open at the end."""

    VOID = ("meta", "img", "br", "image", "path", "rect", "circle", "line", "polyline")

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.stack.pop() == tag


def test_every_task_has_its_figures_and_references() -> None:
    reports = (SetokimReport(label="scenes", metrics=METRICS),)
    text = render(ReportData(title="T", name="n", setokim=reports))
    Balance().feed(text)
    for shown in (
        "61",
        "31",
        "28",
        "25",
        "42",
        "0.512",
        "0.070",
        "11.2",
        "19.8",
        "how many …",
        "is there a …",
        "(% right)",
        ">75<",
    ):
        assert shown in text, shown
    for task in TASKS.values():
        assert f"<h2>{task.title}</h2>" in text
    assert page.headline(reports).count('class="card"') == len(TASKS)


def test_sets_share_the_page() -> None:
    some = {name: METRICS[name] for name in ("vqa", "caption")}
    reports = (
        SetokimReport(label="first", metrics=some),
        SetokimReport(label="second", metrics={"edit": METRICS["edit"]}),
    )
    found = page.sections(reports)
    assert len(found) == 3
    assert "“first”" in found[0]
    assert "“second”" in found[2]


def test_a_task_that_two_stages_have_comes_twice() -> None:
    earlier, later = ({"caption": METRICS["caption"] | {"f1": share}} for share in (0.11, 0.77))
    reports = (SetokimReport(label="pretrain", metrics=earlier), SetokimReport(label="instruct", metrics=later))
    first, second = page.sections(reports)
    assert "<h2>Captions: pretrain</h2>" in first
    assert "<h2>Captions: instruct</h2>" in second
    headline = page.headline(reports)
    assert "11<i>%</i><i>pretrain</i>" in headline and "77<i>%</i><i>instruct</i>" in headline


def test_examples_stand_beside_the_truth() -> None:
    examples = (
        example(),
        example(said="Four.", truth="four"),
        example(said="<b>&", truth="x"),
        example(
            task="edit",
            asked="make it red",
            said="",
            truth="",
            images={"given": PICTURE, "drawn": PICTURE},
            goodness=21.34,
        ),
    )
    (vqa, edit) = page.sections(
        (SetokimReport(label="s", metrics={k: METRICS[k] for k in ("vqa", "edit")}, examples=examples),)
    )
    assert vqa.count("✗") == 2
    assert vqa.count("✓") == 1
    assert "&lt;b&gt;&amp;" in vqa
    assert edit.count("<img") == 2 and "<p>PSNR 21.3 dB</p>" in edit


def test_cases_stand_by_why_they_are_shown() -> None:
    cases = tuple(example(kind=kind, id=f"{kind}{n}") for kind in ("worst", "best", "random") for n in range(2))
    (text,) = page.sections((SetokimReport(label="s", metrics={"vqa": METRICS["vqa"]}, examples=cases),))
    Balance().feed(text)
    places = [
        text.index(part) for part in ("<b>Best</b>", "best1", "<b>Random</b>", "random1", "<b>Worst</b>", "worst1")
    ]
    assert places == sorted(places)


def test_missing_figures_leave_gaps_and_not_errors() -> None:
    metrics = {"vqa": {"accuracy": 0.5, "num": 2, "by_type": {"all": {"accuracy": 0.5, "num": 2}}}}
    metrics |= {"caption": {"recall": None, "precision": 0.0, "exact": 0.0, "num": 1}}
    text = "".join(page.sections((SetokimReport(label="s", metrics=metrics),)))
    Balance().feed(text)
    assert "–" in text


def test_a_folder_of_answers_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "evaluate" / "questions"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(METRICS | {"run": {"versions": {"torch": "2"}}}))
    write_lines(folder / ANSWERS, [{"index": 0, "accuracy": float("nan")}])
    write_lines(folder / EXAMPLES, [example()])
    assert json.loads((folder / ANSWERS).read_text()) == {"index": 0, "accuracy": None}
    data = load_report_data(tmp_path)
    assert [report.label for report in data.setokim] == ["questions"]
    assert data.setokim[0].examples == tuple(read_examples(folder))
    assert data.versions == {"torch": "2"}
    assert "Questions" in render(data)


@pytest.mark.parametrize("joined", [True, False])
def test_questions_of_training(joined: bool) -> None:
    turns = [
        {"role": "user", "text": "<image>\nHow many?"},
        {"role": "assistant", "text": "3"},
        {"role": "user", "text": "Is it?"},
        {"role": "assistant", "text": "no"},
    ]
    kinds = [{"question_type": "how"}, {"question_type": "is"}]
    provenance = {"questions": json.dumps(kinds)} if joined else {"question_type": "how"}
    row = {"conversation": turns if joined else turns[:2], "provenance": json.dumps(provenance)}
    expected = [("how", "How many?", "3"), ("is", "Is it?", "no")]
    assert list(questions_in(row)) == (expected if joined else expected[:1])


def test_a_region_is_lit() -> None:
    mask = np.array([[True, False]])
    shown = lit(np.full((1, 2, 3), 200, np.uint8), mask)
    assert shown[0, 0].tolist() == [200, 200, 200]
    assert shown[0, 1].tolist() == [60, 60, 60]
