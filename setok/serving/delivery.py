"""From the thread that answers to whoever asked in an event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from setok.serving.engine import LAST, Call, Event, Failed


class TakesCalls(Protocol):
    """What an engine is to those who ask, wherever it runs."""

    def submit(self, call: Call, deliver: Callable[[Event], object]) -> Any:
        """As ``Engine.submit``."""

    def cancel(self, ticket: Any) -> None:
        """As ``Engine.cancel``; of a request whose last event has come it need not be called."""


async def events_of(engine: TakesCalls, call: Call) -> AsyncIterator[Event]:
    """Everything that a request gives, as it comes; leaving the loop early gives the request up.

    Raises:
        SetokError: as ``Engine.submit``, or the request could not be answered.
    """
    async with aclosing(letters_of(engine, call)) as letters:
        async for letter in letters:
            for event in letter:
                if isinstance(event, Failed):
                    raise event.error
                yield event


async def letters_of(
    engine: TakesCalls, call: Call, *, pause: Callable[[], float] = lambda: 0.0
) -> AsyncGenerator[list[Event], None]:
    """The same by the letter: the first event at once, and then what has gathered after each pause; the end waits for none.

    Args:
        pause: seconds until the next letter, asked after each one.

    Raises:
        SetokError: as ``Engine.submit``. What goes wrong later is the last event.
    """
    loop, box = asyncio.get_running_loop(), _Box()
    post = _POSTS.setdefault(loop, _Post())
    ticket = engine.submit(call, lambda event: post.put(loop, box, event))
    over = False
    try:
        while not over:
            letter = await box.take()
            over = isinstance(letter[-1], LAST)
            yield letter
            if not over and (seconds := pause()) > 0:
                await box.gather(seconds)
    finally:
        if not over:
            engine.cancel(ticket)


class _Box:
    """What has come for one request and was not taken yet."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._come, self._ended = asyncio.Event(), asyncio.Event()

    def put(self, event: Event) -> None:
        self._events.append(event)
        self._come.set()
        if isinstance(event, LAST):
            self._ended.set()

    async def take(self) -> list[Event]:
        """All of it, as soon as there is any."""
        await self._come.wait()
        self._come.clear()
        events, self._events = self._events, []
        return events

    async def gather(self, seconds: float) -> None:
        """Wait that long, or until the last event is here."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)


class _Post:
    """Carries events from other threads into an event loop, which is woken once for all that have gathered."""

    def __init__(self) -> None:
        self._posted: deque[tuple[_Box, Event]] = deque()
        self._under_way = False

    def put(self, loop: asyncio.AbstractEventLoop, box: _Box, event: Event) -> None:
        self._posted.append((box, event))
        if self._under_way:  # not yet begun, for that is the first thing it takes back
            return
        self._under_way = True
        try:
            loop.call_soon_threadsafe(self._hand_out)
        except RuntimeError:  # the loop is closed
            self._under_way = False
            raise

    def _hand_out(self) -> None:
        self._under_way = False
        while self._posted:
            box, event = self._posted.popleft()
            box.put(event)


_POSTS: WeakKeyDictionary[asyncio.AbstractEventLoop, _Post] = WeakKeyDictionary()
