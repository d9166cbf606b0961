"""Models that are not ready, full, slow or broken, and clients that leave: what the API says, and that it stops to work."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import httpx2
import openai
import pytest

from setok.errors import OverloadedError
from setok.predictor import TextPart
from setok.serving.engine import Call, Event
from setok.serving.model import Card
from tests.api_clients import ASKED
from tests.served import listening, serve_config, served_model


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


def test_a_stream_that_fails_midway_ends_with_an_error() -> None:
    class Midway(SlowBackend):
        async def run(self, call: Call) -> AsyncIterator[Event]:
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
