"""The report: whole in one file, well formed, with every figure, and safe whatever the data says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_jobs.evaluation import files, tokenizer_files
from ray_jobs.reporting.data import load_report_data
from ray_jobs.reporting.gallery import token_map_svg
from ray_jobs.reporting.page import render, write_report
from ray_jobs.reporting.rows import ALONE, COMPARED, show
from setok.config import EvaluateConfig
from setok.errors import DataError
from tests.pages import check
from tests.reports import EVIL, NAN, data, metrics, picture

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
