"""A server that is about to end answers what it has, and tells the others when to come again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from ray_jobs.serving import draining
from ray_jobs.serving.app import create_app
from ray_jobs.serving.draining import Traffic, drain
from setok.predictor import Ended, TextPart
from setok.serving.engine import Call, Event
from setok.serving.model import Card
from tests import served
from tests.served import NAME, listening, serve_config, served_model

ASKED = {"model": NAME, "messages": [{"role": "user", "content": "x"}]}


class Patient:
    """A model that answers once it is let."""

    def __init__(self) -> None:
        self.asked, self.go = False, False

    async def card(self) -> Card:
        return served_model().card

    async def run(self, call: Call) -> AsyncIterator[Event]:
        self.asked = True
        while not self.go:
            await asyncio.sleep(0.005)
        yield TextPart(text="done")
        yield Ended(reason="stop", prompt_tokens=1, prompt_visual_tokens=0, text_tokens=1, visual_tokens=0)


def test_what_is_under_way_is_answered_and_what_comes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    traffic, backend = Traffic(), Patient()
    monkeypatch.setattr(served, "create_app", lambda *given: create_app(*given, traffic=traffic))
    with listening(backend, serve_config()) as address, ThreadPoolExecutor(1) as other:
        assert httpx2.get(f"{address}/v1/models").status_code == 200
        early = other.submit(httpx2.post, f"{address}/v1/chat/completions", json=ASKED, timeout=60)
        while not backend.asked:
            pass
        assert traffic.under_way == 1
        traffic.stopping = True
        for path in ("/v1/models", "/ready"):
            late = httpx2.get(address + path)
            assert late.status_code == 503
            assert late.headers["retry-after"] == "5"
            assert late.json()["error"]["code"] == "stopping"
        assert httpx2.get(f"{address}/metrics").status_code == 200
        assert traffic.under_way == 1
        backend.go = True
        assert early.result().json()["choices"][0]["message"]["content"] == "done"
        assert traffic.under_way == 0


class Handle:
    """Of an ingress with two replicas that have so many requests under way, one look after the other."""

    def __init__(self, *looks: list[int] | Exception) -> None:
        self.looks = list(looks)

    def broadcast(self, name: str) -> Handle:
        assert name == "drain"
        return self

    def results(self, *, timeout_s: float) -> list[int]:
        assert timeout_s > 0
        look = self.looks.pop(0)
        if isinstance(look, Exception):
            raise look
        return look


def test_the_end_is_waited_for_in_all_replicas(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(draining, "PAUSE_S", 0.001)
    for handle, timeout_s, left in [
        (Handle([1, 2], [0, 1], [0, 0], [9, 9]), 60.0, 1),
        (Handle([1, 2], [1, 2]), 0.0, 1),
        (Handle(TimeoutError("lost"), [1, 2]), 60.0, 1),
    ]:
        ingress: Any = handle
        drain(ingress, timeout_s=timeout_s)
        assert len(handle.looks) == left
    assert "could not be told to stop: TimeoutError" in caplog.text
