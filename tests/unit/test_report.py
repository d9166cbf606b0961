"""The report: whole in one file, well formed, with every figure, and safe whatever the data says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_jobs.evaluation import files, tokenizer_files
from ray_jobs.reporting import charts
from ray_jobs.reporting.data import Curve, EvaluationReport, ReportData, StageReport, duration, load_report_data
from ray_jobs.reporting.gallery import token_map_svg
from ray_jobs.reporting.page import render, write_report
from ray_jobs.reporting.rows import ALONE, COMPARED, show
from setok.config import EvaluateConfig
from setok.errors import DataError

NAN = float("nan")
EVIL = "<script>alert('x')</script>\" onload=\"boo & co"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Checker(HTMLParser):
    """Fails on unclosed or crossed tags; collects what is loaded and what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.unlabelled: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._see(tag, dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._see(tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def _see(self, tag: str, attrs: dict[str, str | None]) -> None:
        self.tags.append(tag)
        self.loads += [attrs[name] or "" for name in ("src", "href", "srcset", "data") if name in attrs]
        assert not any(name.startswith("on") for name in attrs), f"{tag} has a handler: {attrs}"
        if (tag == "img" and not attrs.get("alt")) or (tag == "svg" and not attrs.get("aria-label")):
            self.unlabelled.append(tag)


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


def picture(kind: str, number: int, caption: str = "a red square") -> tokenizer_files.Picture:
    rng = np.random.default_rng(number)
    return tokenizer_files.Picture(
        kind=kind,
        id=f"id{number}",
        caption=caption,
        original=rng.integers(0, 256, (8, 8, 3), dtype=np.uint8),
        reconstruction=rng.integers(0, 256, (8, 8, 3), dtype=np.uint8),
        assignment=rng.integers(0, 30, 16).astype(np.int32),
        grid=(4, 4),
        num_tokens=3,
        num_objects=None if number else 1,
        psnr=20.0 + number,
        ari=None if number else -0.25,
    )


def metrics(**changes: Any) -> dict[str, Any]:
    figures: dict[str, Any] = {row.key: 0.111 * (i + 1) for i, row in enumerate((*COMPARED, *ALONE))}
    figures |= {"psnr": 20.25, "num_images": 1234, "num_skipped": 2}
    mapped = {row.key: 0.5 for row in COMPARED}
    figures["references"] = {
        "mean_image": {"psnr": 12.9},
        "own_mean_colour": {"psnr": 16.5},
        "grid": {"below": {**mapped, "cells_per_side": 2}, "above": {**mapped, "cells_per_side": 3}},
        "raw_colour": {**mapped, "psnr": 21.5},
    }
    figures["notes"] = {}
    figures["run"] = {"checkpoint": "runs/x/checkpoints/step_00000400", "data": "d", "seconds": 75.2, "num_replicas": 2}
    return figures | changes


def data(**changes: Any) -> ReportData:
    curve = Curve(name="train/loss", steps=[10, 20, 30], values=[3.0, NAN, 1.0])
    stage = StageReport(
        name="tokenizer", curves=(curve,), settings=(("train.steps", "400"),), facts=(("Steps", "400"),)
    )
    evaluation = EvaluationReport(
        label="plain",
        metrics=metrics(),
        pictures=(picture("best", 0), picture("random", 1), picture("worst", 2)),
        token_counts=(3.0, 4.0, 4.0),
        object_counts=(2.0, 3.0, None),
    )
    page = ReportData(
        title="A title", name="demo", stages=(stage,), evaluations=(evaluation,), versions={"torch": "2.13"}
    )
    return replace(page, **changes)


# ---------------------------------------------------------------- the page


def test_the_page_is_whole_and_well_formed() -> None:
    page = render(data())
    checker = check(page)
    assert checker.loads and all(load.startswith("data:image/") for load in checker.loads)
    assert checker.unlabelled == []
    assert not {"script", "link", "iframe", "object"} & set(checker.tags)
    assert "http:" not in page and "https:" not in page and "@import" not in page
    assert not re.search(r"url\(", page)
    assert checker.tags.count("h1") == 1


def test_every_figure_is_there_with_its_meaning() -> None:
    text = check(render(data())).text
    for row in (*COMPARED, *ALONE):
        assert row.name in text, row.key
        assert row.meaning in text, row.key
        assert show(metrics()[row.key], row) in text, row.key
    for expected in (
        "20.2",
        "1,234",
        "12.9",
        "16.5",
        "grid 2\u00a0×\u00a02",
        "1 min 15 s",
        "2.13",
        "train.steps",
        "ARI −0.25",
    ):
        assert expected in text, expected


def test_references_that_do_better_are_marked() -> None:
    page = render(data())
    assert re.search(r'class="beats"[^>]*>▲</span> 21.5</td>', page)
    assert not re.search(r'class="beats"[^>]*>▲</span> 12.9</td>', page)


def test_whatever_the_data_says_is_escaped() -> None:
    evaluation = replace(
        data().evaluations[0],
        label=EVIL,
        pictures=(replace(picture("best", 0, EVIL), id=EVIL),),
        metrics=metrics(run={"data": EVIL}),
    )
    stage = replace(data().stages[0], name=EVIL, settings=((EVIL, EVIL),), facts=((EVIL, EVIL),))
    evaluations = (
        evaluation,
        replace(evaluation, metrics=metrics(psnr=None, ari=None, notes={"psnr": EVIL, "ari": EVIL})),
    )
    page = render(data(title=EVIL, name=EVIL, stages=(stage,), evaluations=evaluations, versions={EVIL: EVIL}))
    checker = check(page)
    assert "script" not in checker.tags
    assert EVIL in checker.text


def test_missing_figures_say_why() -> None:
    reason = "the set has no segment masks"
    missing = metrics(ari=None, foreground_ari=None, references={}, notes={"ari": reason, "foreground_ari": reason})
    evaluation = replace(data().evaluations[0], metrics=missing, object_counts=(None, None, None))
    page = render(data(evaluations=(evaluation,)))
    text = check(page).text
    assert f"– ARI, all patches: {reason}." in text
    assert "nan" not in text.lower()
    assert 'title="the set has no segment masks">–</td>' in page


def test_several_evaluations_have_rows_of_their_own() -> None:
    hard = replace(data().evaluations[0], label="hard", metrics=metrics(psnr=17.77))
    page = render(data(evaluations=(data().evaluations[0], hard)))
    check(page)
    assert page.count('<th class="set" scope="row">hard</th>') == len(COMPARED)
    assert "17.8" in page


@pytest.mark.parametrize("changes", [{"evaluations": ()}, {"stages": ()}, {"evaluations": (), "stages": ()}])
def test_parts_may_be_missing(changes: dict[str, Any]) -> None:
    check(render(data(**changes)))


def test_pictures_that_no_one_asked_for() -> None:
    evaluation = replace(data().evaluations[0], pictures=(), token_counts=(), object_counts=())
    assert "<h2>Pictures</h2>" not in render(data(evaluations=(evaluation,)))


def test_token_map_covers_every_patch_once() -> None:
    assignment = np.array([0, 0, 1, 0, 2, 1], dtype=np.int32)
    svg = token_map_svg(assignment, (2, 3), "data:image/png;base64,")
    check(svg)
    areas = re.findall(r'<path fill="[^"]*" d="([^"]*)"/>', svg)
    runs = [(int(x), int(y), int(w)) for d in areas for x, y, w in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", d)]
    covered = [(y, x + i) for x, y, width in runs for i in range(width)]
    assert len(areas) == 3
    assert sorted(covered) == [(y, x) for y in range(2) for x in range(3)]
    assert "token 1: 2 of 6 patches" in svg


def test_padding_is_no_token_of_the_map() -> None:
    svg = token_map_svg(np.array([0, 0, -1, 1, 1, -1, -1, -1, -1]), (3, 3), "under")
    assert "Token map: 2 regions" in svg and "token 1: 2 of 4 patches" in svg and "token -1" not in svg


# ---------------------------------------------------------------- charts


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([], []),
        ([1], [2.0]),
        ([1, 2, 3], [NAN, NAN, NAN]),
        ([1, 2, 3], [1.0, NAN, 3.0]),
        ([1, 2], [5.0, 5.0]),
        ([1, 2], [-1e-9, float("inf")]),
        ([1, 2, 3], [1.0, None, -2e6]),
        (list(range(100)), [float(i % 7) for i in range(100)]),
    ],
)
def test_charts_take_whatever_comes(x: list[float], y: list[float | None]) -> None:
    drawn = [
        charts.line_chart(x, y, title="t & t"),
        charts.bubble_chart(x, y, title="t", x_label="<a>", y_label="b"),
        charts.histogram([v for v in y if v is not None], title="t", x_label="<a>", y_label="b"),
        charts.bar_chart([charts.Bar(label=f"<{a}>", value=b) for a, b in zip(x, y, strict=True)], title="t"),
    ]
    known = [v for v in y if v is not None and np.isfinite(v)]
    for svg in drawn:
        checker = check(svg)
        assert ("no data" in checker.text) == (not known)
        assert not re.search(r'="-?(nan|inf)', svg)


def test_a_curve_goes_over_steps_without_a_value() -> None:
    svg = charts.line_chart([1, 2, 3, 4, 5], [1.0, None, 2.0, None, 3.0], title="t")
    assert svg.count("<polyline") == 1
    assert "<circle" not in svg
    assert len(re.findall(r"[\d.]+,[\d.]+", svg.partition("points=")[2].partition("/>")[0])) == 3


def test_a_sawtooth_of_few_points_has_a_calmer_average() -> None:
    svg = charts.line_chart(range(23), [2.0 - 0.02 * i + (i % 2) for i in range(23)], title="t")
    raw, calm = (
        [float(y) for y in re.findall(r"[\d.]+,([\d.]+)", part.partition('"')[0])] for part in svg.split('points="')[1:]
    )
    assert len(raw) == len(calm) == 23

    def way(values: list[float]) -> float:
        return sum(abs(a - b) for a, b in pairwise(values[2:-2]))

    assert way(calm) < 0.3 * way(raw)


def test_labels_of_bars_have_room() -> None:
    long = "a label of more than thirty letters"
    svg = charts.bar_chart([charts.Bar(label=long, value=1.0), charts.Bar(label="b", value=2.0, beats=True)], title="t")
    end = float(re.search(r'class="label" x="([\d.]+)"', svg)[1])  # type: ignore[index]
    assert end >= 6.5 * len(long)
    assert "2.00 ▲" in svg
    assert "1.00 ▲" not in svg


def test_histogram_counts() -> None:
    svg = charts.histogram([2, 3, 3, 3, 5], title="t", x_label="x", y_label="y")
    assert re.findall(r"<title>(\d+: \d+)</title>", svg) == ["2: 1", "3: 3", "5: 1"]
    wide = charts.histogram(list(range(200)), title="t", x_label="x", y_label="y")
    assert sum(int(count) for count in re.findall(r"<title>\d+–\d+: (\d+)</title>", wide)) == 200


def test_ticks_are_round_and_inside() -> None:
    assert charts.nice_ticks(0, 10) == [0, 5, 10]
    assert charts.nice_ticks(0.12, 0.31) == pytest.approx([0.15, 0.2, 0.25, 0.3])
    assert charts.nice_ticks(1, 1) == [1]
    assert charts.nice_ticks(1, 3, 8, whole=True) == [1, 2, 3]
    assert [charts.short(v) for v in (0, 12345, 0.0001, 1234, -1.5)] == ["0", "12.3k", "1e−4", "1234", "−1.5"]


def test_durations_for_people() -> None:
    assert [duration(s) for s in (0.4, 59.6, 185, 7800)] == ["0 s", "1 min 00 s", "3 min 05 s", "2 h 10 min"]


# ---------------------------------------------------------------- files


def run_folder(root: Path) -> Path:
    """What a pipeline of two evaluations leaves behind."""
    stage = root / "tokenizer"
    stage.mkdir(parents=True)
    (root / "config.yaml").write_text("title: My run\nname: demo\nevaluate: [{name: zebra}, {name: ape}]\n")
    (root / "metrics.json").write_text('{"total_seconds": 61}')
    (stage / "config.yaml").write_text("name: tokenizer\ntrain: {global_batch_size: 16}\nscaling: {num_workers: 2}\n")
    lines = [{"step": s, "time": 0.0, "train/loss": 1 / s, "perf/train_seconds": s / 10} for s in (10, 20)]
    (stage / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = {
        "index": np.arange(6),
        "valid": np.array([True] * 5 + [False]),
        "id": np.array([f"id{i}" for i in range(6)], dtype=object),
        "caption": np.array([EVIL] * 6, dtype=object),
        "tokens": np.array([2, 3, 4, 5, 6, NAN]),
        "num_objects": np.array([1, 2, NAN, 4, 5, NAN]),
        "psnr": np.array([25.0, 10.0, 20.0, 15.0, 30.0, NAN]),
        "ari": np.array([0.5, NAN, 0.5, 0.5, 0.5, NAN]),
    }
    packed = {i: pack(i) for i in range(5)}
    for name in ("ape", "zebra"):
        config = EvaluateConfig(name=name, output_dir=str(root / "evaluate"), checkpoint="c", data="d", num_pictures=4)
        fingerprints = {"checkpoint": "1", "data": "2"}
        run = {"versions": {"torch": "9.9"}, "fingerprints": fingerprints}
        files.forget(config)
        chosen = tokenizer_files.choose(table, [5, 4, 2, 0], config.num_pictures)
        tokenizer_files.write_pictures(config, table, chosen, packed)
        files.write_metrics(config, metrics(run=run))
        assert files.read_finished(config, fingerprints) == metrics(run=run)
        assert files.read_finished(config, {**fingerprints, "data": "3"}) is None
        assert files.read_finished(config.model_copy(update={"limit": 3}), fingerprints) is None
    return root


def pack(seed: int) -> bytes:
    import torch

    generator = torch.Generator().manual_seed(seed)
    original = torch.randint(0, 256, (3, 8, 8), generator=generator).byte()
    return tokenizer_files.pack(original, torch.rand(3, 8, 8, generator=generator), torch.arange(4), (2, 2))


def test_a_run_folder_becomes_a_report(tmp_path: Path) -> None:
    root = run_folder(tmp_path / "demo")
    found = load_report_data(root)
    assert (found.title, found.name, found.versions) == ("My run", "demo", {"torch": "9.9"})
    assert found.facts == (("Everything, from nothing to this page", "1 min 01 s"),)
    assert [evaluation.label for evaluation in found.evaluations] == ["zebra", "ape"]  # as the pipeline lists them
    assert found.evaluations[0].token_counts == (2, 3, 4, 5, 6)
    assert found.evaluations[0].object_counts == (1, 2, None, 4, 5)
    shown = [(p.kind, p.id, p.num_objects, p.ari) for p in found.evaluations[0].pictures]
    assert shown == [
        ("best", "id4", 5, 0.5),
        ("random", "id2", None, 0.5),
        ("random", "id0", 1, 0.5),
        ("worst", "id1", 2, None),
    ]
    facts = dict(found.stages[0].facts)
    assert facts["Images seen"] == "320 (16 a step)"
    assert facts["Workers"] == "2"
    target = write_report(root)
    assert target == root / "report.html"
    assert "My run" in check(target.read_text(encoding="utf-8")).text
    assert not list(root.glob(".report*"))


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training run and no evaluation"):
        write_report(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        load_report_data(tmp_path / "nowhere")


def test_a_report_of_data_goes_where_it_is_told(tmp_path: Path) -> None:
    assert write_report(data(), tmp_path / "x.html").read_text(encoding="utf-8") == render(data())
    with pytest.raises(ValueError, match="path"):
        write_report(data())
