"""Scores of answers to questions, from small files in every official format."""

from __future__ import annotations

from pathlib import Path

import pytest

from setok.errors import DataError
from tests.scored import Score, lines, score, vqa_files, write

__all__ = ["score"]


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
