"""The API over HTTP, with OpenAI's own client where it has a method for it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
import torch

from setok.errors import OverloadedError
from setok.models.generation import GenerationOptions
from setok.predictor.asking import drawing, editing
from setok.serving.engine import Call, Event
from setok.serving.keys import ApiKeys, new_key
from setok.serving.model import Card, ServedModel
from tests.served import (
    NAME,
    data_url,
    listening,
    opened,
    picture,
    predictor,
    serve_config,
    served_model,
    serving,
    started_engine,
)

RED, BLUE = picture(), picture(colour="blue", width=32)
WILD: dict[str, Any] = {"temperature": 1.5, "max_tokens": 40, "seed": 3}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(limits__max_image_pixels=100_000, limits__max_body_bytes=300_000) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


@pytest.fixture
def http(address: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=address, timeout=30) as client:
        yield client


def shown(*pictures: bytes, words: str = "what is it?") -> list[Any]:
    pieces: list[Any] = [{"type": "image_url", "image_url": {"url": data_url(one)}} for one in pictures]
    return [{"role": "user", "content": [*pieces, {"type": "text", "text": words}]}]


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


# ------------------------------------------------------------ pictures


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


# ------------------------------------------------------------ our own


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


# ------------------------------------------------------------ what is refused


def test_errors_have_openais_shape(client: openai.OpenAI) -> None:
    cases: list[tuple[type[openai.APIStatusError], dict[str, Any], str]] = [
        (openai.BadRequestError, {"messages": []}, "messages"),
        (openai.BadRequestError, {"messages": [{"role": "assistant", "content": "x"}]}, "end with a message"),
        (openai.BadRequestError, {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "role"),
        (openai.BadRequestError, {"messages": shown(b"x")}, "not an image"),
        (openai.BadRequestError, {"messages": shown(*[RED] * 9)}, "9 pictures are above 8"),
        (openai.BadRequestError, {"messages": shown(words="a " * 500)}, "too long"),
        (openai.BadRequestError, {"max_tokens": 5000}, "max_tokens=5000 is above"),
        (openai.BadRequestError, {"tools": [{"type": "function"}]}, "tools is not supported"),
        (openai.NotFoundError, {"model": "gpt"}, "use 'tiny'"),
        (openai.BadRequestError, {"messages": shown(picture(400, 300))}, "120000 pixels of 100000"),
        (openai.APIStatusError, {"messages": shown(words="a" * 400_000)}, "above 300000 bytes"),
    ]
    for kind, changes, message in cases:
        with pytest.raises(kind, match=message) as error:
            client.chat.completions.create(**{"model": NAME, "messages": shown(RED)} | changes)
        body = error.value.body
        assert isinstance(body, dict)
        assert set(body) == {"message", "type", "param", "code"}
        assert "Traceback" not in str(body)
    with pytest.raises(openai.BadRequestError, match="n=9 is above 8"):
        client.images.generate(prompt="x", n=9)
    with pytest.raises(openai.BadRequestError, match="size='1024x1024' is not possible: use 'auto' or '32x32'"):
        client.images.generate(prompt="x", size="1024x1024")
    with pytest.raises(openai.BadRequestError, match="the mask has no alpha channel"):
        client.images.edit(image=RED, mask=RED, prompt="x")


def test_forms_that_are_none(http: httpx2.Client) -> None:
    for sent, message in [
        ({"json": {}}, "no form"),
        ({"files": {"other": RED}, "data": {"prompt": "x"}}, "a file 'other'"),
        ({"files": {"image": RED}, "data": {"prompt": "x", "mask": "x"}}, "a text 'mask'"),
        ({"files": [("image", RED), ("mask", RED), ("mask", RED)], "data": {"prompt": "x"}}, "2 masks"),
        ({"files": {"image": RED}}, "prompt: "),
        ({"files": {"image": RED}, "data": {"prompt": "x", "n": "many"}}, "n: "),
        ({"data": {"prompt": "x"}, "headers": {"content-type": "multipart/form-data"}}, ""),
        ({"content": b"--x\r\nbroken", "headers": {"content-type": "multipart/form-data; boundary=x"}}, ""),
    ]:
        answer = http.post("/v1/images/edits", **sent)  # type: ignore[arg-type]
        assert answer.status_code == 400, answer.text
        assert message in answer.json()["error"]["message"]


def test_addresses_that_are_none(http: httpx2.Client) -> None:
    for method, path, status in [("GET", "/v2/x", 404), ("GET", "/v1/chat/completions", 405), ("POST", "/", 405)]:
        answer = http.request(method, path)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]
        assert ("allow" in answer.headers) == (status == 405)


# ------------------------------------------------------------ who may ask


def test_keys_rates_and_the_log(caplog: pytest.LogCaptureFixture) -> None:
    key, line = new_key("ann")
    name, digest = line.split(" sha256:")
    keys = ApiKeys({name: digest})
    caplog.set_level(logging.INFO, logger="ray_jobs")
    with serving(keys, access__requests_per_minute=60, access__burst=2) as address:
        with httpx2.Client(base_url=address, timeout=30) as http:
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {key}"}):
                answer = http.get("/v1/models", headers=headers)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["error"]["code"] == "invalid_api_key"
            for path in ("/", "/health", "/ready", "/metrics", "/docs", "/openapi.json"):
                assert http.get(path).status_code == 200
        client = openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)
        words = "a secret sentence"
        client.chat.completions.create(model=NAME, messages=shown(RED, words=words), max_tokens=2)
        client.models.list()
        with pytest.raises(openai.RateLimitError, match="too many requests of this key") as error:
            client.models.list()
        assert int(error.value.response.headers["retry-after"]) >= 1
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("ray_jobs")]
    assert sum("POST /v1/chat/completions 200" in one and "key=ann" in one for one in lines) == 1
    assert sum("GET /v1/models 401 " in one for one in lines) == 3
    assert sum("GET /v1/models 429 " in one for one in lines) == 1
    assert not any("secret" in one or key in one or "base64" in one for one in lines)


def test_other_origins_only_where_they_are_allowed(http: httpx2.Client) -> None:
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in http.options("/v1/chat/completions", headers=asked).headers
    with serving(access__cors_origins=["https://a.example"]) as address:
        answer = httpx2.options(f"{address}/v1/chat/completions", headers=asked)
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        asking = httpx2.get(f"{address}/v1/models", headers={"origin": "https://a.example"})
        assert asking.headers["access-control-expose-headers"] == "Retry-After, X-Request-Id"
        other = httpx2.get(f"{address}/v1/models", headers={"origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


def test_what_browsers_and_probes_ask(http: httpx2.Client) -> None:
    for path in ("/", "/docs", "/health", "/ready"):
        answer = http.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
    assert http.get("/favicon.ico").status_code == 204


def test_headers_of_every_answer(http: httpx2.Client) -> None:
    for path in ("/", "/v1/models", "/nowhere"):
        answer = http.get(path)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert len(answer.headers["x-request-id"]) == 32
    assert "default-src 'self'" in http.get("/").headers["content-security-policy"]


# ------------------------------------------------------------ the state of the server


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


class SlowBackend:
    """A model that is not ready, or never answers."""

    def __init__(self, *, ready: bool) -> None:
        self.ready, self.given_up = ready, 0

    async def card(self) -> Card:
        if not self.ready:
            await asyncio.sleep(60)
        return served_model().card

    async def run(self, call: Call) -> AsyncIterator[Event]:
        try:
            await asyncio.sleep(60)
            raise AssertionError("nobody waits so long")
            yield
        finally:
            self.given_up += 1


class FullBackend(SlowBackend):
    async def run(self, call: Call) -> AsyncIterator[Event]:
        raise OverloadedError("full", "come again")
        yield


class BrokenBackend(SlowBackend):
    async def run(self, call: Call) -> AsyncIterator[Event]:
        raise RuntimeError("a secret of the server")
        yield


ASKED = {"model": NAME, "messages": [{"role": "user", "content": "x"}]}


def test_not_ready_is_told() -> None:
    with listening(SlowBackend(ready=False), serve_config()) as address:
        answer = httpx2.get(f"{address}/ready")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert httpx2.get(f"{address}/health").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_what_takes_too_long_is_given_up(stream: bool) -> None:
    backend = SlowBackend(ready=True)
    with listening(backend, serve_config(limits__request_timeout_s=0.2)) as address:
        answer = httpx2.post(f"{address}/v1/chat/completions", json=ASKED | {"stream": stream}, timeout=30)
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "timeout"
    assert backend.given_up == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_not_worked_for(stream: bool) -> None:
    backend = SlowBackend(ready=True)
    with listening(backend, serve_config()) as address:
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(f"{address}/v1/chat/completions", json=ASKED | {"stream": stream}, timeout=0.3)
        deadline = time.monotonic() + 20
        while not backend.given_up and time.monotonic() < deadline:
            time.sleep(0.02)
    assert backend.given_up == 1


def test_a_full_server_says_when_to_come_again() -> None:
    with listening(FullBackend(ready=True), serve_config()) as address:
        for stream in (False, True):
            answer = httpx2.post(f"{address}/v1/chat/completions", json=ASKED | {"stream": stream})
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert answer.json()["error"]["code"] == "overloaded"


def test_a_failure_tells_nothing_of_the_server() -> None:
    with listening(BrokenBackend(ready=True), serve_config()) as address:
        answer = httpx2.post(f"{address}/v1/chat/completions", json=ASKED)
        assert answer.status_code == 500
        assert answer.json()["error"]["message"] == "an internal error; the server's log has it"


def test_a_stream_that_fails_midway_ends_with_an_error(address: str) -> None:
    class Midway(SlowBackend):
        async def run(self, call: Call) -> AsyncIterator[Event]:
            from setok.predictor import TextPart

            yield TextPart(text="a")
            raise OverloadedError("lost", "ask again")

    with listening(Midway(ready=True), serve_config()) as other:
        client = openai.OpenAI(base_url=f"{other}/v1", api_key="none", max_retries=0)
        chunks = client.chat.completions.create(**ASKED, stream=True)  # type: ignore[call-overload]
        first = next(chunks).choices[0].delta
        assert (first.role, first.content) == ("assistant", "a")
        with pytest.raises(openai.APIError, match="lost"):
            next(chunks)


class HesitantBackend(SlowBackend):
    """Says a word, and then nothing."""

    async def run(self, call: Call) -> AsyncIterator[Event]:
        from setok.predictor import TextPart

        yield TextPart(text="a")
        try:
            await asyncio.sleep(60)
        finally:
            self.given_up += 1


def test_a_stream_that_takes_too_long_ends_with_an_error() -> None:
    backend = HesitantBackend(ready=True)
    with listening(backend, serve_config(limits__request_timeout_s=0.3)) as other:
        answer = httpx2.post(f"{other}/v1/chat/completions", json=ASKED | {"stream": True}, timeout=30)
    assert answer.status_code == 200
    first, last = answer.text.strip().split("\n\n")
    assert '"content":"a"' in first
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
    assert backend.given_up == 1


def test_a_stream_whose_client_leaves_midway_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    backend = HesitantBackend(ready=True)
    with listening(backend, serve_config()) as other:
        with httpx2.stream("POST", f"{other}/v1/chat/completions", json=ASKED | {"stream": True}) as answer:
            assert '"content":"a"' in next(answer.iter_lines())
        deadline = time.monotonic() + 20
        while not backend.given_up and time.monotonic() < deadline:
            time.sleep(0.02)
    assert backend.given_up == 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_tokenizer_alone_says_what_it_can() -> None:
    model = ServedModel(NAME, predictor().model.tokenizer, None)
    config = serve_config()
    with started_engine(config, model) as engine:
        from ray_jobs.serving.backend import LocalBackend

        with listening(LocalBackend(engine), config) as address:
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
