"""What a client is told of a request that cannot be: the field as it wrote it, and why."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from PIL import Image

from tests.served import NAME, data_url, picture, serving


@pytest.fixture(scope="module")
def http() -> Iterator[httpx2.Client]:
    with serving() as address, httpx2.Client(base_url=address, timeout=30) as client:
        yield client


def asked(content: Any = "x", **changes: Any) -> dict[str, Any]:
    return {"model": NAME, "messages": [{"role": "user", "content": content}], **changes}


PIECE = {"type": "text", "text": "x"}


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (asked(5), "messages.0.content", "valid string, or: Input should be a valid list"),
        (asked("x" * 100_001), "messages.0.content", "at most 100000 characters"),
        (asked([PIECE, {"type": "text"}]), "messages.0.content.1.text", "Field required"),
        (asked([{"type": "image_url", "image_url": {}}]), "messages.0.content.0.image_url.url", "Field required"),
        (asked([{"type": "audio"}]), "messages.0.content.0", "does not match any of the expected tags"),
        (asked(stop=[1]), "stop.0", "valid string"),
        ({"model": NAME}, "messages", "Field required"),
        (asked(temperature=9), "temperature", "less than or equal to 2"),
        (asked(n=9), "n", "n=9 is above 8"),
        (asked(max_tokens=5000), "max_tokens", "max_tokens=5000 is above 1024"),
        (asked(max_completion_tokens=5000), "max_completion_tokens", "max_completion_tokens=5000 is above 1024"),
        (asked(modalities=[]), "modalities", "modalities is empty"),
    ],
)
def test_the_field_is_named_as_it_was_written(http: httpx2.Client, body: Any, param: str, message: str) -> None:
    answer = http.post("/v1/chat/completions", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert message in error["message"]
    assert "constrained" not in error["message"] and "list[" not in error["message"]


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b'{"model": ', "application/json", "the body is no JSON: "),
        (b"{}", "text/plain", "not marked as JSON: send JSON, with the header Content-Type: application/json"),
        (b"", "application/json", "the body is empty: send JSON"),
        (b"[]", "application/json", "valid dictionary"),
    ],
)
def test_a_body_that_is_no_json(http: httpx2.Client, content: bytes, kind: str, message: str) -> None:
    answer = http.post("/v1/chat/completions", content=content, headers={"content-type": kind})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, None)
    assert message in error["message"]


def test_what_pictures_cannot_have_is_named(http: httpx2.Client) -> None:
    for changes, param in [({"stream": True}, "stream"), ({"n": 9}, "n"), ({"size": "1x1"}, "size")]:
        answer = http.post("/v1/images/generations", json={"prompt": "x", **changes})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    form = {"prompt": "x", "stream": "true"}
    edited = http.post("/v1/images/edits", files={"image": picture()}, data=form)
    assert (edited.status_code, edited.json()["error"]["param"]) == (400, "stream")
    assert http.post("/v1/images/generations", json={"prompt": "x", "stream": False}).status_code == 200
    answer = http.post("/v1/tokenize", json={"image": data_url(picture()), "max_tokens": 4096})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "max_tokens")


def test_pictures_are_refused_in_words_for_whoever_sent_them(http: httpx2.Client) -> None:
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    long = io.BytesIO()
    Image.new("1", (20_000, 1)).save(long, "PNG")
    for data, message in [
        (file.getvalue(), "more than 32000000 pixels: scale it down"),
        (long.getvalue(), "16384: scale it down"),
        (picture()[:60], "replace or remove the file"),
    ]:
        answer = http.post("/v1/tokenize", json={"image": data_url(data)})
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].endswith(message)
