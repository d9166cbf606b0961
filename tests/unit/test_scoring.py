"""``python -m ray_jobs.evaluate score`` on small files in every official format, and on files that are wrong."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ray_jobs.scoring import command
from ray_jobs.scoring.tasks import SCORED, TASKS
from setok.data import rle
from setok.data.schema import Record
from setok.errors import ConfigError, DataError
from setok.metrics.editing import picture_rows
from setok.models.perceptual import load_perceptual
from tests.source_files import read
from tests.unit.test_perceptual import random_weights

Score = Callable[..., dict[str, Any]]


@pytest.fixture
def score(capsys: pytest.CaptureFixture[str]) -> Score:
    """The figures that the command prints."""

    def run(task: str, predictions: Path, annotations: Path | None = None, *more: str) -> dict[str, Any]:
        argv = ["--task", task, "--predictions", str(predictions)]
        argv += ["--annotations", str(annotations)] if annotations else []
        command.main([*argv, *more])
        printed = json.loads(capsys.readouterr().out)
        assert printed["task"] == task and printed["scorer"] == TASKS[task].scorer
        figures: dict[str, Any] = printed["figures"]
        return figures

    return run


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def vqa_files(folder: Path, answers: list[str]) -> tuple[Path, Path]:
    """One question after another, which people answer ``cat`` (7) and ``dog`` (3)."""
    people = [{"answer": "cat" if i < 7 else "dog", "answer_id": i + 1} for i in range(10)]
    truth = [
        {"question_id": i, "answers": people, "answer_type": "other", "question_type": "what is"}
        for i in range(len(answers))
    ]
    said = [{"question_id": i, "answer": answer} for i, answer in enumerate(answers)]
    return write(folder / "said.json", said), write(folder / "truth.json", {"annotations": truth})


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("task", ["vqav2", "okvqa"])
def test_vqa(score: Score, tmp_path: Path, task: str) -> None:
    figures = score(task, *vqa_files(tmp_path, ["A cat.", "dog", "fish"]))
    assert figures["accuracy"] == pytest.approx(100 * (1 + 0.9 + 0) / 3)
    assert figures["by_answer_type"] == {"other": figures["accuracy"]}
    assert figures["num_samples"] == 3


def test_vqa_of_some_questions(score: Score, tmp_path: Path) -> None:
    said, truth = vqa_files(tmp_path, ["cat", "fish"])
    write(said, [{"question_id": 0, "answer": "cat"}])
    questions = write(tmp_path / "questions.json", {"questions": [{"question_id": 0}]})
    assert score("vqav2", said, truth, "--questions", str(questions))["accuracy"] == 100
    write(questions, {"questions": [{"question_id": 8}]})
    with pytest.raises(DataError, match=r"1 question\(s\) without annotation, such as 8"):
        score("vqav2", said, truth, "--questions", str(questions))


def test_vizwiz(score: Score, tmp_path: Path) -> None:
    people = [{"answer": "unanswerable"}] * 6 + [{"answer": "can"}] * 4
    truth = write(tmp_path / "truth.json", [{"image": "a.jpg", "answers": people, "answer_type": "other"}])
    said = write(tmp_path / "said.json", [{"image": "a.jpg", "answer": "Can"}])
    assert score("vizwiz", said, truth)["accuracy"] == 100


def test_textvqa(score: Score, tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.json", {"data": [{"question_id": 3, "answers": ["two"] * 10}]})
    said = write(tmp_path / "said.json", [{"question_id": 3, "answer": "2"}])
    assert score("textvqa", said, truth)["accuracy"] == 100


def test_aokvqa(score: Score, tmp_path: Path) -> None:
    row = {"choices": ["a", "b"], "correct_choice_idx": 1, "direct_answers": ["ball"] * 2 + ["bat"] * 8}
    rows = [{**row, "question_id": "x"}, {**row, "question_id": "y", "difficult_direct_answer": True}]
    truth = write(tmp_path / "truth.json", rows)
    both = {"x": {"multiple_choice": "b", "direct_answer": "Ball"}, "y": {"multiple_choice": "a"}}
    said = write(tmp_path / "said.json", both)
    figures = score("aokvqa", said, truth)
    assert figures["multiple_choice"] == 50 and figures["num_multiple_choice"] == 2
    assert figures["direct_answer"] == pytest.approx(200 / 3) and figures["num_direct_answer"] == 1
    write(said, {name: {"multiple_choice": "b"} for name in "xy"})
    assert "direct_answer" not in score("aokvqa", said, truth)
    write(said, {"x": {"multiple_choice": "c"}, "y": {}})
    with pytest.raises(DataError, match=r"1 without multiple_choice(.|\n)*: y(.|\n)*none of the choices: x"):
        score("aokvqa", said, truth)
    write(said, {"x": {}, "y": {}})
    with pytest.raises(DataError, match="no prediction has multiple_choice or direct_answer"):
        score("aokvqa", said, truth)


def test_gqa(score: Score, tmp_path: Path) -> None:
    questions = {
        "1": {"answer": "red", "isBalanced": True, "entailed": ["2"]},
        "2": {"answer": "yes", "isBalanced": False},
    }
    truth = write(tmp_path / "truth.json", questions)
    said = write(tmp_path / "said.json", [{"questionId": "1", "prediction": "red"}])
    assert score("gqa", said, truth)["accuracy"] == 100
    write(said, [{"questionId": "1", "prediction": "red"}, {"questionId": "2", "prediction": "no"}])
    assert score("gqa", said, truth)["consistency"] == 0
    choices = write(tmp_path / "choices.json", {"1": {"valid": ["red", "blue"], "plausible": ["blue"]}})
    figures = score("gqa", said, truth, "--choices", str(choices))
    assert (figures["validity"], figures["plausibility"]) == (100, 0)
    write(choices, {"2": {"valid": [], "plausible": []}})
    with pytest.raises(DataError, match=r"no choices for 1 balanced question\(s\), such as 1"):
        score("gqa", said, truth, "--choices", str(choices))
    write(choices, {"1": {"valid": ["red"]}})
    with pytest.raises(DataError, match=r"KeyError\('plausible'\)"):
        score("gqa", said, truth, "--choices", str(choices))


def test_pope_by_id_and_by_line(score: Score, tmp_path: Path) -> None:
    asked = [{"question_id": i, "text": f"Is there {i}?", "label": label} for i, label in ((1, "yes"), (2, "no"))]
    truth = lines(tmp_path / "truth.json", asked)
    said = [{"question": "Is there 1?", "answer": "Yes"}, {"question": "Is there 2?", "answer": "I do not think so"}]
    assert score("pope", lines(tmp_path / "said.json", said), truth)["accuracy"] == 1
    backwards = [{**row, "question_id": 2 - i} for i, row in enumerate(reversed(said))]
    assert score("pope", lines(tmp_path / "said.json", backwards), truth)["accuracy"] == 1
    with pytest.raises(DataError, match="2 whose question is not the one of the annotations"):
        score("pope", lines(tmp_path / "said.json", said[::-1]), truth)
    with pytest.raises(DataError, match="1 answers for 2 questions, and no question_id"):
        score("pope", lines(tmp_path / "said.json", said[:1]), truth)


def test_mme(score: Score, tmp_path: Path) -> None:
    said, asked = tmp_path / "said", tmp_path / "asked"
    said.mkdir()
    asked.mkdir()
    (asked / "count.txt").write_text("a.jpg\tIs it?\tYes\na.jpg\tIs it not?\tNo\n")
    (said / "count.txt").write_text("a.jpg\tIs it?\tYes\tYes, it is\na.jpg\tIs it not?\tNo\tYes\n")
    assert score("mme", said, asked)["subtasks"] == {"count": {"accuracy": 50, "accuracy_plus": 0, "score": 50}}
    (said / "color.txt").write_text("a.jpg\tIs it?\n")
    with pytest.raises(DataError, match=r"2 instead of 4 columns: color.txt:1"):
        score("mme", said)
    (said / "color.txt").write_text("a.jpg\tIs it?\tMaybe\tYes\n")
    with pytest.raises(DataError, match=r"the truth is 'Maybe', not Yes or No: color.txt:1"):
        score("mme", said)
    (said / "color.txt").unlink()
    (said / "count.txt").rename(said / "cuont.txt")
    with pytest.raises(DataError, match=r"MME has no subtask 'cuont': did you mean 'count'\?: cuont.txt"):
        score("mme", said)
    (said / "cuont.txt").rename(said / "count.txt")
    (asked / "count.txt").write_text("a.jpg\tIs it?\tNo\nb.jpg\tIs it?\tNo\n")
    with pytest.raises(DataError, match=r"1 of 2 missing: count/b.jpg(.|\n)*1 with another truth"):
        score("mme", said, asked)


def test_scienceqa(score: Score, tmp_path: Path) -> None:
    problem = {
        "choices": ["a", "b"],
        "answer": 1,
        "subject": "social science",
        "grade": "grade2",
        "hint": "x",
        "image": None,
    }
    truth = write(tmp_path / "problems.json", {"1": {**problem, "split": "test"}, "2": {**problem, "split": "val"}})
    said = write(tmp_path / "said.json", {"acc": 1, "results": {"1": 1}})
    figures = score("scienceqa", said, truth)
    assert figures["accuracy"] == 100 and figures["by_subject"] == {"SOC": 100} and figures["num_samples"] == 1
    assert score("scienceqa", write(said, {"2": 0}), truth, "--split", "val")["accuracy"] == 0
    with pytest.raises(DataError, match=r"no split 'train'(.|\n)*test, val"):
        score("scienceqa", said, truth, "--split", "train")


def test_classification(score: Score, tmp_path: Path) -> None:
    truth = lines(tmp_path / "truth.jsonl", [{"image_id": "a", "label": 3}, {"image_id": "b", "label": 4}])
    said = lines(tmp_path / "said.jsonl", [{"image_id": "b", "label": 4}, {"image_id": "a", "label": 4}])
    assert score("classification", said, truth)["top1"] == 50


# ---------------------------------------------------------------- captions and masks


def test_captions(score: Score, tmp_path: Path) -> None:
    rows = [{"image_id": i, "caption": text} for i, text in ((1, "a dog runs"), (1, "dogs"), (2, "two cats sit"))]
    truth = write(tmp_path / "truth.json", {"annotations": rows})
    said = write(tmp_path / "said.json", [{"image_id": 1, "caption": "A dog runs."}, {"image_id": 2, "caption": "a"}])
    figures = score("coco_caption", said, truth)
    assert 0 < figures["bleu_1"] < 1 and figures["num_samples"] == 2 and "meteor" not in figures


def test_masks_by_expression_and_by_object(score: Score, tmp_path: Path) -> None:
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    half = mask & (np.arange(6) < 4)
    row, other = ({"size": [4, 6], "counts": rle.encode(m)} for m in (mask, half))
    truth = lines(tmp_path / "truth.jsonl", [{"sent_id": 1, **row}, {"sent_id": 2, **row}])
    said = lines(tmp_path / "said.jsonl", [{"sent_id": 2, "segmentation": other}, {"sent_id": 1, **row}])
    figures = score("refcoco", said, truth)
    assert figures["giou"] == pytest.approx(100 * (1 + 4 / 6) / 2) and figures["ciou"] == pytest.approx(100 * 10 / 12)
    broken = lines(
        tmp_path / "said.jsonl", [{"sent_id": 1, **row}, {"sent_id": 2, "size": [4, 7], "counts": row["counts"]}]
    )
    with pytest.raises(DataError, match=r"1 mask\(s\) that cannot be read, the first: broken mask(.|\n)*: 2"):
        score("refcoco", broken, truth)


@pytest.mark.parametrize(("name", "split"), [("refcoco", "val"), ("refcocog", "val")])
def test_masks_of_refer(score: Score, tmp_path: Path, realdata: Path, name: str, split: str) -> None:
    """The true masks, taken from the reader of the set, score 100 against the official files."""
    root = realdata / "refer" / "data"
    rows = []
    for record in read(name, root, split=split, turns="each"):
        assert isinstance(record, Record)
        mask = record.masks[0]
        rows.append(
            {"sent_id": int(record.provenance["sent_id"]), "size": [mask.height, mask.width], "counts": mask.counts}
        )
    assert rows
    figures = score(name, lines(tmp_path / "said.jsonl", rows), root / name, "--split", split)
    assert figures["ciou"] == figures["giou"] == figures["precision@0.9"] == 100
    assert figures["num_samples"] == len(rows)
    with pytest.raises(DataError, match=r"no split 'nowhere'(.|\n)*val"):
        score(name, tmp_path / "said.jsonl", root / name, "--split", "nowhere")


@pytest.mark.parametrize(("made", "expected"), [("pred", "perturbed"), ("truth", "self")])
def test_panoptic_golden(score: Score, realdata: Path, made: str, expected: str) -> None:
    folder = realdata / "golden" / "panoptic"
    truth = realdata / "coco" / "panoptic_official_sample" / "panoptic_examples.json"
    figures = score("panoptic", folder / "pred.json" if made == "pred" else truth, truth)
    golden = json.loads((folder / "expected.json").read_text())[expected]
    for ours, theirs in ((figures, "All"), (figures["things"], "Things"), (figures["stuff"], "Stuff")):
        assert ours["num_categories"] == golden[theirs]["n"]
        for name in ("pq", "sq", "rq"):
            assert ours[name] == pytest.approx(100 * golden[theirs][name], abs=1e-9)


def test_panoptic_files(score: Score, tmp_path: Path) -> None:
    (tmp_path / "truth").mkdir()
    (tmp_path / "said").mkdir()
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:, :2] = (1, 1, 0)  # segment 257
    for name in ("truth", "said"):
        Image.fromarray(pixels).save(tmp_path / name / "7.png")
    row = {"image_id": 7, "file_name": "7.png", "segments_info": [{"id": 257, "category_id": 5}]}
    truth = write(tmp_path / "truth.json", {"annotations": [row], "categories": [{"id": 5, "isthing": 1}]})
    said = write(tmp_path / "said.json", {"annotations": [row]})
    figures = score("panoptic", said, truth)
    assert figures["pq"] == figures["things"]["pq"] == 100 and figures["stuff"] == {"num_categories": 0}
    (tmp_path / "said" / "7.png").unlink()
    with pytest.raises(DataError, match=rf"1 without a PNG in {tmp_path}/said: 7"):
        score("panoptic", said, truth)


# ---------------------------------------------------------------- pictures


def pictures(folder: Path, number: int, *, seed: int) -> np.ndarray:
    folder.mkdir()
    drawn = np.random.default_rng(seed).integers(0, 256, (number, 16, 20, 3), dtype=np.uint8)
    for i, pixels in enumerate(drawn):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return drawn


@pytest.mark.parametrize(("task", "figures"), [("reconstruction", "psnr ssim l1 l2"), ("editing", "l1 l2")])
def test_pictures(score: Score, tmp_path: Path, task: str, figures: str) -> None:
    made, true = pictures(tmp_path / "made", 3, seed=0), pictures(tmp_path / "true", 3, seed=1)
    found = score(task, tmp_path / "made", tmp_path / "true")
    one, other = (torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255 for stack in (made, true))
    expected = {name: values.mean() for name, values in picture_rows(one, other).items() if name in figures.split()}
    assert found == pytest.approx(expected | {"num_samples": 3})
    np.savez(tmp_path / "made.npz", made)
    np.savez(tmp_path / "true.npz", true)
    assert score(task, tmp_path / "made.npz", tmp_path / "true.npz") == found


def test_pictures_that_do_not_pair(score: Score, tmp_path: Path) -> None:
    pictures(tmp_path / "made", 2, seed=0)
    pictures(tmp_path / "true", 3, seed=1)
    with pytest.raises(DataError, match="1 of 3 missing: 2"):
        score("editing", tmp_path / "made", tmp_path / "true")
    Image.new("RGB", (5, 5)).save(tmp_path / "made" / "2.jpg")
    with pytest.raises(DataError, match=r"1 of another size than the true one: 2 \(5 × 5, not 16 × 20\)"):
        score("editing", tmp_path / "made", tmp_path / "true")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no pictures"):
        score("editing", tmp_path / "empty", tmp_path / "true")


def test_keys_that_come_twice(score: Score, tmp_path: Path) -> None:
    problem = {"choices": ["a", "b"], "answer": 1, "split": "test"}
    truth, said = write(tmp_path / "problems.json", {"1": problem}), tmp_path / "said.json"
    said.write_text('{"results": {"1": 1, "1": 0}}')
    with pytest.raises(DataError, match=r"said.json: 1 duplicate key\(s\): 1"):
        score("scienceqa", said, truth)


@pytest.mark.parametrize("kept", [0, 60])
def test_a_file_of_features_that_was_cut_off(score: Score, tmp_path: Path, kept: int) -> None:
    whole = tmp_path / "whole.npz"
    np.savez(whole, features=np.eye(6))
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:kept])
    for task in ("fid", "reconstruction"):
        with pytest.raises(DataError, match=r"cut\.npz (cannot be read as|is no) npz"):
            score(task, tmp_path / "cut.npz", whole)


def test_features_that_are_none(score: Score, tmp_path: Path) -> None:
    whole, wrong = tmp_path / "whole.npz", tmp_path / "wrong.npz"
    np.savez(whole, features=np.eye(6))
    np.savez(wrong, features=np.ones(6))
    with pytest.raises(DataError, match=r"features of shape \(6,\)"):
        score("fid", wrong, whole)
    np.savez(wrong, features=np.full((6, 6), np.nan))
    with pytest.raises(DataError, match="NaN or infinity"):
        score("fid", wrong, whole)


def test_fid_of_features(score: Score, tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(30, 4))
    np.savez(tmp_path / "one.npz", features=features)
    np.savez(tmp_path / "other.npz", mu=features.mean(0) + 2, sigma=np.cov(features.T))
    assert score("fid", tmp_path / "one.npz", tmp_path / "other.npz")["fid"] == pytest.approx(16)
    pictures(tmp_path / "made", 2, seed=0)
    with pytest.raises(
        ConfigError, match=r"no network to take features with(.|\n)*--variant pytorch-fid or torch-fidelity"
    ):
        score("fid", tmp_path / "made", tmp_path / "one.npz")


def test_fid_of_pictures(score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real network takes seconds a picture here, so a small one stands in: the mean colour."""
    made, true = pictures(tmp_path / "made", 20, seed=0), pictures(tmp_path / "true", 25, seed=1)
    Image.fromarray(true[0]).resize((8, 8)).save(tmp_path / "true" / "9small.png")

    def small(_path: Path, variant: str) -> Callable[[torch.Tensor], torch.Tensor]:
        assert variant == "pytorch-fid"
        return lambda pixels: pixels.double().mean((2, 3))

    monkeypatch.setattr("setok.models.inception.load_inception", small)
    weights = tmp_path / "weights.pth"
    weights.touch()
    options = ("--inception", str(weights), "--variant", "pytorch-fid")
    found = score("fid", tmp_path / "made", tmp_path / "true", *options)
    assert found["variant"] == "pytorch-fid"
    shown = [*true, np.array(Image.fromarray(true[0]).resize((8, 8)))]
    one, other = (np.array([p.reshape(-1, 3).mean(0) for p in stack]) for stack in (made, shown))
    np.savez(tmp_path / "one.npz", features=one)
    np.savez(tmp_path / "other.npz", features=other)
    expected = score("fid", tmp_path / "one.npz", tmp_path / "other.npz")["fid"]
    assert found["fid"] == pytest.approx(expected)


def test_networks_that_are_named(score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, true = pictures(tmp_path / "made", 3, seed=0), pictures(tmp_path / "true", 3, seed=1)
    one, other = (torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255 for stack in (made, true))
    save_file(random_weights(), tmp_path / "lpips.safetensors")
    lpips = load_perceptual(tmp_path / "lpips.safetensors")
    found = score(
        "reconstruction", tmp_path / "made", tmp_path / "true", "--lpips", str(tmp_path / "lpips.safetensors")
    )
    assert found["lpips"] == pytest.approx(lpips(one, other).mean().item(), rel=1e-4)

    def brightest(_folder: Path, _kind: str) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda pixels: pixels.amax((2, 3)) - 0.9

    monkeypatch.setattr("setok.models.picture_features.load_picture_features", brightest)
    found = score("editing", tmp_path / "made", tmp_path / "true", "--clip", str(tmp_path), "--dino", str(tmp_path))
    cosine = torch.nn.functional.cosine_similarity(one.amax((2, 3)) - 0.9, other.amax((2, 3)) - 0.9)
    assert found["clip_i"] == found["dino"] == pytest.approx(cosine.mean().item(), rel=1e-4)


def test_a_missing_weights_file(score: Score, tmp_path: Path) -> None:
    pictures(tmp_path / "made", 2, seed=0)
    for task, option in (
        ("reconstruction", "--lpips"),
        ("editing", "--clip"),
        ("editing", "--dino"),
        ("fid", "--inception"),
    ):
        more = ("--variant", "pytorch-fid") if option == "--inception" else ()
        with pytest.raises(ConfigError, match=f"{option}: there is no .*nowhere"):
            score(task, tmp_path / "made", tmp_path / "made", option, str(tmp_path / "nowhere"), *more)


def test_rfid_beside_the_pairs(score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "made", 5, seed=0)
    pictures(tmp_path / "true", 5, seed=1)
    mean_colour = lambda pixels: pixels.double().mean((2, 3))  # noqa: E731
    monkeypatch.setattr("setok.models.inception.load_inception", lambda path, variant: mean_colour)
    options = ("--inception", str(tmp_path), "--variant", "torch-fidelity")
    both = score("reconstruction", tmp_path / "made", tmp_path / "true", *options)
    assert both["rfid"] == score("fid", tmp_path / "made", tmp_path / "true", *options)["fid"] > 0
    assert both["variant"] == "torch-fidelity" and both["psnr"] > 0


# ---------------------------------------------------------------- what is wrong


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
    said, truth = vqa_files(tmp_path, ["cat"] * 5000)
    argv = [sys.executable, "-m", "ray_jobs.evaluate", "score", "--task", "vqav2", "--predictions", str(said)]
    where = {
        "cwd": repo_root,
        "env": {**os.environ, "PYTHONPATH": str(repo_root)},
        "capture_output": True,
        "text": True,
    }
    good = subprocess.run([*argv, "--annotations", str(truth)], check=True, **where)
    assert json.loads(good.stdout)["figures"]["num_samples"] == 5000
    write(said, [])
    bad = subprocess.run([*argv, "--annotations", str(truth)], check=False, **where)
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
