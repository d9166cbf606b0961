"""Annotations that cannot be the truth, answers of another kind, packed files, and the list of everything that is wrong."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st
from PIL import Image

from ray_jobs.scoring import command, reading
from ray_jobs.scoring.tasks import GROUPS
from setok.data import rle
from setok.errors import ConfigError, DataError
from tests.scored import Score, lines, score, vqa_files, write

__all__ = ["score"]
PEOPLE = [{"answer": "cat"}] * 10
PROBLEM = {"split": "test", "choices": ["a", "b"], "answer": 1}


def told(task: str, said: Path, truth: Path, *more: str) -> str:
    """Why the command refuses."""
    with pytest.raises((DataError, ConfigError)) as caught:
        command.main(["--task", task, "--predictions", str(said), "--annotations", str(truth), *more])
    return str(caught.value)


# ---------------------------------------------------------------- annotations

VQA_ROW = {"question_id": 7, "answers": PEOPLE}
AOKVQA_ROW = {"question_id": 7, "choices": ["a", "b"], "correct_choice_idx": 1, "direct_answers": ["a"]}
TWICE: dict[str, tuple[Any, Any]] = {
    "vqav2": ([{"question_id": 7, "answer": "x"}], {"annotations": [VQA_ROW, VQA_ROW]}),
    "vizwiz": ([{"image": 7, "answer": "x"}], [{"image": 7, "answers": PEOPLE}] * 2),
    "textvqa": ([{"question_id": 7, "answer": "x"}], {"data": [{"question_id": 7, "answers": ["x"]}] * 2}),
    "aokvqa": ({"7": {"multiple_choice": "a"}}, [AOKVQA_ROW] * 2),
    "pope": (
        [{"question_id": 7, "question": "x", "answer": "x"}],
        [{"question_id": 7, "text": "x", "label": "no"}] * 2,
    ),
    "classification": ([{"image_id": 7, "label": "x"}], [{"image_id": 7, "label": "x"}] * 2),
    "refcoco": ([{"sent_id": 7, "size": [1, 1], "counts": [1]}], [{"sent_id": 7, "size": [1, 1], "counts": [1]}] * 2),
    "panoptic": (
        {"annotations": []},
        {"annotations": [{"image_id": 7, "file_name": "7.png", "segments_info": []}] * 2, "categories": []},
    ),
}


@pytest.mark.parametrize("task", TWICE)
def test_annotations_that_come_twice(tmp_path: Path, task: str) -> None:
    said, truth = (write(tmp_path / f"{n}.json", tree) for n, tree in enumerate(TWICE[task]))
    assert f"{truth} cannot be the truth of {task!r}:\n  - 1 duplicate id(s): 7" in told(task, said, truth)


def test_captions_are_told_apart_by_their_own_id(score: Score, tmp_path: Path) -> None:
    rows = [{"image_id": 1, "id": n, "caption": "a dog"} for n in (4, 5)]
    said, truth = write(tmp_path / "s.json", [{"image_id": 1, "caption": "a dog"}]), tmp_path / "t.json"
    assert score("coco_caption", said, write(truth, {"annotations": rows}))["num_samples"] == 1
    assert "1 duplicate id(s): 1/4" in told("coco_caption", said, write(truth, {"annotations": [*rows, rows[0]]}))
    without = [{"image_id": 1, "caption": "a dog"}] * 2  # whether these are one nobody can know
    assert score("coco_caption", said, write(truth, {"annotations": without}))["num_samples"] == 1
    rows[0]["caption"] = None
    assert "1 whose caption is no text: 1/4" in told("coco_caption", said, write(truth, {"annotations": rows}))


@pytest.mark.parametrize("answers", ["abc", [None] * 10, [3] * 10, PEOPLE, {"a": 1}])
def test_answers_of_people_that_are_no_texts(tmp_path: Path, answers: Any) -> None:
    said = write(tmp_path / "s.json", [{"question_id": 7, "answer": "a"}])
    truth = write(tmp_path / "t.json", {"data": [{"question_id": 7, "answers": answers}]})
    assert "1 whose answers are no texts: 7" in told("textvqa", said, truth)


def test_an_answer_that_is_none_is_no_word(tmp_path: Path) -> None:
    said = write(tmp_path / "s.json", [{"question_id": 7, "answer": "None"}])
    truth = write(tmp_path / "t.json", {"annotations": [{"question_id": 7, "answers": [{"answer": None}] * 10}]})
    assert "1 whose answers are no texts: 7" in told("vqav2", said, truth)


def test_lines_of_which_there_is_one(score: Score, tmp_path: Path) -> None:
    said = lines(tmp_path / "s.jsonl", [{"question_id": 7, "question": "x", "answer": "no"}])
    truth = lines(tmp_path / "t.jsonl", [{"question_id": 7, "text": "x", "label": "no"}])
    assert score("pope", said, truth)["accuracy"] == 1.0
    masks = lines(tmp_path / "m.jsonl", [{"sent_id": 7, "size": [1, 1], "counts": [0, 1]}])
    assert score("refcoco", masks, masks)["giou"] == 100.0


def test_masks_too_large_for_any_picture(tmp_path: Path) -> None:
    said = write(tmp_path / "s.json", [{"sent_id": 7, "size": [200_000, 200_000], "counts": [0, 40_000_000_000]}])
    truth = write(tmp_path / "t.json", [{"sent_id": 7, "size": [1, 1], "counts": [0, 1]}])
    assert "are more than 134,217,728" in told("refcoco", said, truth)


def test_a_category_that_nobody_knows(tmp_path: Path) -> None:
    def tree(category: int) -> dict[str, Any]:
        segments = [{"id": 1, "category_id": category}]
        return {"annotations": [{"image_id": 7, "file_name": "7.png", "segments_info": segments}]}

    said = write(tmp_path / "s.json", tree(99999))
    truth = write(tmp_path / "t.json", tree(1) | {"categories": [{"id": 1, "isthing": 1}]})
    assert "1 picture(s) with a category that the annotations do not have: 7" in told("panoptic", said, truth)


def test_all_that_is_wrong_with_a_panoptic_set(tmp_path: Path) -> None:
    """Each kind with its pictures, of the predictions and of the annotations."""
    good = {"segments_info": [{"id": 5, "category_id": 1}]}

    def put(name: str, rows: dict[int, dict[str, Any]], sizes: dict[int, int]) -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        for picture, size in sizes.items():
            Image.new("RGB", (size, size), (5, 0, 0)).save(tmp_path / name / f"{picture}.png")
        listed = [{"image_id": picture, "file_name": f"{picture}.png", **row} for picture, row in rows.items()]
        return write(tmp_path / f"{name}.json", {"annotations": listed, "categories": [{"id": 1, "isthing": 1}]})

    pictures = range(1, 8)
    truth = put("t", dict.fromkeys(pictures, good), dict.fromkeys(pictures, 4))
    other = {"segments_info": [{"id": 6, "category_id": 1}]}
    said = put("s", dict.fromkeys(pictures, good) | {6: other, 7: other}, {3: 4, 4: 2, 5: 2, 6: 4, 7: 4})
    (tmp_path / "s" / "3.png").write_bytes(b"no picture")
    found = told("panoptic", said, truth)
    for line in (
        f"2 without a PNG in {tmp_path}/s: 1, 2",
        "1 whose PNG cannot be read: not an image: 3",
        "2 whose PNG has another size than the annotation's: 4, 5",
        "2 whose PNG has other segments than segments_info: 6 (5), 7 (5)",
    ):
        assert f"\n  - {line}" in found
    said = put("s", {n: {"segments_info": [{"id": 5}]} for n in pictures}, {})
    assert "7 whose segments_info is no list of {id, category_id}: 1, 2, 3, 4, 5, …" in told("panoptic", said, truth)
    put("t", {n: {"segments_info": None} for n in pictures} | {7: {"file_name": 7}}, {})
    found = told("panoptic", said, truth)
    assert (
        "6 whose segments_info is no list of {id, category_id}: 1, 2" in found and "1 without a file_name: 7" in found
    )


def test_gqa_with_nothing_to_score(tmp_path: Path) -> None:
    said = write(tmp_path / "s.json", [{"questionId": "7", "prediction": "yes"}])
    truth = write(tmp_path / "t.json", {"7": {"answer": "yes", "isBalanced": False}})
    assert "has no balanced question" in told("gqa", said, truth)
    truth = write(tmp_path / "t.json", {"7": {"answer": "yes", "types": "query"}})
    assert "1 whose types or groups are no object: 7" in told("gqa", said, truth)
    truth = write(tmp_path / "t.json", {"7": {"answer": "yes"}})
    choices = write(tmp_path / "c.json", {"7": {"valid": "yes", "plausible": ["yes"]}})
    assert "'yes' is no list" in told("gqa", said, truth, "--choices", str(choices))


def test_statistics_that_are_none(tmp_path: Path) -> None:
    good, bad = tmp_path / "g.npz", tmp_path / "b.npz"
    np.savez(good, mu=np.zeros(3), sigma=np.eye(3))
    for wrong, why in ((np.eye(4), "sigma of shape (4, 4)"), (-np.eye(3), "negative variance")):
        np.savez(bad, mu=np.zeros(3), sigma=wrong)
        assert why in told("fid", bad, good)


def test_questions_that_come_twice(tmp_path: Path) -> None:
    said, truth = vqa_files(tmp_path, ["cat"])
    questions = write(tmp_path / "q.json", {"questions": [{"question_id": 0}] * 2})
    found = told("vqav2", said, truth, "--questions", str(questions))
    assert f"{questions} cannot be the truth of 'vqav2':\n  - 1 duplicate id(s): 0" in found


@pytest.mark.parametrize(
    ("task", "said", "truth", "wrong"),
    [
        ("vqav2", [], {"annotations": [VQA_ROW, {"question_id": 8, "answers": []}]}, "1 without answers: 8"),
        ("vizwiz", [], [{"image": "a.jpg", "answers": []}], "1 without answers: a.jpg"),
        ("textvqa", [], {"data": [{"question_id": 8, "answers": []}]}, "1 without answers: 8"),
        ("gqa", [], {"8": {"answer": None}}, "1 without an answer: 8"),
        ("aokvqa", {}, [AOKVQA_ROW | {"correct_choice_idx": -1}], "1 whose answer is no number of a choice: 7"),
        ("aokvqa", {}, [AOKVQA_ROW | {"direct_answers": []}], "1 without direct_answers: 7"),
        ("scienceqa", {}, {"8": PROBLEM | {"answer": 2}}, "1 whose answer is no number of a choice: 8"),
        ("pope", [], [{"question_id": 8, "text": "x", "label": "No"}], "1 whose label is neither yes nor no: 8"),
        ("classification", [], [{"image_id": 8, "label": None}], "1 whose label is neither text nor a whole number: 8"),
    ],
)
def test_annotations_that_nothing_can_be_scored_against(
    tmp_path: Path, task: str, said: Any, truth: Any, wrong: str
) -> None:
    found = told(task, write(tmp_path / "s.json", said), write(tmp_path / "t.json", truth))
    assert f"t.json cannot be the truth of {task!r}:\n  - {wrong}" in found


# ---------------------------------------------------------------- answers of another kind


def test_labels_of_another_type(score: Score, tmp_path: Path) -> None:
    said, truth = tmp_path / "s.json", tmp_path / "t.json"
    rows = [{"image_id": n, "label": n} for n in range(3)]
    write(truth, rows)
    as_text = [{**row, "label": str(row["label"])} for row in rows]
    assert score("classification", write(said, as_text), truth)["top1"] == 100
    names = [{**row, "label": "cat"} for row in rows]
    message = "3 whose labels are names of classes, where the annotations have numbers: 0, 1, 2"
    assert message in told("classification", write(said, names), truth)
    message = "3 whose labels are numbers of classes, where the annotations have names"
    assert message in told("classification", write(said, rows), write(truth, names))
    broken = [{"image_id": 0, "label": 1.0}, {"image_id": 1}, {"image_id": 2, "label": True}]
    message = "3 without a label that is text or a whole number: 0, 1, 2"
    assert message in told("classification", write(said, broken), truth)


def test_labels_that_nobody_knows(score: Score, tmp_path: Path) -> None:
    said, truth = tmp_path / "s.json", tmp_path / "t.json"

    def labelled(*labels: str) -> list[dict[str, Any]]:
        return [{"image_id": n, "label": label} for n, label in enumerate(labels)]

    write(truth, labelled("tabby cat", "red fox", "red fox"))
    found = told("classification", write(said, labelled("Tabby_cat", "red fox", "redfox")), truth)
    assert "2 whose label the annotations spell otherwise: 0 ('Tabby_cat', which is 'tabby cat' there), 2 (" in found
    found = told("classification", write(said, labelled("tabyb cat", "lion", "lion")), truth)
    assert (
        "all 3 labels are unknown to the annotations, such as 'tabyb cat': did you mean 'tabby cat'?: 0, 1, 2" in found
    )
    found = told("classification", write(said, labelled("n01", "n02", "n02")), truth)
    assert "such as 'n01': they have red fox, tabby cat: 0, 1, 2" in found
    figures = score("classification", write(said, labelled("lion", "red fox", "tabby cat")), truth)
    assert figures["num_unknown"] == 1 and figures["top1"] == pytest.approx(100 / 3), "a class may be missing by chance"


def test_choices_out_of_range(score: Score, tmp_path: Path) -> None:
    truth = write(tmp_path / "t.json", {str(n): PROBLEM for n in range(4)})
    said = write(tmp_path / "s.json", {"0": 1, "1": 2, "2": -2, "3": "1"})
    assert "3 that is no number of a choice: 1 (2), 2 (-2), 3 ('1')" in told("scienceqa", said, truth)
    figures = score("scienceqa", write(said, {"0": 1, "1": -1, "2": 0, "3": 1}), truth)
    assert figures["accuracy"] == 50 and figures["num_without_choice"] == 1


def test_a_split_of_a_file_without_splits(tmp_path: Path) -> None:
    row = {"sent_id": 1, "size": [2, 2], "counts": rle.encode(np.ones((2, 2), bool))}
    truth = lines(tmp_path / "t.jsonl", [row])
    assert "--split val goes with REFER's folder" in told("refcoco", truth, truth, "--split", "val")


# ---------------------------------------------------------------- packed files


def packed(path: Path) -> Path:
    target = Path(f"{path}.gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    return target


def marked(path: Path) -> Path:
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    return path


@pytest.mark.parametrize("how", [packed, marked, lambda path: packed(marked(path))])
def test_packed_and_marked_files(score: Score, tmp_path: Path, how: Callable[[Path], Path]) -> None:
    said, truth = map(how, vqa_files(tmp_path, ["cat", "dog"]))
    assert score("vqav2", said, truth)["num_samples"] == 2
    asked = lines(tmp_path / "t.jsonl", [{"question_id": n, "text": f"is it {n}?", "label": "yes"} for n in range(2)])
    answers = lines(
        tmp_path / "s.jsonl", [{"question_id": n, "question": f"is it {n}?", "answer": "yes"} for n in (0, 1)]
    )
    assert score("pope", how(answers), how(asked))["accuracy"] == 1


def test_a_packed_panoptic_file_finds_its_pictures(score: Score, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    Image.new("RGB", (4, 4), (5, 0, 0)).save(tmp_path / "t" / "7.png")
    row = {"image_id": 7, "file_name": "7.png", "segments_info": [{"id": 5, "category_id": 1}]}
    truth = write(tmp_path / "t.json", {"annotations": [row], "categories": [{"id": 1, "isthing": 1}]})
    assert score("panoptic", packed(truth), packed(truth))["pq"] == 100


def test_a_file_that_holds_far_more_than_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = tmp_path / "bomb.json.gz"
    bomb.write_bytes(gzip.compress(b" " * 300_000))
    assert bomb.stat().st_size * reading.MOST_TIMES < 300_000 < reading.ALWAYS_UNPACKED
    assert reading.read_text(bomb) == " " * 300_000, "small files may hold what they like"
    monkeypatch.setattr(reading, "ALWAYS_UNPACKED", 1000)
    with pytest.raises(DataError, match="more than 100 times its own size"):
        reading.read_text(bomb)


@pytest.mark.parametrize("kept", [5, 30])
def test_a_packed_file_that_was_cut_off(tmp_path: Path, kept: int) -> None:
    said, truth = vqa_files(tmp_path, ["cat"] * 9)
    said.write_bytes(gzip.compress(said.read_bytes())[:kept])
    assert "packed by gzip, and damaged" in told("vqav2", said, truth)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])  # each writes the file anew
@drawn(st.lists(st.text(), min_size=1, max_size=5))
def test_json_lines_may_hold_any_text(tmp_path: Path, texts: list[str]) -> None:
    path = tmp_path / "any.jsonl"
    rows = [{"said": text.encode("utf-8", "replace").decode()} for text in [*texts, "\u2028", "\x85"]]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8", newline="")
    assert reading.read_json(path) == rows


# ---------------------------------------------------------------- all of it


def test_every_id_in_a_file(score: Score, tmp_path: Path) -> None:
    said, truth = vqa_files(tmp_path, ["cat"] * 12)
    whole, listed = said.read_text(), tmp_path / "problems.json"
    write(said, [{"question_id": 0, "answer": "cat"}, {"question_id": 99, "answer": "cat"}])
    assert "11 of 12 missing: 1, 2, 3, 4, 5, …" in (first := told("vqav2", said, truth))
    assert "--problems FILE writes down every id" in first
    assert f"{listed} lists every id" in told("vqav2", said, truth, "--problems", str(listed))
    assert json.loads(listed.read_text()) == [
        {"file": str(said), "problem": "11 of 12 missing", "ids": [str(n) for n in range(1, 12)]},
        {"file": str(said), "problem": "1 that the annotations do not have", "ids": ["99"]},
    ]
    said.write_text(whole)
    score("vqav2", said, truth, "--problems", str(listed))
    assert json.loads(listed.read_text()) == [], "what was mended is no longer listed"


def test_problems_go_nowhere_else(tmp_path: Path) -> None:
    said, truth = vqa_files(tmp_path, ["cat"])
    for file, why in (
        (truth, "is what is to be scored"),
        (tmp_path, "cannot be written"),
        (tmp_path / "no" / "x.json", "cannot be written"),
    ):
        assert why in told("vqav2", said, truth, "--problems", str(file))


def test_groups_have_the_task_of_any_set() -> None:
    for group, own in (
        ("questions", "vqa"),
        ("captions", "caption"),
        ("segmentation", "segment"),
        ("pictures", "edit"),
    ):
        assert own in GROUPS[group] and len(GROUPS[group]) > 1
