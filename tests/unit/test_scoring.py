"""``python -m ray_jobs.evaluate score``: what it says of files and arguments that are wrong, and the published figures."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ray_jobs.scoring import command
from ray_jobs.scoring.tasks import SCORED
from setok.errors import ConfigError, DataError
from tests.scored import Score, lines, score, vqa_files, write

__all__ = ["score"]


def test_keys_that_come_twice(score: Score, tmp_path: Path) -> None:
    problem = {"choices": ["a", "b"], "answer": 1, "split": "test"}
    truth, said = write(tmp_path / "problems.json", {"1": problem}), tmp_path / "said.json"
    said.write_text('{"results": {"1": 1, "1": 0}}')
    with pytest.raises(DataError, match=r"said.json: 1 duplicate key\(s\): 1"):
        score("scienceqa", said, truth)


def test_everything_wrong_is_listed(score: Score, tmp_path: Path) -> None:
    said, truth = vqa_files(tmp_path, ["cat"] * 8)
    rows = [{"question_id": i, "answer": "cat"} for i in (0, 0, 1, 40)] + [{"question_id": 2, "answer": 2}]
    with pytest.raises(DataError) as caught:
        score("vqav2", write(said, rows), truth)
    told = str(caught.value)
    assert "1 answer(s) that are no text: 2" in told
    assert "1 duplicate question_id(s): 0" in told
    assert "5 of 8 missing: 3, 4, 5, 6, 7" in told
    assert "1 that the annotations do not have: 40" in told
    assert "[{question_id, answer}]" in told


def test_another_tasks_format(score: Score, tmp_path: Path) -> None:
    said, truth = vqa_files(tmp_path, ["cat"])
    with pytest.raises(
        DataError, match=r"1 row\(s\) without question_id and answer \(the first has caption, image_id\)"
    ):
        score("vqav2", write(said, [{"image_id": 1, "caption": "a cat"}]), truth)
    with pytest.raises(DataError, match=r"no list of objects but a list of int"):
        score("vqav2", write(said, [1, 2]), truth)
    with pytest.raises(DataError, match=r"no JSON object but a list of objects"):
        score("vqav2", write(said, [{"question_id": 0, "answer": "cat"}]), write(tmp_path / "swapped.json", [{"a": 1}]))
    said.write_text("[" * 100_000)
    with pytest.raises(DataError, match="nested too deeply"):
        score("vqav2", said, truth)
    said.write_text('{"question_id": 0\n')
    with pytest.raises(DataError, match="neither JSON nor JSON lines: line 1"):
        score("vqav2", said, truth)
    with pytest.raises(DataError, match=r"cannot be read: it is no text"):
        score("vqav2", Path(sys.executable), truth)
    with pytest.raises(DataError, match=r"has no list 'annotations'"):
        score("vqav2", write(said, [{"question_id": 0, "answer": "cat"}]), write(truth, {"data": []}))
    with pytest.raises(DataError, match=r"not in the format of(.|\n)*'answers'"):
        score("vqav2", said, write(truth, {"annotations": [{"question_id": 1}]}))


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--task", "vqa2", "--predictions", "x"], r"'vqa2' is unknown(.|\n)*did you mean 'vqav2'"),
        (["--predictions", "x"], "no task was named"),
        (["--task", "gqa"], r"needs predictions(.|\n)*questionId"),
        (["--task", "gqa", "--predictions", "x"], "needs annotations"),
        (["--task", "gqa", "--predictions", "nowhere", "--annotations", "x"], "--predictions: there is no nowhere"),
        (["--task", "gqa", "--predictions", "x", "--annotations", "x", "--meteor"], "'gqa' takes no --meteor"),
        (["--task", "fid", "--predictions", "x", "--annotations", "x", "--variant", "y"], "go together"),
    ],
)
def test_arguments_that_make_no_sense(argv: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        command.main(argv)


def test_list_of_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["--list"])
    printed = capsys.readouterr().out
    assert len(SCORED) == 22 and all(f"{name}\n  predictions  " in printed for name in SCORED)


def test_from_the_command_line(tmp_path: Path, repo_root: Path) -> None:
    _, truth = vqa_files(tmp_path, ["cat"] * 5000)
    said = write(tmp_path / "said.json", [])
    argv = [sys.executable, "-m", "ray_jobs.evaluate", "score", "--task", "vqav2", "--predictions", str(said)]
    bad = subprocess.run(
        [*argv, "--annotations", str(truth)],
        check=False,
        capture_output=True,
        text=True,
        cwd=repo_root,
        env={**os.environ, "PYTHONPATH": str(repo_root)},
    )
    assert bad.returncode == 2 and bad.stdout == ""
    assert "5000 of 5000 missing: 0, 1, 2, 3, 4, …" in bad.stderr and "Traceback" not in bad.stderr


def test_five_thousand_answers_take_under_five_seconds(score: Score, tmp_path: Path) -> None:
    files = vqa_files(tmp_path, [f"cat number {i}" for i in range(5000)])
    started = time.process_time()
    score("vqav2", *files)
    assert time.process_time() - started < 5  # 0.3 s on a quiet machine


# ---------------------------------------------------------------- goldens through the command


def test_goldens(score: Score, tmp_path: Path, realdata: Path) -> None:
    golden = realdata / "golden"
    rows = json.loads(gzip.decompress((golden / "vqa_accuracy" / "okvqa_5046.json.gz").read_bytes()))
    said = [{"question_id": row["question_id"], "answer": row["prediction"]} for row in rows]
    truth = [{**row, "answers": [{"answer": answer} for answer in row["answers"]]} for row in rows]
    files = write(tmp_path / "s.json", said), write(tmp_path / "t.json", {"annotations": truth})
    assert round(score("okvqa", *files)["accuracy"], 2) == 60.01

    captions = gzip.decompress((golden / "coco_caption" / "captions_val2014_fakecap_subset.json.gz").read_bytes())
    (tmp_path / "t.json").write_bytes(captions)
    figures = score(
        "coco_caption", golden / "coco_caption" / "captions_val2014_fakecap_results.json", tmp_path / "t.json"
    )
    assert round(figures["cider"], 3) == 0.6 and round(figures["bleu_4"], 3) == 0.191

    answers = gzip.decompress((golden / "pope" / "answers_random.jsonl.gz").read_bytes())
    (tmp_path / "s.json").write_bytes(answers)
    figures = score("pope", tmp_path / "s.json", realdata / "pope" / "coco_pope_random.json")
    assert round(figures["f1"], 6) == 0.794917

    rows = json.loads(gzip.decompress((golden / "gqa" / "testdev_balanced_12578.json.gz").read_bytes()))
    said = [{"questionId": row["questionId"], "prediction": row["prediction"]} for row in rows]
    files = write(tmp_path / "s.json", said), write(tmp_path / "t.json", {row["questionId"]: row for row in rows})
    assert round(score("gqa", *files)["accuracy"], 4) == 41.8429

    masks = json.loads((golden / "refseg" / "masks.json").read_text())
    said, truth = ([{"ref_id": row["ref_id"], **row[name]} for row in masks] for name in ("pred", "gt"))
    figures = score("grefcoco", lines(tmp_path / "s.json", said), lines(tmp_path / "t.json", truth))
    assert round(figures["with_target"]["ciou"], 4) == 59.3634 and round(figures["giou"], 4) == 55.0753
