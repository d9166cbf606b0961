"""Figures side by side: what each is called, which one is best, which reference does better, and how cards are laid out."""

from __future__ import annotations

from typing import Any

import pytest

from ray_jobs.evaluation.cases import choose
from ray_jobs.reporting import setokim
from ray_jobs.reporting.benchmarks import row_of
from ray_jobs.reporting.comparison import Line, lines_of, markdown, table
from ray_jobs.reporting.data import EvaluationReport, ReportData
from ray_jobs.reporting.layout import columns
from ray_jobs.reporting.page import render
from ray_jobs.reporting.rows import ALONE, COMPARED, REFERENCES
from ray_jobs.reporting.setokim import SetokimReport
from ray_jobs.scoring.tasks import OWN, TASKS
from tests.pages import check


def tokens(psnr: float, *, raw_colour: float = 21.0, data: str = "data/test", **figures: Any) -> dict[str, Any]:
    references = {"raw_colour": {"psnr": raw_colour}, "own_mean_colour": {"psnr": 16.0}, "mean_image": {"psnr": 12.0}}
    run = {"data": data, "fingerprints": {"data": data}}
    return {"num_images": 5, "psnr": psnr, "references": references, "run": run, **figures}


def found(evaluations: dict[str, Any]) -> dict[str, Line]:
    """Lines by their figure, those of references below it by both names."""
    lines: dict[str, Line] = {}
    above = ""
    for line in lines_of(evaluations):
        above = above if line.is_reference else line.figure
        lines[f"{above} / {line.figure}" if line.is_reference else line.figure] = line
    return lines


def test_every_headline_figure_has_a_name() -> None:
    rows = [row_of(task, key) for task in TASKS if task not in OWN for key in TASKS[task].headline]
    assert len(rows) > 40 and all(row.name != row.key for row in rows)
    own = {row.key for row in (*COMPARED, *ALONE)}
    assert own >= set(TASKS["tokens"].headline)
    for task in OWN.keys() - {"tokens"}:
        assert tuple(row.key for row in setokim.TASKS[task].figures) == TASKS[task].headline


def test_benchmarks_have_units_and_digits() -> None:
    pope = {"accuracy": 0.875, "precision": 0.5, "recall": 1.0, "f1": 2 / 3, "yes_ratio": 0.5, "num_samples": 8}
    lines = found({"a": {"pope": pope, "vqav2": {"accuracy": 60.014, "num_samples": 8}, "fid": {"fid": 3.14159}}})
    texts = {(line.task, line.figure): line.values[0] for line in lines_of({"a": {"pope": pope}})}
    assert texts[("pope (8)", "Accuracy, %")] == "87.50" and texts[("", "F1, %")] == "66.67"
    assert lines["FID ↓"].values == ("3.14",)
    assert TASKS["pope"].scorer in table(lines_of({"a": {"pope": pope}}), ["a"])


def test_the_best_of_a_line_is_marked() -> None:
    lines = found({"a": tokens(20.0, ssim=0.5, mean_tokens=4), "b": tokens(22.0, ssim=0.5004, mean_tokens=5), "c": {}})
    assert lines["PSNR, dB"].is_best == (False, True, False)
    assert lines["SSIM"].is_best == (False, False, False), "they are shown alike"
    assert lines["Tokens per image"].is_best == (False, False, False), "neither way is better"
    assert lines["PSNR, dB / raw colour"].values == ("▲ 21.0", "21.0", "–")
    assert "| 20.0 | **22.0** | – |" in markdown(list(lines.values()), "abc")
    lower = found({name: {"fid": {"fid": value}} for name, value in (("a", 3.0), ("b", 4.0))})
    assert lower["FID ↓"].is_best == (True, False)
    assert not any(found({"a": tokens(20.0)})["PSNR, dB"].is_best), "one alone is no best"


def test_what_no_model_can_reach_is_no_reference_to_beat() -> None:
    figures = {"num": 4, "psnr": 11.0, "references": {"tokenizer": {"psnr": 20.0}, "mean_image": {"psnr": 12.0}}}
    lines = found({"a": {"generate": figures}})
    assert lines["PSNR, dB / true tokens"].values == ("20.0",)
    assert lines["PSNR, dB / mean image"].values == ("▲ 12.0",)


def test_one_reference_has_one_name() -> None:
    names = {reference.path: reference.name for reference in REFERENCES}
    drawn = {path: name for task in setokim.TASKS.values() for path, name in task.references}
    assert names[("mean_image",)] == drawn[("references", "mean_image")]
    by_type = {"how": {"accuracy": 0.5, "by_question": 0.1, "blind": 0.2, "constant": 0.3, "num": 2}}
    asked = SetokimReport(label="x", metrics={"vqa": {"num": 2, "accuracy": 0.5, "by_type": by_type}})
    page = check(render(ReportData(title="T", name="n", setokim=(asked,)))).text
    assert all(name in page for _, name in setokim.TASKS["vqa"].references)


# ---------------------------------------------------------------- headline figures


def headline(*evaluations: dict[str, Any]) -> str:
    """The first card of a page."""
    reports = tuple(EvaluationReport(label=f"model {n}", metrics=one) for n, one in enumerate(evaluations))
    page = render(ReportData(title="T", name="n", evaluations=reports))
    check(page)
    return page.partition('<span class="name">PSNR</span>')[2].partition("</li>")[0]


def test_a_card_shows_the_reference_that_wins() -> None:
    card = headline(tokens(20.0))
    assert card.index("▲") < card.index("21.0 raw colour") < card.index("16.0 own mean colour")
    assert "▲" not in headline(tokens(22.0))


def test_a_card_shows_all_that_were_measured_on_one_set() -> None:
    card = headline(tokens(20.0), tokens(22.0))
    assert "20.0" in card and "22.0" in card and "model 0" in card and "model 1" in card
    card = headline(tokens(20.0), tokens(22.0, data="data/other"))
    assert "20.0" in card and "22.0" not in card


@pytest.mark.parametrize(("count", "wide"), [(1, 1), (2, 2), (3, 3), (4, 2), (5, 3), (6, 3), (8, 2), (9, 3), (10, 2)])
def test_no_card_stands_alone_where_it_need_not(count: int, wide: int) -> None:
    assert columns(count) == wide


def test_a_caption_that_names_everything_is_not_the_best() -> None:
    shares = {"everything": (1.0, 0.1), "nothing": (0.0, 0.0), "most": (0.8, 0.8), "some": (0.5, 0.5)}
    rows = [
        {"task": "caption", "id": name, "recall": recall, "f1": 2 * recall * right / (recall + right or 1)}
        for name, (recall, right) in shares.items()
    ]
    assert [(kind, row["id"]) for kind, row in choose(rows, 3, seed=0)][::2] == [("best", "most"), ("worst", "nothing")]
