"""GQA, POPE, MME, ScienceQA, and the accumulator of single scores."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setok.errors import DataError
from setok.metrics import scienceqa
from setok.metrics.gqa import GqaScores, distribution
from setok.metrics.mme import COGNITION, PERCEPTION, MmeScores, read_answer
from setok.metrics.pope import PopeScores, says_yes
from setok.metrics.samples import SampleScores

# ---------------------------------------------------------------- accumulator


@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from("ab")), min_size=1, max_size=30),
    st.integers(0, 30),
    st.randoms(use_true_random=False),
)
def test_split_and_merged_is_the_same(rows: list[tuple[float, str]], cut: int, random: Any) -> None:
    whole = SampleScores()
    parts = SampleScores(), SampleScores()
    numbered = list(enumerate(rows))
    for i, (value, kind) in numbered:
        whole.update(str(i), {"accuracy": value}, {"kind": kind})
    random.shuffle(numbered)
    for place, (i, (value, kind)) in enumerate(numbered):
        parts[place < cut].update(str(i), {"accuracy": value}, {"kind": kind})
    assert parts[1].merge(parts[0]).compute() == whole.compute()
    assert whole.compute()["accuracy"] == pytest.approx(100 * sum(v for v, _ in rows) / len(rows))


def test_a_sample_counts_once() -> None:
    scores = SampleScores()
    scores.update("7", {"accuracy": 1.0})
    with pytest.raises(DataError, match="'7' was scored twice"):
        scores.merge(scores)


def test_no_samples() -> None:
    assert SampleScores().compute() == {"num_samples": 0}


# ---------------------------------------------------------------- GQA


def test_gqa_by_hand() -> None:
    questions = {
        "1": {"answer": "red", "entailed": ["1", "2", "3"], "types": {"structural": "query", "semantic": "attr"}},
        "2": {"answer": "yes", "isBalanced": False},
        "3": {"answer": "no", "isBalanced": False},
        "4": {"answer": "no", "entailed": ["2"], "types": {"structural": "verify", "semantic": "rel"}},
    }
    said = {"1": "red", "2": "yes", "3": "yes", "4": "No"}
    parts = GqaScores(), GqaScores()
    for question, row in questions.items():
        parts[question < "3"].update(question, said[question], row)
    figures = parts[0].merge(parts[1]).compute()
    assert figures["accuracy"] == 50  # "No" is not "no"; questions that are not balanced do not count
    assert figures["by_form"] == {"binary": 0, "open": 100}
    assert (
        figures["consistency"] == 50 and figures["num_consistency"] == 1
    )  # of 2 and 3 one is right; 4 is wrong itself
    assert figures["num_samples"] == 2


def test_gqa_choices_and_distribution_by_hand() -> None:
    colour = {"answer": "red", "groups": {"global": "colour"}, "types": {"detailed": "attrQuery"}}
    shared = {"answer": "shape", "types": {"detailed": "twoCommon"}}
    choices = {"valid": ["red", "blue"], "plausible": ["red"]}
    scores = GqaScores()
    for question, said in (("1", "red"), ("2", "blue"), ("3", "blue"), ("4", "big")):
        scores.update(question, said, colour, choices)
    scores.update(
        "5", "material", shared, {"valid": [], "plausible": []}
    )  # asks what is common: its choices do not count
    scores.update("6", "red", {**colour, "isBalanced": False}, choices)  # counts for nothing here
    figures = scores.compute()
    assert figures["validity"] == 100 * 4 / 5
    assert figures["plausibility"] == 100 * 2 / 5
    assert (
        figures["distribution"] == (1 - 4) ** 2 / 4 / 100
    )  # red is said once of four times; what is never right is free
    assert "distribution" not in GqaScores().compute()


_PAIRS = st.lists(
    st.tuples(st.sampled_from(["f", "g"]), st.sampled_from("abc"), st.sampled_from("abcd")), min_size=1, max_size=30
)


@given(_PAIRS)
def test_gqa_distribution_is_chi_square_of_the_groups(pairs: list[tuple[str, str, str]]) -> None:
    total = 0.0
    for group in {row[0] for row in pairs}:
        own = [row for row in pairs if row[0] == group]
        for answer in {row[1] for row in own}:
            true, said = sum(row[1] == answer for row in own), sum(row[2] == answer for row in own)
            total += len(own) * (said - true) ** 2 / true
    assert distribution(pairs) == pytest.approx(total / len(pairs) / 100)
    assert distribution(pairs) == distribution(pairs[::-1])
    assert distribution([(group, answer, answer) for group, answer, _ in pairs]) == 0


def test_gqa_golden(realdata: Path) -> None:
    folder = realdata / "golden" / "gqa"
    rows = json.loads(gzip.decompress((folder / "testdev_balanced_12578.json.gz").read_bytes()))
    expected = json.loads((folder / "expected.json").read_text())
    assert len(rows) == expected["n"] == 12578
    for field, exact, contained in (
        ("prediction", "exact_match_correct", "containment_correct"),
        ("prediction_b", "prediction_b_exact_correct (counted here)", "prediction_b_containment_correct"),
    ):
        scores = GqaScores()
        for row in rows:
            scores.update(row["questionId"], row[field], row)
        figures = scores.compute()
        assert figures["accuracy"] == pytest.approx(100 * expected[exact] / len(rows), abs=1e-9)
        assert figures["containment"] == pytest.approx(100 * expected[contained] / len(rows), abs=1e-9)


# ---------------------------------------------------------------- POPE


@pytest.mark.parametrize(
    ("said", "yes"),
    [
        ("Yes", True),
        ("No, there is not", False),
        ("There is not one", False),
        ("There are none", True),
        ("Yes. No doubt", True),
        ("nothing", True),
        ("NO", True),
        ("no,", False),
        ("", True),
    ],
)
def test_pope_reads_as_the_official_script(said: str, yes: bool) -> None:
    assert says_yes(said) == yes


def test_pope_by_hand() -> None:
    parts = PopeScores(), PopeScores()
    for i, (said, label) in enumerate([("Yes", "yes"), ("Yes", "no"), ("No", "no"), ("No", "yes"), ("Yes", "yes")]):
        parts[i % 2].update(said, label)
    figures = parts[0].merge(parts[1]).compute()
    assert figures["accuracy"] == 3 / 5
    assert figures["precision"] == figures["recall"] == 2 / 3
    assert figures["f1"] == pytest.approx(2 / 3)
    assert figures["yes_ratio"] == 3 / 5
    assert PopeScores().compute()["f1"] == 0


@pytest.mark.parametrize("kind", ["random", "popular", "adversarial"])
def test_pope_golden(realdata: Path, kind: str) -> None:
    folder = realdata / "golden" / "pope"
    expected = json.loads((folder / "expected.json").read_text())[kind]
    answers = gzip.decompress((folder / f"answers_{kind}.jsonl.gz").read_bytes()).decode().splitlines()
    labels = (realdata / "pope" / f"coco_pope_{kind}.json").read_text().splitlines()
    assert len(answers) == len(labels) == 3000
    scores = PopeScores()
    for answer, label in zip(answers, labels, strict=True):
        scores.update(json.loads(answer)["answer"], json.loads(label)["label"])
    figures = scores.compute()
    names = {"accuracy": "Accuracy", "precision": "Precision", "recall": "Recall", "f1": "F1 score"}
    for ours, theirs in (names | {"yes_ratio": "Yes ratio"}).items():
        assert figures[ours] == pytest.approx(expected[theirs], abs=1e-12)
    counts = [figures[f"{name}s"] for name in ("true_positive", "false_positive", "true_negative", "false_negative")]
    assert counts == expected["TP FP TN FN"]


# ---------------------------------------------------------------- MME


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("Yes", "yes"),
        ("No.", "no"),
        ("yes, it is", "yes"),
        ("It is no", "other"),
        ("Know", "no"),
        ("a yes", "other"),
        ("", "other"),
    ],
)
def test_mme_reads_four_characters(said: str, read: str) -> None:
    assert read_answer(said) == read


def test_mme_by_hand() -> None:
    parts = MmeScores(), MmeScores()
    lines = [("a.jpg", "Yes", "Yes"), ("a.jpg", "No", "No"), ("b.jpg", "Yes", "yes"), ("b.jpg", "Maybe", "No")]
    for subtask in (*PERCEPTION, *COGNITION[:-1]):
        for i, (picture, said, truth) in enumerate(lines):
            parts[i % 2].update(subtask, picture, f"q{i}", said, truth)
    figures = parts[0].merge(parts[1]).compute()
    assert figures["subtasks"]["count"] == {"accuracy": 75, "accuracy_plus": 50, "score": 125}
    assert figures["perception"] == 1250
    assert "cognition" not in figures  # a subtask of it is missing
    with pytest.raises(DataError, match=r"'a.jpg' is asked 'q0' twice"):
        parts[0].merge(parts[0])


def test_mme_needs_both_questions() -> None:
    scores = MmeScores()
    with pytest.raises(DataError, match=r"no subtask 'ocr'(.|\n)*'OCR'"):
        scores.update("ocr", "a.jpg", "q", "Yes", "Yes")
    scores.update("count", "a.jpg", "q", "Yes", "Yes")
    with pytest.raises(DataError, match=r"'a.jpg' has 1 question\(s\), not 2"):
        scores.compute()


# ---------------------------------------------------------------- ScienceQA


def test_scienceqa_splits() -> None:
    problem = {"subject": "natural science", "grade": "grade7", "hint": "", "image": "a.png", "answer": 1}
    assert scienceqa.kinds(problem) == {"subject": "NAT", "grade": "G7-12", "TXT": "no", "IMG": "yes", "NO": "no"}
    bare = {"subject": "language science", "grade": "grade6", "hint": "", "image": None, "answer": 0}
    assert scienceqa.kinds(bare) == {"subject": "LAN", "grade": "G1-6", "TXT": "no", "IMG": "no", "NO": "yes"}
    assert scienceqa.is_right(1, problem) == 1 and scienceqa.is_right(0, problem) == 0
