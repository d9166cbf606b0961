"""What is written of a reply: a stream says what the whole answer says."""

from __future__ import annotations

import json
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.serving.replies import DONE, Writer
from setok.predictor import Ended, PicturePart, TextPart
from setok.predictor.replies import Part

ENDED = Ended(reason="stop", prompt_tokens=5, prompt_visual_tokens=2, text_tokens=3, visual_tokens=0)
DRAWN = PicturePart(pixels=torch.zeros(3, 2, 2, dtype=torch.uint8), num_tokens=1)


def deltas(parts: list[Part]) -> list[dict[str, Any]]:
    """What a client is sent, by what events."""
    writer = Writer("tiny")
    sent = "".join(writer.lines(event) for event in [*parts, ENDED])
    assert sent.endswith(DONE)
    lines = [line.removeprefix("data: ") for line in sent.removesuffix(DONE).split("\n\n") if line]
    return [json.loads(line)["choices"][0]["delta"] for line in lines]


@given(st.lists(st.text("ab \n", max_size=4), max_size=6), st.integers(0, 6), st.booleans())
def test_a_stream_says_what_the_whole_answer_says(texts: list[str], place: int, draws: bool) -> None:
    parts: list[Part] = [TextPart(text=text) for text in texts]
    if draws:
        parts.insert(place, DRAWN)
    sent = deltas(parts)
    message = Writer("tiny").whole([(parts, ENDED)]).choices[0].message
    assert "".join(delta.get("content") or "" for delta in sent) == (message.content or "") == "".join(texts).strip()
    assert [delta["role"] for delta in sent if "role" in delta] == ["assistant"]
    assert sent[0]["role"] == "assistant"
    assert sum(len(delta.get("images", [])) for delta in sent) == draws


def test_words_are_told_as_they_come() -> None:
    sent = deltas([TextPart(text=text) for text in (" a", " ", "blue", " ", "dot. ")])
    assert [delta["content"] for delta in sent if delta.get("content")] == ["a", " blue", " dot."]
