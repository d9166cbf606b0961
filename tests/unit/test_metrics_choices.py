"""Which of several choices an answer means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setok.metrics.choices import LETTERS, chosen

CHOICES = ["a dog", "two dogs", "a cat", "ab"]


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("B", 1),
        ("(c)", 2),
        ("b. two dogs", 1),
        (" D: ", 3),
        ("Two Dogs!", 1),
        ("A dog", 0),  # not the letter A
        ("I see two dogs here", 1),
        ("a cat and a big dog", 2),
        ("cats, or a cat", 2),
        ("dogs", 1),
        ("Z", 0),
        ("", 0),
    ],
)
def test_an_answer_means_a_choice(said: str, number: int) -> None:
    assert chosen(said, CHOICES) == number


@given(st.text(max_size=20), st.lists(st.text(max_size=8), min_size=1, max_size=26))
def test_every_answer_means_some_choice(said: str, choices: list[str]) -> None:
    assert 0 <= chosen(said, choices) < len(choices)


@given(st.integers(1, 26), st.data())
def test_a_letter_is_its_choice(count: int, data: st.DataObject) -> None:
    choices = [f"thing number {i}" for i in range(count)]
    right = data.draw(st.integers(0, count - 1))
    for said in (LETTERS[right], LETTERS[right].lower(), f"{LETTERS[right]}.", f"({LETTERS[right]}) thing"):
        assert chosen(said, choices) == right
