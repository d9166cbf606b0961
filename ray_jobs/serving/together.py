"""Several replies to one request, told as they come: all of them, or none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


async def together(replies: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """What several replies give as it comes, each with the number of its reply; nothing before all have begun.

    So a request is taken as a whole or refused as a whole. Where one reply fails, what it raised is raised here; however this
    ends, the replies that are under way are given up before it has ended.
    """
    if len(replies) == 1:  # as nearly all are: without a task and a queue
        async with aclosing(replies[0]) as events:
            async for event in events:
                yield 0, event
        return
    heard: asyncio.Queue[tuple[int, T | Exception | None]] = asyncio.Queue()

    async def listen(number: int, events: AsyncGenerator[T, None]) -> None:
        """Pass on what a reply gives, and then ``None``, or why it failed."""
        try:
            async with aclosing(events):
                async for event in events:
                    heard.put_nowait((number, event))
        except Exception as error:
            heard.put_nowait((number, error))
        else:
            heard.put_nowait((number, None))

    tasks = [asyncio.create_task(listen(number, events)) for number, events in enumerate(replies)]
    silent, going = set(range(len(replies))), len(replies)
    held: list[tuple[int, T]] = []
    try:
        while going:
            number, told = await heard.get()
            if isinstance(told, Exception):
                raise told
            silent.discard(number)
            if told is None:
                going -= 1
            else:
                held.append((number, told))
            if not silent:
                for one in held:
                    yield one
                held.clear()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
