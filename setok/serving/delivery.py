"""From the thread that answers to whoever asked in an event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
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
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[Event]()
    post = _POSTS.setdefault(loop, _Post())
    ticket = engine.submit(call, lambda event: post.put(loop, queue, event))
    over = False
    try:
        while not over:
            event = await queue.get()
            over = isinstance(event, LAST)
            if isinstance(event, Failed):
                raise event.error
            yield event
    finally:
        if not over:
            engine.cancel(ticket)


class _Post:
    """Carries events from other threads into an event loop, which is woken once for all that have gathered."""

    def __init__(self) -> None:
        self._letters: deque[tuple[asyncio.Queue[Event], Event]] = deque()
        self._under_way = False

    def put(self, loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[Event], event: Event) -> None:
        self._letters.append((queue, event))
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
        while self._letters:
            queue, event = self._letters.popleft()
            queue.put_nowait(event)


_POSTS: WeakKeyDictionary[asyncio.AbstractEventLoop, _Post] = WeakKeyDictionary()
