"""Work for a client: given up when the client hangs up, or when it takes too long; and streams of events, sent so.

Everything happens in the request's own task. A task more for every stream or every event would cost more than what it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import StreamingResponse

from ray_jobs.serving.errors import ClientGoneError, problem_of
from ray_jobs.serving.gate import Receive, Scope, Send
from ray_jobs.serving.replies import DONE, failure_line

T = TypeVar("T")


async def while_there(receive: Receive, work: Coroutine[Any, Any, T], *, timeout_s: float) -> T:
    """The result of some work.

    Args:
        receive: of the request, whose body has been read: it tells when the client hangs up.

    Raises:
        ClientGoneError: it did.
        TimeoutError: the work took too long.
    """
    task = asyncio.current_task()
    assert task is not None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        task.cancel()

    watching = asyncio.create_task(watch())
    try:
        async with asyncio.timeout(timeout_s):
            return await work
    except asyncio.CancelledError:
        if left and task.uncancel() == 0:
            raise ClientGoneError from None
        raise
    finally:
        watching.cancel()


class EventStream(StreamingResponse):
    """Server-sent events. The first is waited for before the status is sent, so that what cannot be answered is refused with one.

    Args:
        lines: the events as they are sent; the last one is ``DONE``, or ends with it.
    """

    def __init__(self, lines: AsyncIterator[str], *, timeout_s: float) -> None:
        super().__init__(lines, media_type="text/event-stream", headers={"cache-control": "no-store"})
        self._lines, self._timeout_s = lines, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, unless the client hangs up."""
        begun = False

        async def send_lines() -> None:
            nonlocal begun
            async with aclosing(self._lines) as lines:  # type: ignore[type-var]
                async for line in lines:
                    if not begun:
                        begun = True
                        await send(
                            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                        )
                    await send(_body(line, more=not line.endswith(DONE)))

        try:
            await while_there(receive, send_lines(), timeout_s=self._timeout_s)
        except ClientGoneError:
            if not begun:
                raise
        except Exception as error:
            if not begun:
                raise
            await send(_body(failure_line(problem_of(error).body()), more=False))


def _body(text: str, *, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": text.encode(), "more_body": more}
