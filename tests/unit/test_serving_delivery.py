"""The engine beside an event loop: what it says is delivered, and who leaves is not worked for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from setok.data.schema import Turn
from setok.errors import ConfigError, DataError
from setok.models.generation import GenerationOptions
from setok.predictor import Ask, Ended, TextPart
from setok.serving.delivery import _Box, _Post, events_of, letters_of
from setok.serving.engine import Engine, Event, Failed
from tests.engine_calls import ask, engine

__all__ = ["engine"]


def test_leaving_the_loop_gives_the_request_up(engine: Engine) -> None:
    long = GenerationOptions(mode="text", max_new_tokens=150, stop_ids=(10**6,))

    async def leave() -> list[Event]:
        heard = []
        events = events_of(engine, ask(options=long))
        async for event in events:
            heard.append(event)
            if len(heard) == 3:
                break
        await events.aclose()  # type: ignore[attr-defined]
        for _ in range(200):
            if engine.load == (0, 0):
                return heard
            await asyncio.sleep(0.02)
        raise AssertionError("the reply goes on")

    assert all(isinstance(event, TextPart) for event in asyncio.run(leave()))


def test_failures_are_raised_where_it_was_asked(engine: Engine) -> None:
    async def ask_wrongly() -> None:
        call = Ask(conversation=[Turn(role="user", text="a")], options=GenerationOptions(mode="mask"))
        async for _ in events_of(engine, call):
            raise AssertionError("it cannot be answered")

    with pytest.raises((DataError, ConfigError), match="row 0 has none"):
        asyncio.run(ask_wrongly())


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts how often other threads wake it."""

    woken = 0

    def call_soon_threadsafe(self, *arguments: Any, **more: Any) -> asyncio.Handle:
        self.woken += 1
        return super().call_soon_threadsafe(*arguments, **more)


class Talkative:
    """Says very much from a thread of its own, all at once."""

    def submit(self, call: Any, deliver: Callable[[Event], object]) -> threading.Thread:
        def say() -> None:
            for number in range(1000):
                deliver(TextPart(text=str(number)))
            deliver(Ended(reason="stop", prompt_tokens=1, prompt_visual_tokens=0, text_tokens=1, visual_tokens=0))

        thread = threading.Thread(target=say)
        thread.start()
        thread.join()
        return thread

    def cancel(self, ticket: Any) -> None:
        raise AssertionError("it is complete")


def test_an_event_loop_is_woken_once_for_all_that_has_gathered() -> None:
    async def listen() -> list[Event]:
        return [event async for event in events_of(Talkative(), ask())]

    loop = CountingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        events = runner.run(listen())
        woken = loop.woken
    texts = [event.text for event in events if isinstance(event, TextPart)]
    assert texts == [str(number) for number in range(1000)]
    assert woken == 1


def test_delivering_to_a_closed_loop_is_an_error_every_time() -> None:
    post, loop = _Post(), asyncio.new_event_loop()
    loop.close()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="closed"):
            post.put(loop, _Box(), TextPart(text="a"))


class Slow(Talkative):
    """Says a word at a time, each when it is told to, and then comes to an end."""

    def __init__(self) -> None:
        self.deliver: Callable[[Event], object] = lambda event: None

    def submit(self, call: Any, deliver: Callable[[Event], object]) -> Any:
        self.deliver = deliver


def test_what_gathers_in_a_pause_goes_in_one_letter_and_the_end_waits_for_no_pause() -> None:
    engine, pauses = Slow(), iter([0.0, 3600.0])

    async def listen() -> list[list[Event]]:
        heard = []
        async with aclosing(letters_of(engine, ask(), pause=lambda: next(pauses))) as letters:
            for words in ("a", "b", "cd."):
                coming = asyncio.ensure_future(anext(letters))
                for word in words:
                    for _ in range(5):  # turns of the loop, in which all that can be told is told
                        await asyncio.sleep(0)
                    engine.deliver(TextPart(text=word) if word != "." else Failed(error=DataError("the end", "")))
                heard.append(await coming)
        return heard

    letters = asyncio.run(listen())
    assert [[event.text for event in letter if isinstance(event, TextPart)] for letter in letters] == [
        ["a"],
        ["b"],
        ["c", "d"],
    ]
    assert isinstance(letters[-1][-1], Failed)
