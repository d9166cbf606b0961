"""What the API refuses, whom it knows, and what stands in the head of every answer."""

from __future__ import annotations

import logging
from typing import Any

import httpx2
import openai
import pytest

from setok.serving.keys import ApiKeys, new_key
from tests.api_clients import RED, address, client, http, shown
from tests.served import NAME, picture, serving

__all__ = ["address", "client", "http"]


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
