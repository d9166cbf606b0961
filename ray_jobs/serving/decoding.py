"""Pictures are decoded a few at a time: once decoded, one of the largest that are taken fills a hundred megabytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

from setok.errors import OverloadedError

T = TypeVar("T")
AT_ONCE = 4
"""Pictures that are decoded at the same time; ``limits.max_image_pixels`` times so many are in memory at most."""


class Decoder:
    """Runs what decodes pictures in a few threads, and lets a bounded number of requests wait for them.

    Args:
        max_waiting: requests that may wait beside those whose pictures are being decoded.
    """

    def __init__(self, *, max_waiting: int) -> None:
        self._room, self._inside = AT_ONCE + max_waiting, 0
        self._free = asyncio.Semaphore(AT_ONCE)
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="decode")

    @contextmanager
    def place(self) -> Iterator[None]:
        """For one request, from its first picture to its last.

        Raises:
            OverloadedError: as many are inside as may be.
        """
        if self._inside >= self._room:
            raise OverloadedError("as many pictures wait as may", "send the request again a little later")
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    async def run(self, decode: Callable[..., T], *arguments: object) -> T:
        """The result of a function, which is called in a thread once one is free.

        The thread of a request that is given up ends in its own time, and counts until then.
        """
        loop = asyncio.get_running_loop()

        def release(_: object) -> None:
            with suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(self._free.release)

        await self._free.acquire()
        future = self._threads.submit(decode, *arguments)
        future.add_done_callback(release)
        return await asyncio.wrap_future(future)
