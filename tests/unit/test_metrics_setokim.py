"""Figures of answers, captions and masks, by hand and against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setok.metrics.answers import AnswerTable, answer_accuracy
from setok.metrics.mask_references import best_constant_mask, cluster_mask
from setok.metrics.mentions import caption_scores, phrase_counts
from setok.metrics.referring import intersection_and_union, overlap
from setok.metrics.setokim import summarise

THINGS = ("red circle", "blue circle", "circle", "striped red circle")


def test_accuracy_of_people_who_disagree() -> None:
    people = ["yes"] * 2 + ["no"] * 8
    assert answer_accuracy("no", people) == 1
    assert answer_accuracy("yes", people) == pytest.approx((2 * 1 + 8 * 2) / 3 / 10)
    assert answer_accuracy("maybe", people) == 0
    assert answer_accuracy("Two", ["2"]) == answer_accuracy("A Red circle.", ["red circle"]) == 1


def test_of_choices_the_right_one_must_be_meant() -> None:
    assert answer_accuracy("B", ["two dogs", "dogs"], ["a dog", "two dogs"]) == 1
    assert answer_accuracy("dogs", ["a dog", "dogs"], ["a dog", "two dogs"]) == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["a1", "b2", "c3"]), min_size=3, max_size=12), st.sampled_from(["a1", "b2", "zz"]))
def test_accuracy_is_that_of_leaving_one_out(people: list[str], said: str) -> None:
    by_hand = [min(1.0, (people[:i] + people[i + 1 :]).count(said) / 3) for i in range(len(people))]
    assert answer_accuracy(said, people) == pytest.approx(sum(by_hand) / len(by_hand))


def test_what_is_answered_without_looking() -> None:
    table = AnswerTable(
        [
            ("how", "how many dogs?", "1"),
            ("how", "how many cats?", "2"),
            ("how", "how many cats?", "2"),
            ("is", "is it?", "yes"),
        ]
    )
    assert table.constant("how") == "2"
    assert table.blind("how", "How many dogs") == "1"
    assert table.blind("how", "how many owls?") == "2"
    assert table.constant("what") == ""


def test_equally_frequent_answers_come_in_order() -> None:
    assert AnswerTable([("x", "q", "b"), ("x", "q", "a")]).constant("x") == "a"


def test_a_longer_phrase_keeps_its_words() -> None:
    text = "A striped red circle, a red circle and a circle; circles do not count."
    assert phrase_counts(text, THINGS) == {"striped red circle": 1, "red circle": 1, "circle": 1}
    assert phrase_counts("", THINGS) == {}


def test_captions_count_things_as_often_as_they_are() -> None:
    scores = caption_scores("a red circle and a blue circle", "a red circle, a red circle and a blue circle", THINGS)
    assert scores == {"f1": 0.8, "recall": pytest.approx(2 / 3), "precision": 1.0, "exact": 0.0}
    assert caption_scores("a red circle", "A red circle.", THINGS) == {"f1": 1, "recall": 1, "precision": 1, "exact": 1}
    nothing = caption_scores("", "grass", THINGS)
    assert math.isnan(nothing["recall"]) and math.isnan(nothing["f1"])
    assert nothing["precision"] == 0


def test_overlaps() -> None:
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    a[:2], b[1:3] = True, True
    assert intersection_and_union(a, b) == (4, 12)
    found = overlap([(4, 12), (1, 1), (0, 0)])
    assert found["giou"] == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert found["ciou"] == pytest.approx(5 / 13)


def test_the_constant_mask_is_where_things_are() -> None:
    masks = [np.zeros((6, 6), bool) for _ in range(4)]
    for number, mask in enumerate(masks):
        mask[1:4, 1 : 4 + number % 2] = True
    best = best_constant_mask(masks)
    assert best[1:4, 1:4].all()
    assert not best[4:].any()
    everything = np.ones((6, 6), bool)
    mean = [
        np.mean([np.divide(*intersection_and_union(guess, mask)) for mask in masks]) for guess in (best, everything)
    ]
    assert mean[0] > mean[1]


def test_clusters_by_size() -> None:
    assignment = np.array([[0, 0, 1], [0, 2, 1]])
    assert (
        cluster_mask(assignment, (4, 6), rank=0).tolist()
        == np.kron(assignment == 0, np.ones((2, 2))).astype(bool).tolist()
    )
    assert cluster_mask(assignment, (2, 3), rank=1).tolist() == (assignment == 1).tolist()
    assert not cluster_mask(assignment, (2, 3), rank=3).any()


def test_a_summary_has_every_task_that_was_asked() -> None:
    rows = [
        {"task": "vqa", "kind": "how", "accuracy": 1.0, "blind": 0.0, "constant": 0.0, "by_question": 1.0},
        {"task": "vqa", "kind": "is", "accuracy": 0.0, "blind": 1.0, "constant": 1.0, "by_question": 1.0},
        {"task": "caption", "f1": 0.3, "recall": 0.5, "precision": 0.25, "exact": 0.0},
        {"task": "caption", "f1": None, "recall": None, "precision": 0.75, "exact": 1.0},
        {"task": "segment", "overlap": [4, 12], "overlap_constant": [1, 2]},
        {"task": "edit", "psnr": 20.0, "l1": 0.1, "tokens": 4, "psnr_unchanged": 25.0, "l1_unchanged": 0.05},
        {"task": "unreadable"},
        {"task": "vqa", "kind": "how", "said": "nobody knows"},
    ]
    found = summarise(rows)
    assert found.keys() == {"vqa", "caption", "segment", "edit"}
    assert found["vqa"]["accuracy"] == found["vqa"]["blind"] == 0.5
    assert (found["vqa"]["num"], found["vqa"]["num_unanswered"]) == (2, 1)
    assert found["vqa"]["by_type"]["how"] == {"accuracy": 1, "constant": 0, "by_question": 1, "blind": 0, "num": 1}
    assert found["caption"] == {"num": 2, "f1": 0.3, "recall": 0.5, "precision": 0.5, "exact": 0.5}
    assert found["segment"]["ciou"] == pytest.approx(1 / 3)
    assert found["segment"]["references"] == {"constant": {"giou": 0.5, "ciou": 0.5}}
    assert found["edit"]["references"] == {"unchanged": {"psnr": 25.0, "l1": 0.05}}
