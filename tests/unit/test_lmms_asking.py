"""What a task of lmms-eval asks, as conversations and options of ours; the harness itself is not needed."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from setok.data.chat import Slot, message_of
from setok.data.schema import Turn
from setok.errors import ConfigError, DataError
from setok.lmms_eval import asking
from setok.lmms_eval.asking import (
    batches_by_length,
    chat_conversation,
    cut,
    options_of,
    simple_conversation,
    stops_of,
)

ONE, TWO = Image.new("RGB", (4, 4)), Image.new("RGB", (8, 8))


def content(*parts: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "url": p} for p in parts]


def test_messages_become_the_turns_of_training() -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": content(ONE, "What is it?")},
        {"role": "assistant", "content": content("A dog.")},
        {"role": "user", "content": content("And", TWO, "here?", "Say.")},
    ]
    messages, pictures = chat_conversation(turns)
    assert pictures == [ONE, TWO]
    expected = [("system", "Be brief."), ("user", "<image>\nWhat is it?"), ("assistant", "A dog.")]
    expected.append(("user", "And\n<image>\nhere?\nSay."))
    assert messages == [message_of(Turn(role=role, text=text)) for role, text in expected]


def test_text_is_never_a_slot() -> None:
    messages, pictures = chat_conversation([{"role": "user", "content": content("What does <image> mean?")}])
    assert (messages[0].parts, pictures) == (("What does <image> mean?",), [])


def test_a_context_takes_its_pictures_in_front_or_where_it_says() -> None:
    messages, pictures = simple_conversation("What is it?", [ONE, TWO])
    assert messages[0].parts == (Slot.IMAGE, "\n", Slot.IMAGE, "\nWhat is it?")
    assert pictures == [ONE, TWO]
    messages, _ = simple_conversation("<image> or <image>?", [ONE, TWO])
    assert messages[0].parts == (Slot.IMAGE, " or ", Slot.IMAGE, "?")
    messages, pictures = simple_conversation("No <image> here", None)
    assert (messages[0].parts, pictures) == (("No   here",), [])
    assert simple_conversation("x", ["/pictures/one.JPG"])[1] == ["/pictures/one.JPG"]


@pytest.mark.parametrize("visual", ["film.mp4", {"array": [0.0], "sampling_rate": 16000}])
def test_what_is_no_picture_is_refused(visual: Any) -> None:
    with pytest.raises(DataError, match=r"reads pictures(.|\n)*tasks on pictures"):
        simple_conversation("What happens?", [visual])
    with pytest.raises(DataError, match="video"):
        chat_conversation([{"role": "user", "content": [{"type": "video", "url": "film.mp4"}]}])


def test_options() -> None:
    plain = options_of({}, max_new_tokens=9)
    assert (plain.mode, plain.max_new_tokens, plain.temperature) == ("text", 9, 0.0)
    task = {
        "max_new_tokens": 16,
        "temperature": 0,
        "top_p": None,
        "num_beams": 1,
        "do_sample": False,
        "until": ["\n\n"],
    }
    assert options_of(task, max_new_tokens=9) == options_of({"max_gen_toks": 16}, max_new_tokens=9)
    drawn = options_of({"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 5}, max_new_tokens=9)
    assert (drawn.temperature, drawn.top_p, drawn.top_k) == (0.7, 0.9, 5)
    assert options_of({"do_sample": False, "temperature": 0.7}, max_new_tokens=9).temperature == 0.0
    with pytest.raises(ConfigError, match=r"num_beams=3(.|\n)*num_beams=1"):
        options_of({"num_beams": 3}, max_new_tokens=9)


def test_a_setting_without_meaning_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    asking._told.clear()
    with caplog.at_level(logging.WARNING, "setok"):
        options_of({"image_aspect_ratio": "pad"}, max_new_tokens=9)
        options_of({"image_aspect_ratio": "pad"}, max_new_tokens=9)
    assert caplog.text.count("image_aspect_ratio='pad'") == 1


def test_an_answer_ends_at_the_first_stop() -> None:
    assert stops_of({"until": "###"}) == ("###",)
    assert stops_of({"until": ["\n\n", "", "."]}) == ("\n\n", ".")
    assert stops_of({}) == ()
    assert cut("a. b\n\nc", ("\n\n", ".")) == "a"
    assert cut("a b", (".",)) == "a b"


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), max_size=30), st.integers(min_value=1, max_value=7)
)
def test_batches_hold_every_item_once_sorted_and_of_one_kind(items: list[tuple[str, int]], size: int) -> None:
    batches = list(batches_by_length(items, size))
    assert sorted(number for batch in batches for number in batch) == list(range(len(items)))
    for batch in batches:
        assert len({items[number][0] for number in batch}) == 1 and len(batch) <= size
    for kind in "ab":
        lengths = [items[number][1] for batch in batches for number in batch if items[number][0] == kind]
        assert lengths == sorted(lengths, reverse=True)
    full = sum(-(-sum(kind == own for own, _ in items) // size) for kind in "ab")
    assert len(batches) == full
