"""Text as it comes: whole letters, and nothing of a stop text."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from setok.predictor.text_flow import TextFlow


def by_byte(ids: Sequence[int]) -> str:
    """A tokenizer whose tokens are bytes."""
    return bytes(ids).decode("utf-8", errors="replace")


def told(text: str, stop: Sequence[str] = ()) -> tuple[list[str], bool]:
    flow = TextFlow(by_byte, stop=stop)
    parts = []
    for token in text.encode():
        parts.append(flow.add(token))
        if flow.stopped:
            break
    return [*parts, flow.flush()], flow.stopped


@given(st.text(alphabet="abé漢😀 ", max_size=30))
def test_without_stop_all_of_it_comes_in_whole_letters(text: str) -> None:
    parts, stopped = told(text)
    assert "".join(parts) == text
    assert not stopped
    assert not any("\ufffd" in part for part in parts)


@given(
    st.text(alphabet="ab.", max_size=24),
    st.lists(st.text(alphabet="ab.", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_it_ends_at_the_first_stop_text(text: str, stop: list[str]) -> None:
    parts, stopped = told(text, stop)
    # Letter by letter, the first stop text to be complete ends it.
    ends = [length for length in range(len(text) + 1) if any(s in text[:length] for s in stop)]
    if not ends:
        assert ("".join(parts), stopped) == (text, False)
        return
    seen = text[: ends[0]]
    assert ("".join(parts), stopped) == (seen[: min(seen.find(s) for s in stop if s in seen)], True)


def test_what_may_be_the_beginning_of_a_stop_text_is_held_back() -> None:
    flow = TextFlow(by_byte, stop=["END"])
    assert [flow.add(token) for token in b"xEN"] == ["x", "", ""]
    assert flow.add(ord("O")) == "ENO"
    assert [flow.add(token) for token in b"EN"] == ["", ""]
    assert flow.flush() == "EN"


def test_half_a_letter_at_the_end_is_told_after_all() -> None:
    flow = TextFlow(by_byte)
    first, second = "é".encode()
    assert flow.add(first) == ""
    assert flow.flush() == "\ufffd"
    flow = TextFlow(by_byte)
    assert (flow.add(first), flow.add(second)) == ("", "é")


def test_an_empty_stop_text_stops_nothing() -> None:
    assert told("abc", [""])[0] == ["a", "b", "c", ""]
