"""The page of a sweep that repeats its trials: one figure and one table a question, means where it averages, and words."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.reporting.cases import cases_of, told_alike
from ray_jobs.reporting.sweep import render_sweep
from ray_jobs.tuning import results
from ray_jobs.tuning.averages import Interval, write_averages
from ray_jobs.tuning.names import beside, name_of, setting_names
from ray_jobs.tuning.space import known_values
from ray_jobs.tuning.trials import Result, Trial, Trials
from setok.config import TuneConfig
from tests.pages import check
from tests.sweeps import sweep_config

RATE = "optim.learning_rate"
QUESTIONS = {
    "Does it paint back?": ["eval/psnr"],
    "Does it answer?": ["eval/vqa/accuracy", "eval/vqa/blind", "eval/vqa/by_question"],
    "What does it cost?": ["eval/mean_tokens", "perf/train_seconds"],
}


def repeated(folder: Path, **changes: Any) -> tuple[TuneConfig, list[Trial]]:
    """Three kinds with three seeds each; the second kind is the best, its best seed the last."""
    settings: dict[str, Any] = {
        "train": {"validation": {"data": str(folder)}},
        "space": {"kind": {"variants": {"grid": {}, "k-means": {}, "soft": {}}}, "seed": {"values": [0, 1, 2]}},
        "average_over": ["seed"],
        "objectives": [{"metric": "eval/psnr"}],
        "figures": ["eval/mean_tokens"],
        "questions": QUESTIONS,
    }
    sweep = sweep_config(output_dir=str(folder), **(settings | changes))
    trials = Trials(sweep)
    for values in known_values(sweep):
        place = ["grid", "k-means", "soft"].index(values["kind"])
        worth = (18.0, 20.0, 19.0)[place] + 0.1 * values["seed"]
        figures = {"eval/psnr": worth, "eval/vqa/accuracy": 0.4 + 0.01 * place * values["seed"]}
        figures |= {"eval/vqa/blind": 0.2 + 0.001 * values["seed"], "eval/vqa/by_question": 0.3}
        figures |= {"eval/mean_tokens": 5.0 + place, "perf/train_seconds": 60.0 + values["seed"]}
        trials.plan(values).finish(Result(state="done", metrics=figures))
    return sweep, trials.all()


def sections(page: str) -> dict[str, str]:
    """Parts of the page by their headings."""
    return {unescape(re.sub("<.*?>", "", part.partition("</h2>")[0])): part for part in page.split("<h2>")[1:]}


def test_every_question_has_one_figure_and_one_table(tmp_path: Path) -> None:
    sweep, trials = repeated(tmp_path)
    page = render_sweep(sweep, trials)
    checked = check(page)
    assert checked.unlabelled == [] and checked.loads == []
    parts = sections(page)
    panels = dict(zip(QUESTIONS, (1, 1, 2), strict=True))
    for question, count in panels.items():
        assert parts[question].count("<figure") == 1 and parts[question].count("<table") == 1, question
        assert parts[question].count("<svg") == count, question
        assert parts[question].count("<tr>") == 1 + 3, "a row for every kind"
    answers = parts["Does it answer?"]
    assert answers.count('class="interval"') == 2, "a kind whose seeds agree has no interval to draw"
    assert answers.count('class="bubble"') == 3 * 3, "every trial is there"
    assert answers.count('class="reference"') == 3 and answers.count('class="across"') == 1
    assert "most frequent answer to these words, 0.3" in answers


def test_what_is_averaged_over_is_no_setting(tmp_path: Path) -> None:
    sweep, trials = repeated(tmp_path)
    parts = sections(render_sweep(sweep, trials))
    assert "Settings and figures" not in parts, "the answers show them"
    for name in ("What each setting is worth", "Trade-offs", "All of it at once"):
        assert "seed" not in parts[name], name
    assert parts["All of it at once"].count("<polyline") == 3
    assert "<polyline" not in parts["Trade-offs"] and parts["Trade-offs"].count("<circle") == 3


def test_the_header_shows_means_and_the_next_best(tmp_path: Path) -> None:
    sweep, trials = repeated(tmp_path)
    text = check(render_sweep(sweep, trials)).text
    assert "9 trials that differ in kind, each repeated over seed" in text and "All are done." in text
    assert "20.10± 0.25mean of 3 trials" in text
    assert "k-means is best by PSNR, dB" in text and "Next is soft, 19.10 ± 0.25: their intervals lie apart" in text
    assert "trial 3 (seed 0)" in text, "whose settings are in best.yaml"


def test_a_page_without_a_title_has_the_sweeps_name(tmp_path: Path) -> None:
    html = render_sweep(*repeated(tmp_path))
    assert "<title>sweep</title>" in html and "<h1>sweep</h1>" in html


def test_single_trials_have_no_intervals(tmp_path: Path) -> None:
    one = {"space": {"kind": {"variants": {"grid": {}, "k-means": {}, "soft": {}}}, "seed": {"values": [0]}}}
    sweep, trials = repeated(tmp_path / "one", **one)
    text = check(render_sweep(sweep, trials)).text
    assert "3 trials that differ in kind; each is" in text
    assert (
        "20.00, over 1 trial. Next is soft, 19.00: a single trial has no interval, so that it may be as good." in text
    )
    assert "A dot is one trial: none is repeated over seed yet" in text
    assert "95 %" not in text and "1 trials" not in text and "repeat each other" not in text
    written = write_averages(sweep, trials)
    assert written is not None and "One trial each: not repeated over seed yet" in written.read_text()
    sweep, trials = repeated(tmp_path / "some")
    (trials[4].folder / "result.json").unlink()
    (trials[5].folder / "result.json").unlink()
    text = check(render_sweep(sweep, trials)).text
    assert "over 1 trial. Next is soft, 19.10 ± 0.25: a single trial has no interval" in text and "95 %" in text


def test_trials_that_repeat_each_other_stand_together(tmp_path: Path) -> None:
    sweep, trials = repeated(tmp_path)
    table = sections(render_sweep(sweep, trials))["Every trial"]
    numbers = [int(number) for number in re.findall(r'scope="row">(\d+)', table)]
    assert numbers == [3, 4, 5, 6, 7, 8, 0, 1, 2]
    assert table.count('class="ours"') == 3 * 4


def test_cases_are_means_or_trials(tmp_path: Path) -> None:
    sweep, trials = repeated(tmp_path / "a")
    best = results.best_of(sweep, trials)
    assert best is not None
    cases = cases_of(sweep, trials, best)
    assert [case.short for case in cases] == ["k-means", "soft", "grid"]
    assert [case.is_best for case in cases] == [True, False, False]
    assert cases[0].figure("eval/psnr") == pytest.approx(20.1) and cases[0].figure("eval/ari") is None
    sweep, trials = repeated(tmp_path / "b", average_over=[])
    best = results.best_of(sweep, trials)
    assert best is not None
    cases = cases_of(sweep, trials, best)
    assert [case.short for case in cases if case.is_best] == ["5"] and len(cases) == 9


def test_settings_have_words() -> None:
    keys = [RATE, "model.clustering.stop_mass", "then.optim.learning_rate", "loss.weight", "data.weight"]
    assert list(setting_names(keys).values()) == [
        "learning rate",
        "stop mass",
        "learning rate, second stage",
        "loss weight",
        "data weight",
    ]


def test_references_know_their_figure() -> None:
    assert beside("then/eval/vqa/blind") == ("then/eval/vqa/accuracy", "with a gray picture")
    assert beside("eval/vqa/accuracy") is None
    assert name_of("then/eval/vqa/blind") == "right answers, gray picture"


def test_figures_of_a_column_have_as_many_decimals() -> None:
    def told(*rows: tuple[float, float | None]) -> list[str]:
        return told_alike([Interval(mean=mean, half=half, count=3) for mean, half in rows])

    assert told((18.81, 0.0558), (19.0, 0.219), (20.69, 0.4)) == ["18.81 ± 0.06", "19.00 ± 0.22", "20.69 ± 0.40"]
    assert told((0.827, 0.1), (0.754, 0.0059)) == ["0.827 ± 0.100", "0.754 ± 0.006"]
    assert told((0.298, 0.0), (0.298, 0.0)) == ["0.298", "0.298"], "nothing varies"
    assert told((4903.0, 238.0), (887.0, 252.0)) == ["4,903 ± 238", "887 ± 252"]
    assert told_alike([None, Interval(mean=-0.5, half=None, count=1)]) == ["–", "−0.500"]
    assert told_alike([Interval(mean=0.0, half=0.0, count=2), None]) == ["0.00", "–"]


def test_a_setting_that_changes_nothing_explains_what_chance_does() -> None:
    assert results.chance(["a", "b", "c"] * 4) == pytest.approx(2 / 11)
    assert results.chance(["a"]) == 0.0


def test_a_setting_with_names_has_a_line_for_each_in_the_order_of_the_space(tmp_path: Path) -> None:
    space = {"kind": {"variants": {"soft": {}, "grid": {}}}, RATE: {"values": [0.1, 0.2]}}
    sweep = sweep_config(output_dir=str(tmp_path), space=space)
    for number, values in enumerate(reversed(known_values(sweep))):
        Trials(sweep).plan(values).finish(Result(state="done", metrics={"train/loss": 1.0 + number}))
    text = check(render_sweep(sweep, Trials(sweep).all())).text
    assert "4 trials that differ in kind and learning rate" in text
    part = sections(render_sweep(sweep, Trials(sweep).all()))["Settings and figures"]
    by_name, by_rate = part.split("By learning rate")
    assert re.findall(r'class="label[^>]*>(\w+)<', by_name) == ["soft", "grid"]
    assert re.findall(r'class="value[^>]*>([\d.]+)<', by_name) == ["3.50", "1.50"]
    assert "trend" not in by_name and by_rate.count('class="trend"') == 1
