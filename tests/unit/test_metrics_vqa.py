"""Soft accuracy of answers, against the definition written out and against the official evaluators' figures."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setok.metrics.samples import SampleScores
from setok.metrics.vqa import (
    aokvqa_choice,
    aokvqa_direct,
    strip_articles,
    strip_punctuation,
    textvqa_accuracy,
    textvqa_normalize,
    vqa_accuracy,
)

WORDS = st.sampled_from(["yes", "no", "2", "two", "a cat", "cat", "red, blue", "dont"])


def golden(realdata: Path, name: str) -> Any:
    data = (realdata / "golden" / "vqa_accuracy" / name).read_bytes()
    return json.loads(gzip.decompress(data) if name.endswith(".gz") else data)


def written_out(said: str, answers: list[str]) -> float:
    """The official rule, person by person."""
    said = strip_articles(strip_punctuation(said))
    if len(set(answers)) > 1:
        answers = [strip_punctuation(answer) for answer in answers]
    shares = []
    for left_out in range(len(answers)):
        others = answers[:left_out] + answers[left_out + 1 :]
        shares.append(min(1.0, others.count(said) / 3))
    return sum(shares) / len(shares)


@given(said=WORDS, answers=st.lists(WORDS, min_size=10, max_size=10))
def test_accuracy_is_the_definition(said: str, answers: list[str]) -> None:
    assert vqa_accuracy(said, answers) == pytest.approx(written_out(said, answers), abs=1e-12)


@pytest.mark.parametrize(
    ("agreeing", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)], ids=str
)
def test_how_many_agree(agreeing: int, expected: float) -> None:
    answers = ["cat"] * agreeing + ["dog"] * (10 - agreeing)
    assert vqa_accuracy("The cat.", answers) == pytest.approx(expected)
    assert textvqa_accuracy("The cat.", answers) == pytest.approx(expected)


def test_people_are_normalised_less_than_what_is_said() -> None:
    mixed = ["two"] * 9 + ["2"]
    assert vqa_accuracy("two", mixed) == pytest.approx(0.3)  # people's number words stay words
    assert vqa_accuracy("2.", ["2."] * 10) == 0.0  # all agree, so nothing is taken off theirs
    assert vqa_accuracy("2.", ["2."] * 9 + ["3"]) == 1.0
    assert textvqa_accuracy("two", mixed) == 1.0


@pytest.mark.parametrize(
    ("text", "punctuation", "both"),
    [
        ("its a cat!", "its a cat ", "its cat"),
        ("cat (black)", "cat black ", "cat black"),
        ("left/right", "left right", "left right"),
        ("1,000 men", "1000 men", "1000 men"),
        ("10:30", "10:30", "10:30"),
        ("u.s.a.", "usa", "usa"),
        (".5", ".5", ".5"),
        ("No, it isnt", "No it isnt", "no it isn't"),
        ("couldntve", "couldntve", "couldntve"),
        ("couldnt've", "couldnt've", "couldn't've"),
        ("none", "none", "0"),
    ],
)
def test_normaliser(text: str, punctuation: str, both: str) -> None:
    assert strip_punctuation(text) == punctuation
    assert strip_articles(strip_punctuation(text)) == both


def test_textvqa_sets_the_possessive_apart() -> None:
    assert textvqa_normalize("The Dog's, ten?") == "dog 's 10"


def test_aokvqa() -> None:
    answers = ["Ball"] * 2 + ["bat"] * 8
    assert aokvqa_direct("ball", answers) == pytest.approx(2 / 3)
    assert aokvqa_direct("BAT", answers) == 1.0
    assert aokvqa_direct("the bat", answers) == 0.0
    assert aokvqa_choice("b", ["a", "b"], 1) == 1.0 and aokvqa_choice("B", ["a", "b"], 1) == 0.0


def test_normaliser_cases(realdata: Path) -> None:
    cases = golden(realdata, "normaliser_cases.json")
    assert len(cases) == 40
    for case in cases:
        assert strip_punctuation(case["in"]) == case["processPunctuation"]
        assert strip_articles(strip_punctuation(case["in"])) == case["processDigitArticle(processPunctuation)"], case[
            "in"
        ]


@pytest.mark.parametrize(("name", "rows"), [("okvqa_5046", 5046), ("vqav2_val_rows", 5839)])
def test_golden_accuracy_question_by_question(realdata: Path, name: str, rows: int) -> None:
    expected = golden(realdata, "expected.json")[name]
    questions = golden(realdata, f"{name}.json.gz")
    assert len(questions) == rows
    scores = SampleScores()
    started = time.process_time()
    for row in questions:
        accuracy = vqa_accuracy(row["prediction"], row["answers"])
        kinds = {"answer_type": row["answer_type"], "question_type": row["question_type"]}
        scores.update(str(row["question_id"]), {"accuracy": accuracy}, kinds)
        assert 100 * accuracy == pytest.approx(row["acc"], abs=0.01), row
    assert time.process_time() - started < 5  # 5,000 answers; it takes 0.2 s
    figures = scores.compute()
    assert round(figures["accuracy"], 2) == expected["overall"]
    assert {kind: round(value, 2) for kind, value in figures["by_answer_type"].items()} == expected["perAnswerType"]
    for kind, value in expected.get("perQuestionType", {}).items():
        assert round(figures["by_question_type"][kind], 2) == value
