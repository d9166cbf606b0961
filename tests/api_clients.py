"""A server that every file of tests has once, the clients that ask it, and questions with pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from tests.served import NAME, data_url, picture, serving

RED, BLUE = picture(), picture(colour="blue", width=32)
ASKED = {"model": NAME, "messages": [{"role": "user", "content": "x"}]}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a server that refuses large pictures and bodies."""
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
    """Messages with pictures and a question."""
    pieces: list[Any] = [{"type": "image_url", "image_url": {"url": data_url(one)}} for one in pictures]
    return [{"role": "user", "content": [*pieces, {"type": "text", "text": words}]}]
