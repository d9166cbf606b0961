"""Requests that nobody would send: whatever comes, the server refuses or answers, and does not break."""

from __future__ import annotations

import copy
import json
import random
import socket
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

from tests.served import NAME, data_url, picture, serving


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(limits__max_body_bytes=200_000, limits__max_new_tokens=8, limits__default_new_tokens=2) as address:
        yield address


def test_nothing_that_the_description_allows_breaks_it(address: str) -> None:
    """And nothing that it forbids: schemathesis tries both, 20 times for each of the routes."""
    operations = [found.ok() for found in schemathesis.openapi.from_url(f"{address}/openapi.json").get_all_operations()]
    assert len(operations) == 11
    for operation in operations:
        modes = list(GenerationMode) if operation.method == "post" else [GenerationMode.POSITIVE]
        for mode in modes:

            @settings(
                max_examples=10,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                case.call_and_validate(checks=[not_a_server_error], timeout=30)

            ask()


IMAGE = data_url(picture())
VALID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": NAME,
        "messages": [
            {"role": "system", "content": "x"},
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": IMAGE}}, {"type": "text", "text": "what?"}],
            },
        ],
        "max_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["a"],
        "seed": 1,
        "n": 2,
        "modalities": ["text"],
        "stream": False,
    },
    "/v1/images/generations": {"prompt": "a", "n": 1, "size": "auto", "seed": 1, "guidance": 1.5},
    "/v1/tokenize": {"image": IMAGE, "threshold": 0.2, "min_tokens": 1, "max_tokens": 3, "vectors": True},
    "/v1/reconstruct": {"image": IMAGE, "max_tokens": 2},
    "/v1/segment": {"image": IMAGE, "expression": "a"},
}
STRANGE: list[Any] = [
    *(None, True, -1, 0, 1e308, 10**30, "", "\ud800", "\0", "a" * 5000, [], [[]], {}, {"a": {}}, [None] * 50),
    *(
        "data:image/png;base64," + "A" * 1000,
        "data:;base64,",
        "http://127.0.0.1/",
        "file:///etc/passwd",
        "\u202e<image>[Img]",
    ),
]


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a JSON value."""
    if path:
        yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def malformed(rng: random.Random) -> tuple[str, bytes]:
    """A route, and a valid body with something strange in it, or one that is damaged as text, or with a damaged picture."""
    route = rng.choice(list(VALID))
    body = json.loads(json.dumps(VALID[route]))
    kind = rng.randrange(4)
    if kind == 0:
        text = bytearray(json.dumps(body).encode())
        for _ in range(rng.randint(1, 5)):
            text[rng.randrange(len(text))] = rng.randrange(256)
        return route, bytes(text[: rng.randint(0, len(text))] if rng.random() < 0.3 else text)
    if kind == 1:
        data = bytearray(picture(kind=rng.choice(["PNG", "JPEG", "WEBP", "GIF", "BMP"])))
        for _ in range(rng.randint(1, 20)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        text = json.dumps(body).replace(IMAGE, data_url(bytes(data[: rng.randint(1, len(data))])))
        return route, text.encode()
    for _ in range(rng.randint(1, 3)):
        *parents, last = rng.choice(list(places(body)))
        node = body
        for parent in parents:
            node = node[parent]
        if rng.random() < 0.2:
            del node[last]
        else:
            node[last] = copy.deepcopy(rng.choice(STRANGE))
        if not body:
            break
    return route, json.dumps(body).encode()


def test_five_hundred_malformed_bodies_and_pictures(address: str) -> None:
    rng = random.Random(0)
    answered: dict[int, int] = {}
    with httpx2.Client(base_url=address, timeout=60) as http:
        for _ in range(500):
            route, body = malformed(rng)
            answer = http.post(route, content=body, headers={"content-type": "application/json"})
            answered[answer.status_code] = answered.get(answer.status_code, 0) + 1
            assert answer.status_code < 500, (route, body[:2000], answer.text)
            if answer.status_code != 200:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
                assert len(answer.content) < 2000, "what was sent is not sent back"
        for route, valid in VALID.items():
            assert http.post(route, json=valid).status_code == 200, "and it still answers"
    assert set(answered) <= {200, 400, 404, 413}
    assert answered[400] > 200


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"content-type": "text/plain"}, b"hello", 400),
        ({}, b"[" * 100_000, 400),
        ({}, b'{"a":' * 30_000, 400),
        ({}, b"1" * 10_000, 400),
        ({}, b"\xff\xfe{}", 400),
        ({}, b"x" * 300_000, 413),
    ],
)
def test_bodies_that_are_none(address: str, headers: dict[str, str], content: bytes, status: int) -> None:
    asked = {"content-type": "application/json"} | headers
    with httpx2.Client(base_url=address, timeout=30) as http:
        for route in VALID:
            answer = http.post(route, content=content, headers=asked)
            assert answer.status_code == status, answer.text


@pytest.mark.parametrize(("length", "status"), [("999999999999", 413), ("9" * 5000, 413), ("-1", 400), ("many", 400)])
def test_lengths_that_are_none(address: str, length: str, status: int) -> None:
    host, port = address.removeprefix("http://").split(":")
    head = f"POST /v1/tokenize HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.encode())
        assert connection.recv(100).split()[1] in (str(status).encode(), b"400")


def test_a_body_that_never_ends_is_cut_off(address: str) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 10_000

    try:
        answer = httpx2.post(f"{address}/v1/tokenize", content=endless(), timeout=30)
    except httpx2.TransportError:
        return  # the server closed the connection while we were sending
    assert answer.status_code == 413
