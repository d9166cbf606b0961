"""Several replies to one request (``n``): as many requests with the next seeds would give, taken and given up together."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.serving.backend import LocalBackend
from ray_jobs.serving.together import together
from setok.data.schema import Turn
from setok.errors import OverloadedError
from setok.predictor import Ask, TextPart
from setok.serving.engine import Call, Engine, Event
from setok.serving.model import Card
from tests.served import NAME, listening, serve_config, served_model, serving

ASKED: dict[str, Any] = {"model": NAME, "messages": [{"role": "user", "content": "what?"}], "seed": 3}
WILD: dict[str, Any] = ASKED | {"temperature": 1.5, "max_tokens": 30}


# ------------------------------------------------------------ over HTTP


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(limits__max_choices=4) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def test_choices_are_what_requests_with_the_next_seeds_get(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**WILD, n=4)
    alone = [client.chat.completions.create(**WILD | {"seed": 3 + index}) for index in range(4)]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.message for choice in answer.choices] == [one.choices[0].message for one in alone]
    assert [choice.finish_reason for choice in answer.choices] == [one.choices[0].finish_reason for one in alone]
    assert len({choice.message.content for choice in answer.choices}) > 1
    usages = [one.usage for one in alone]
    assert answer.usage is not None
    assert {usage.prompt_tokens for usage in usages if usage} == {answer.usage.prompt_tokens}
    assert answer.usage.completion_tokens == sum(usage.completion_tokens for usage in usages if usage)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_tells_every_choice_by_its_index(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**WILD, n=3)
    chunks = list(client.chat.completions.create(**WILD, n=3, stream=True, stream_options={"include_usage": True}))
    parts = [choice for chunk in chunks for choice in chunk.choices]
    for choice in whole.choices:
        own = [part for part in parts if part.index == choice.index]
        assert "".join(part.delta.content or "" for part in own) == (choice.message.content or "")
        assert [part.delta.role for part in own if part.delta.role] == ["assistant"] == [own[0].delta.role]
        assert [part.finish_reason for part in own if part.finish_reason] == [choice.finish_reason]
        assert own[-1].finish_reason
    assert {part.index for part in parts} == {0, 1, 2}
    assert [chunk.usage for chunk in chunks if chunk.usage] == [whole.usage]
    assert len({chunk.id for chunk in chunks}) == 1


def test_pictures_have_the_next_seeds_too_and_count_their_prompt_once(client: openai.OpenAI) -> None:
    both = client.images.generate(prompt="a circle", n=2, extra_body={"seed": -1})
    alone = [client.images.generate(prompt="a circle", extra_body={"seed": seed}) for seed in (-1, 0)]
    assert both.data and both.usage and alone[0].usage and alone[1].usage
    assert [datum.seed for datum in both.data] == [-1, 0]  # type: ignore[attr-defined]
    assert both.usage.input_tokens == alone[0].usage.input_tokens
    assert both.usage.output_tokens == alone[0].usage.output_tokens + alone[1].usage.output_tokens


def test_more_than_there_may_be_are_refused(client: openai.OpenAI, address: str) -> None:
    with pytest.raises(openai.BadRequestError, match="n=5 is above 4: ask for 4 at most") as error:
        client.chat.completions.create(**ASKED, n=5)
    assert error.value.param == "n"
    with pytest.raises(openai.BadRequestError, match="n=5 is above 4"):
        client.images.generate(prompt="x", n=5)
    for number in (0, -1, 1.5, "two"):
        answer = httpx2.post(f"{address}/v1/chat/completions", json=ASKED | {"n": number})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "n"
    assert client.chat.completions.create(**ASKED, n=None, max_tokens=1).choices[0].index == 0


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({}, 8),
        ({"limits__max_choices": 20}, 20),
        ({"batching__max_rows": 2, "batching__max_waiting": 1}, 3),
        ({"batching__max_rows": 1, "batching__max_waiting": 0}, 1),
        ({"replicas__max": 1, "batching__max_waiting": 5}, 5),
    ],
)
def test_no_more_are_allowed_than_could_ever_be_taken_at_once(changes: dict[str, Any], most: int) -> None:
    assert serve_config(**changes).max_choices == most


# ------------------------------------------------------------ all of them, or none


@pytest.mark.parametrize("stream", [False, True])
def test_there_is_room_for_all_or_for_none(stream: bool) -> None:
    config = serve_config(batching__max_rows=2, batching__max_waiting=1)
    engine = Engine(served_model(), config.batching)  # its thread does not run yet: who has been taken waits
    engine.submit(Ask(conversation=[Turn(role="user", text="a")]), lambda event: None)
    asked = WILD | {"stream": stream}
    with listening(LocalBackend(engine), config) as address:
        refused = httpx2.post(f"{address}/v1/chat/completions", json=asked | {"n": 3}, timeout=30)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "overloaded"
        assert engine.load == (0, 1), "nobody waits for those that would have had room"
        engine.start()
        try:
            taken = httpx2.post(f"{address}/v1/chat/completions", json=asked | {"n": 2}, timeout=60)
        finally:
            engine.stop(timeout_s=20)
    assert taken.status_code == 200
    assert taken.text.count('"finish_reason":"') == 2


class Choosy:
    """A model that fails with one seed, and says one word, and then nothing, with all others."""

    def __init__(self, failing: int | None, *, word: bool) -> None:
        self.failing, self.word = failing, word
        self.asked: list[int] = []
        self.heard: list[int] = []
        self.given_up: list[int] = []

    async def card(self) -> Card:
        return served_model().card

    async def run(self, call: Call) -> AsyncIterator[Event]:
        assert isinstance(call, Ask)
        self.asked.append(call.seed)
        if self.word:
            yield TextPart(text="a")
            self.heard.append(call.seed)
            while len(self.heard) < 3:
                await asyncio.sleep(0)
        if call.seed == self.failing:
            raise OverloadedError("lost", "ask again")
        try:
            await asyncio.sleep(60)
        finally:
            self.given_up.append(call.seed)


@pytest.mark.parametrize("stream", [False, True])
def test_where_one_fails_the_request_fails_and_the_others_are_given_up(stream: bool) -> None:
    backend = Choosy(4, word=False)
    with listening(backend, serve_config()) as address:
        answer = httpx2.post(f"{address}/v1/chat/completions", json=ASKED | {"n": 3, "stream": stream}, timeout=30)
        assert answer.status_code == 503
        assert answer.json()["error"]["message"] == "lost: ask again"
        assert sorted(backend.asked) == [3, 4, 5]
        assert sorted(backend.given_up) == [3, 5]


def test_a_stream_of_which_one_fails_midway_ends_with_an_error() -> None:
    backend = Choosy(4, word=True)
    with listening(backend, serve_config()) as address:
        answer = httpx2.post(f"{address}/v1/chat/completions", json=ASKED | {"n": 3, "stream": True}, timeout=30)
    assert answer.status_code == 200
    *told, last = [json.loads(line.removeprefix("data: ")) for line in answer.text.strip().split("\n\n")]
    assert sorted(chunk["choices"][0]["index"] for chunk in told) == [0, 1, 2]
    assert last["error"]["message"] == "lost: ask again"
    assert sorted(backend.given_up) == [3, 5]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_not_worked_for_by_any(stream: bool) -> None:
    backend = Choosy(None, word=False)
    with listening(backend, serve_config()) as address:
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(f"{address}/v1/chat/completions", json=ASKED | {"n": 3, "stream": stream}, timeout=0.3)
        deadline = time.monotonic() + 20
        while len(backend.given_up) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
    assert sorted(backend.given_up) == [3, 4, 5]


# ------------------------------------------------------------ together


class Reply:
    """Says numbers, each after so many turns of the event loop, and then ends or fails."""

    def __init__(self, pauses: list[int], *, fails: bool = False) -> None:
        self.pauses, self.fails = pauses, fails
        self.begun = self.complete = self.closed = False

    async def events(self) -> AsyncGenerator[int, None]:
        try:
            for number, pause in enumerate(self.pauses):
                for _ in range(pause):
                    await asyncio.sleep(0)
                self.begun = True
                yield number
            if self.fails:
                raise OverloadedError("lost", "ask again")
            self.complete = True
        finally:
            self.closed = True


PAUSES = st.lists(st.integers(0, 5), min_size=1, max_size=5)


@settings(max_examples=200, deadline=None)
@given(st.lists(PAUSES, min_size=1, max_size=4))
def test_everything_comes_in_the_order_of_each_once_all_have_begun(pauses: list[list[int]]) -> None:
    replies = [Reply(own) for own in pauses]

    async def listen() -> list[tuple[int, int]]:
        heard = []
        async for one in together([reply.events() for reply in replies]):
            assert all(reply.begun for reply in replies)
            heard.append(one)
        return heard

    heard = asyncio.run(listen())
    for index, own in enumerate(pauses):
        assert [event for number, event in heard if number == index] == list(range(len(own)))
    assert all(reply.complete for reply in replies)


@settings(max_examples=200, deadline=None)
@given(st.lists(PAUSES, min_size=1, max_size=4), st.data())
def test_a_failure_or_a_farewell_ends_them_all(pauses: list[list[int]], data: st.DataObject) -> None:
    failing = data.draw(st.none() | st.integers(0, len(pauses) - 1))
    stays = data.draw(st.integers(0, 20))
    replies = [Reply(own, fails=index == failing) for index, own in enumerate(pauses)]

    async def listen() -> None:
        heard = 0
        async with aclosing(together([reply.events() for reply in replies])) as events:
            async for _ in events:
                heard += 1
                if heard > stays:
                    break

    raised = False
    try:
        asyncio.run(listen())
    except OverloadedError:
        raised = True
    if failing is None or stays >= sum(map(len, pauses)):
        assert raised == (failing is not None)
    # One that had not begun when the others were given up has nothing to close.
    assert all(reply.closed for reply in replies if reply.begun)


def test_a_task_that_is_cancelled_gives_all_replies_up() -> None:
    replies = [Reply([1, 10**9]), Reply([1, 10**9])]

    async def listen() -> None:
        async for _ in together([reply.events() for reply in replies]):
            pass

    async def leave() -> None:
        task = asyncio.create_task(listen())
        while not all(reply.begun for reply in replies):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert all(reply.closed for reply in replies), "before whoever cancelled goes on"

    asyncio.run(leave())
