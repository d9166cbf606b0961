"""What requests mean to the model."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ray_jobs.serving.retry import Retold
from setok.config import ClusteringConfig, LimitsConfig
from setok.data.chat import Slot
from setok.errors import ConfigError, DataError, OverloadedError
from setok.predictor import Ended, PicturePart, TextPart
from setok.serving.model import Card
from setok.serving.schemas import ChatMessage, ChatRequest, LookRequest
from setok.serving.translation import clustering_of, conversation_of, options_of, seeds_of, stops_of


def image(url: str = "data:,") -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def turns_of(*messages: dict[str, Any]) -> tuple[list[tuple[str, tuple[Any, ...]]], list[str]]:
    turns, urls = conversation_of([ChatMessage.model_validate(message) for message in messages])
    return [(turn.role, turn.parts) for turn in turns], urls


# ------------------------------------------------------------ conversations


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("hi", ("hi",)),
        ([text("hi")], ("hi",)),
        ([image(), text("what?")], (Slot.IMAGE, "\nwhat?")),
        ([text("what?"), image()], ("what?\n", Slot.IMAGE)),
        ([image(), image(), text("which?")], (Slot.IMAGE, Slot.IMAGE, "\nwhich?")),
        ([text("a "), text("b"), image(), text("\nc")], ("a b\n", Slot.IMAGE, "\nc")),
        ([text(""), image()], (Slot.IMAGE,)),
        ("an <image> and [Img] </s>", ("an <image> and [Img] </s>",)),
    ],
)
def test_pieces_become_lines(content: Any, parts: tuple[Any, ...]) -> None:
    turns, urls = turns_of({"role": "user", "content": content})
    assert turns == [("user", parts)]
    assert len(urls) == parts.count(Slot.IMAGE)


def test_a_conversation_with_pictures_both_ways() -> None:
    turns, urls = turns_of(
        {"role": "developer", "content": "be short"},
        {"role": "user", "content": [image("one"), text("make it blue")]},
        {"role": "assistant", "content": None, "images": [image("two")]},
        {"role": "user", "content": "and now?"},
    )
    assert [role for role, _ in turns] == ["system", "user", "assistant", "user"]
    assert turns[2][1] == (Slot.IMAGE,)
    assert urls == ["one", "two"]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "assistant", "content": "x"}], r"last message is of role 'assistant'(.|\n)*role 'user'"),
        ([{"role": "user", "content": ""}], r"messages\[0\] is empty"),
        ([{"role": "user", "content": []}], r"messages\[0\] is empty"),
        ([{"role": "user", "content": None}], r"messages\[0\] is empty"),
    ],
)
def test_conversations_that_are_none(messages: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        turns_of(*messages)


# ------------------------------------------------------------ options


def chat(**changes: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "x"}]} | changes)


def test_options_of_a_request() -> None:
    limits = LimitsConfig(default_new_tokens=7, max_new_tokens=50)
    plain = options_of(chat(), limits)
    assert (plain.mode, plain.max_new_tokens, plain.temperature, plain.top_p, plain.guidance) == ("free", 7, 0, 1, 1)
    asked = options_of(chat(max_tokens=9, temperature=0.5, top_p=0.9, guidance=3, modalities=["text"]), limits)
    assert (asked.mode, asked.max_new_tokens, asked.temperature, asked.top_p, asked.guidance) == (
        "text",
        9,
        0.5,
        0.9,
        3,
    )
    assert options_of(chat(max_tokens=9, max_completion_tokens=5), limits).max_new_tokens == 5
    assert options_of(chat(modalities=["image"]), limits).mode == "picture"
    assert options_of(chat(modalities=["image", "text"], user="u", frequency_penalty=0), limits).mode == "free"
    assert stops_of(chat()) == ()
    assert stops_of(chat(stop="a")) == ("a",)
    assert stops_of(chat(stop=["a", "b"])) == ("a", "b")
    assert seeds_of(5, 1) == [5]
    assert seeds_of(-2, 3) == [-2, -1, 0]
    assert seeds_of(2**63 - 1, 2) == [2**63 - 1, -(2**63)], "and never one that is refused"
    assert len({seeds_of(None, 1)[0] for _ in range(9)}) > 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": 51}, r"max_tokens=51 is above 50"),
        ({"tools": [{}]}, "tools is not supported"),
        ({"logprobs": True}, "logprobs is not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format is not supported"),
        ({"modalities": []}, "modalities is empty"),
    ],
)
def test_what_there_is_not_is_refused(changes: dict[str, Any], message: str) -> None:
    limits = LimitsConfig(default_new_tokens=7, max_new_tokens=50)
    with pytest.raises(ConfigError, match=message):
        options_of(chat(**changes), limits)
    options_of(chat(n=2, tools=[], logprobs=False, response_format={"type": "text"}), limits)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 3},
        {"top_p": 0},
        {"max_tokens": 0},
        {"stop": ["a"] * 5},
        {"seed": 2**63},
        {"messages": []},
        {"temperature": float("nan")},
    ],
)
def test_values_that_are_not_possible(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        chat(**changes)


# ------------------------------------------------------------ clustering


def card(**clustering: Any) -> Card:
    config = ClusteringConfig.model_validate({"max_tokens": 8, "min_tokens": 2} | clustering)
    return Card(
        name="m", created=0, image_size=32, num_patches=64, clustering=config, varied=False, talks=True, points=True
    )


def look(**changes: Any) -> LookRequest:
    return LookRequest.model_validate({"image": "data:,"} | changes)


@pytest.mark.parametrize(
    ("method", "setting"),
    [("stick_breaking", "stop_scope"), ("dpc_knn", "score_threshold"), ("cosine_graph", "similarity_threshold")],
)
def test_a_threshold_is_that_of_the_method(method: str, setting: str) -> None:
    known = card(method=method)
    assert known.threshold is not None
    name, value, (low, high) = known.threshold
    assert name == setting
    assert low <= value <= high
    changed = clustering_of(look(threshold=0.4), known)
    assert changed is not None
    assert getattr(changed, setting) == 0.4
    for bound in (low, high):
        assert clustering_of(look(threshold=bound), known) is not None


def test_budgets() -> None:
    assert clustering_of(look(), card()) is None
    tight = clustering_of(look(max_tokens=1), card())
    assert tight is not None
    assert (tight.min_tokens, tight.max_tokens) == (1, 1)
    fixed = card(method="kmeans")
    assert fixed.threshold is None
    four = clustering_of(look(max_tokens=4), fixed)
    assert four is not None
    assert four.num_tokens == 4
    exact = clustering_of(look(max_tokens=4), card(method="dpc_knn", num_clusters=6))
    assert exact is not None
    assert exact.num_tokens == 4


@pytest.mark.parametrize(
    ("known", "changes", "message"),
    [
        (card(), {"threshold": 2.0}, "threshold=2.0"),
        (card(), {"threshold": -1.0}, "threshold=-1.0"),
        (card(), {"max_tokens": 65}, "above the 64 patches"),
        (card(), {"min_tokens": 9}, "min_tokens=9 is above clustering.max_tokens=8"),
        (card(method="grid"), {"threshold": 0.5}, "makes a fixed number of tokens"),
    ],
)
def test_clusterings_that_are_not_possible(known: Card, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        clustering_of(look(**changes), known)


# ------------------------------------------------------------ a reply told twice


END = Ended(reason="stop", prompt_tokens=1, prompt_visual_tokens=0, text_tokens=1, visual_tokens=0)


def words(*texts: str) -> list[Any]:
    return [TextPart(text=one) for one in texts]


def new(retold: Retold, events: list[Any]) -> list[Any]:
    return [new for event in events if (new := retold.new_in(event)) is not None]


@pytest.mark.parametrize("lost_after", range(6))
def test_a_reply_goes_on_where_it_broke_off(lost_after: int) -> None:
    import torch

    drawn = PicturePart(pixels=torch.zeros(3, 2, 2, dtype=torch.uint8), num_tokens=1)
    first = [*words("a re", "d "), drawn, *words("sq", "uare"), END]
    second = [*words("a ", "red "), drawn, *words("squar", "e"), END]
    retold = Retold()
    told = new(retold, first[:lost_after])
    retold.again()
    told += new(retold, second)
    said = "".join(part.text for part in told if isinstance(part, TextPart))
    assert said == "a red square"
    assert sum(part is drawn for part in told) == 1
    assert told[-1] is END


@pytest.mark.parametrize("second", [words("other"), words("a ", "x"), [END], [*words("a r"), END]])
def test_a_reply_that_comes_out_otherwise_breaks_off(second: list[Any]) -> None:
    retold = Retold()
    assert len(new(retold, words("a red"))) == 1
    retold.again()
    with pytest.raises(OverloadedError, match=r"was lost(.|\n)*send the request again"):
        new(retold, second)
