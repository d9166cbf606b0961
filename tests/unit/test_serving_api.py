"""The API over HTTP, with OpenAI's own client where it has a method for it."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
import torch

from ray_jobs.serving.backend import LocalBackend
from setok.models.generation import GenerationOptions
from setok.predictor.asking import drawing, editing
from setok.serving.model import ServedModel
from tests.api_clients import ASKED, BLUE, RED, address, client, http, shown
from tests.served import NAME, data_url, listening, opened, predictor, serve_config, started_engine

__all__ = ["address", "client", "http"]
WILD: dict[str, Any] = {"temperature": 1.5, "max_tokens": 40, "seed": 3}


# ------------------------------------------------------------ chat


def test_a_conversation_with_pictures_both_ways(client: openai.OpenAI) -> None:
    """Random weights draw sooner or later; what they drew goes back to them."""
    messages = shown(RED, BLUE, words="make one of both")
    drawn: list[Any] = []
    for seed in range(20):
        answer = client.chat.completions.create(model=NAME, messages=messages, **WILD | {"seed": seed})
        message = answer.choices[0].message
        drawn = getattr(message, "images", None) or []
        if drawn:
            break
    assert drawn, "no seed draws"
    assert opened(drawn[0]["image_url"]["url"]).size == (32, 32)
    usage = answer.usage
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details is not None
    both = predictor().model.tokenizer.tokenize(
        torch.from_numpy(
            np.stack([np.asarray(opened(data_url(one)).crop((4, 0, 36, 32))) for one in (RED, RED)])
        ).permute(0, 3, 1, 2)
    )
    assert 2 <= usage.prompt_tokens_details.image_tokens <= 12  # type: ignore[attr-defined]
    assert int(both.counts[0]) < usage.prompt_tokens_details.image_tokens  # type: ignore[attr-defined]
    followed = [*messages, message.model_dump(exclude_none=True), *shown(words="again")]
    again = client.chat.completions.create(model=NAME, messages=followed, **WILD)
    assert again.usage is not None
    assert again.usage.prompt_tokens_details.image_tokens > usage.prompt_tokens_details.image_tokens  # type: ignore[attr-defined]
    assert again.choices[0].finish_reason in ("stop", "length")


def test_a_stream_tells_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": NAME, "messages": shown(RED), **WILD}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == (whole.choices[0].message.content or "")
    images = [image for chunk in chunks for c in chunk.choices for image in getattr(c.delta, "images", None) or []]
    assert len(images) == len(getattr(whole.choices[0].message, "images", None) or [])
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == [
        whole.choices[0].finish_reason
    ]
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1
    without = list(client.chat.completions.create(**asked, stream=True))
    assert all(chunk.usage is None for chunk in without)
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in without) > 1, "it came in pieces"


def test_seed_temperature_stop_and_max_tokens(client: openai.OpenAI) -> None:
    def say(**changes: Any) -> tuple[str, str, int]:
        asked: dict[str, Any] = WILD | {"modalities": ["text"]} | changes
        answer = client.chat.completions.create(model=NAME, messages=shown(RED), **asked)
        assert answer.usage is not None
        choice = answer.choices[0]
        return choice.message.content or "", choice.finish_reason, answer.usage.completion_tokens

    text, _, tokens = say()
    assert say()[0] == text
    assert say(seed=4)[0] != text
    assert say(temperature=0, seed=1)[0] == say(temperature=0, seed=2)[0]
    assert say(seed=None)[0] != say(seed=None)[0]
    assert tokens <= 40
    assert say(max_tokens=5)[1:] == ("length", 5)
    middle = text.strip()[3:5]
    stopped, reason, _ = say(stop=[middle, "never said"])
    assert text.strip().startswith(stopped)
    assert middle not in stopped
    assert reason == "stop"


def test_modalities_choose_words_or_a_picture(client: openai.OpenAI) -> None:
    messages = shown(RED, words="draw")
    drawn = client.chat.completions.create(model=NAME, messages=messages, modalities=["image"], seed=1)  # type: ignore[list-item]
    assert drawn.choices[0].message.content is None
    assert len(drawn.choices[0].message.images) == 1  # type: ignore[attr-defined]
    guided = client.chat.completions.create(
        model=NAME,
        messages=messages,
        modalities=["image"],
        seed=1,
        extra_body={"guidance": 4},
    )
    assert guided.choices[0].message.images != drawn.choices[0].message.images  # type: ignore[attr-defined]


# ------------------------------------------------------------ pictures, tokens, regions


def test_pictures_are_those_of_the_predictor(client: openai.OpenAI) -> None:
    answer = client.images.generate(model=NAME, prompt="a <image> red circle", n=2, extra_body={"seed": 5})
    assert answer.data is not None and answer.usage is not None
    assert [datum.seed for datum in answer.data] == [5, 6]  # type: ignore[attr-defined]
    options = GenerationOptions(mode="picture")
    talk = drawing("a <image> red circle", varied=predictor().sequence.instructions == "varied")
    wanted = predictor().chat([talk, talk], options=options, seeds=[5, 6])
    for datum, reply in zip(answer.data, wanted, strict=True):
        pixels = np.asarray(opened(datum.b64_json or "")).astype(int)
        assert np.abs(pixels - reply.pictures[0].permute(1, 2, 0).numpy()).max() <= 2
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.usage.output_tokens >= 2


def test_edits_read_one_picture_or_several(client: openai.OpenAI) -> None:
    one = client.images.edit(model=NAME, image=("a.png", RED), prompt="make it blue", extra_body={"seed": 1})
    options = GenerationOptions(mode="picture")
    (wanted,) = predictor().chat([editing("make it blue")], [[RED]], options=options, seeds=[1])
    assert one.data is not None and one.usage is not None
    pixels = np.asarray(opened(one.data[0].b64_json or "")).astype(int)
    assert np.abs(pixels - wanted.pictures[0].permute(1, 2, 0).numpy()).max() <= 2
    two = client.images.edit(model=NAME, image=[("a.png", RED), ("b.png", BLUE)], prompt="mix", size="auto")
    assert two.usage is not None
    assert two.usage.input_tokens_details.image_tokens > one.usage.input_tokens_details.image_tokens


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list()
    assert model.id == NAME
    assert client.models.retrieve(NAME) == model
    assert model.setok["image_size"] == 32  # type: ignore[attr-defined]
    assert model.setok["threshold"] == "stop_scope"  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'"):
        client.models.retrieve("other")


def test_tokens_by_threshold_and_budget(http: httpx2.Client) -> None:
    def tokens(**changes: Any) -> dict[str, Any]:
        answer = http.post("/v1/tokenize", json={"image": data_url(RED)} | changes)
        assert answer.status_code == 200, answer.text
        return answer.json()

    plain = tokens(vectors=True)
    pixels = predictor().inference.prompts._processor([RED])["pixel_values"]
    visual = predictor().model.tokenizer.tokenize(pixels)  # type: ignore[arg-type]
    assert plain["count"] == int(visual.counts[0])
    assert np.array(plain["assignment"]).flatten().tolist() == visual.assignment[0].tolist()
    np.testing.assert_allclose(plain["tokens"], visual.tokens[0, : plain["count"]].detach(), atol=1e-4)
    assert sum(plain["sizes"]) == np.prod(plain["grid"])
    assert len(plain["sizes"]) == plain["count"]
    assert tokens()["tokens"] is None
    assert tokens(max_tokens=1)["count"] == 1
    assert tokens(threshold=0.0)["count"] >= tokens(threshold=0.9)["count"]
    painted = http.post("/v1/reconstruct", json={"image": data_url(RED), "max_tokens": 1}).json()
    assert painted["count"] == 1
    assert opened(painted["b64_json"]).size == (32, 32)


def test_regions(http: httpx2.Client) -> None:
    answer = http.post("/v1/segment", json={"image": data_url(RED), "expression": "the square"}).json()
    (wanted,) = predictor().segment([RED], ["the square"])
    mask = np.asarray(opened(answer["b64_json"])) > 0
    assert np.array_equal(mask, wanted.numpy())
    assert (answer["height"], answer["width"], answer["area"]) == (32, 40, int(wanted.sum()))
    if answer["box"]:
        left, top, right, bottom = answer["box"]
        assert mask[top:bottom, left:right].sum() == answer["area"]


# ------------------------------------------------------------ the whole server


def test_metrics_count(http: httpx2.Client, client: openai.OpenAI) -> None:
    def value(name: str) -> float:
        lines = http.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    names = ('setok_requests_total{route="/v1/chat/completions",status="200"}', 'setok_tokens_total{kind="text_made"}')
    before = [value(name) for name in names]
    answer = client.chat.completions.create(
        model=NAME, messages=shown(RED), max_tokens=7, modalities=["text"], temperature=1, seed=1
    )
    assert answer.usage is not None
    after = [value(name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, answer.usage.completion_tokens]
    assert value("setok_first_token_seconds_count") >= 1
    assert value("setok_requests_in_progress") == 1  # this one


def test_a_tokenizer_alone_says_what_it_can() -> None:
    model = ServedModel(NAME, predictor().model.tokenizer, None)
    config = serve_config()
    with started_engine(config, model) as engine, listening(LocalBackend(engine), config) as address:
        answer = httpx2.post(f"{address}/v1/chat/completions", json=ASKED)
        assert answer.status_code == 400
        assert "without a language model" in answer.json()["error"]["message"]
        seen = httpx2.post(f"{address}/v1/tokenize", json={"image": data_url(RED)})
        assert seen.status_code == 200
        assert httpx2.get(f"{address}/v1/models").json()["data"][0]["setok"]["talks"] is False


def test_the_description_names_every_route(http: httpx2.Client) -> None:
    api = http.get("/openapi.json").json()
    assert {
        *("/v1/chat/completions", "/v1/images/generations", "/v1/images/edits", "/v1/models", "/v1/models/{name}"),
        *("/v1/tokenize", "/v1/reconstruct", "/v1/segment", "/health", "/ready", "/metrics"),
    } == set(api["paths"])
    assert json.dumps(api).count("ErrorAnswer") > 20
    field = api["components"]["schemas"]["ChatRequest"]["properties"]["guidance"]
    assert field["description"].startswith("How closely pictures follow")
