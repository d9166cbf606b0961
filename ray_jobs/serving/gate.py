"""What every request passes: who it is from, how often they may, how large it is; and a line in the log without what is in it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ray_jobs.serving.draining import Traffic
from ray_jobs.serving.errors import Problem
from ray_jobs.serving.figures import Figures
from setok.config import ServeConfig
from setok.serving.keys import ANONYMOUS, ApiKeys, RateLimit

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
STOPPED_RETRY_AFTER_S = 5
"""For another server to have started."""
_IDS = random.Random()
GUARDED = "/v1/"
"""Paths that begin so need a key, where there are keys; the others tell nothing that is worth one."""


class Gate:
    """An ASGI application around another one.

    Args:
        keys: empty to let everyone in.
        rate: of every key, or of all the others together where there are no keys.
        traffic: counts what is let in, and says when nothing more is.
        route_of: the pattern of a request's path, for those that are not let in.
    """

    def __init__(
        self,
        inner: Application,
        config: ServeConfig,
        keys: ApiKeys,
        rate: RateLimit,
        figures: Figures,
        traffic: Traffic,
        route_of: Callable[[Scope], str | None],
    ) -> None:
        self.traffic, self.route_of = traffic, route_of
        self.inner, self.keys, self.rate, self.figures = inner, keys, rate, figures
        self.max_body_bytes, self.timeout_s = config.limits.max_body_bytes, config.limits.request_timeout_s
        self.logs = config.server.log_level == "info"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        started, request_id = time.perf_counter(), unique_id()
        scope.setdefault("state", {})["request_id"] = request_id
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *HEADERS, (b"x-request-id", request_id.encode())]
            await send(message)

        name = ANONYMOUS
        try:
            with self.figures.in_progress.track_inprogress():
                name, problem = self._admit(scope)
                if problem is None:
                    problem = await self._let_in(scope, receive, answer)
                if problem is not None:
                    await problem.response()(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", None) or self.route_of(scope) or "other"
            self.figures.requests.labels(route, str(status)).inc()
            self.figures.seconds.labels(route).observe(seconds)
            if self.logs:
                logger.info(
                    "%s %s %d %.0f ms key=%s id=%s", scope["method"], route, status, 1000 * seconds, name, request_id
                )

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> Problem | None:
        """Have a request answered, unless there is something wrong with its body."""
        counts = scope["path"].startswith(GUARDED)
        self.traffic.under_way += counts
        try:
            body, problem = await self._body(scope, receive)
            if problem is None:
                await self.inner(scope, _replay(body, receive), send)
            return problem
        finally:
            self.traffic.under_way -= counts

    def _admit(self, scope: Scope) -> tuple[str, Problem | None]:
        """Whose request it is, and why it is not let in."""
        if self.traffic.stopping and (scope["path"].startswith(GUARDED) or scope["path"] == "/ready"):
            return ANONYMOUS, Problem(
                status=503,
                kind="server_error",
                code="stopping",
                message="the server is about to end: send the request again a little later",
                retry_after=STOPPED_RETRY_AFTER_S,
            )
        if not scope["path"].startswith(GUARDED) or scope["method"] == "OPTIONS":
            return ANONYMOUS, None
        name = ANONYMOUS
        if len(self.keys):
            found = self.keys.name_of(_bearer(scope))
            if found is None:
                return ANONYMOUS, Problem(
                    status=401,
                    kind="authentication_error",
                    code="invalid_api_key",
                    message="no key, or one that is not known: send Authorization: Bearer KEY",
                )
            name = found
        wait = self.rate.wait_for(name)
        if wait:
            return name, Problem(
                status=429,
                kind="rate_limit_error",
                code="rate_limit_exceeded",
                message=f"too many requests of this key; the next one in {wait:.1f} s",
                retry_after=wait,
            )
        return name, None

    async def _body(self, scope: Scope, receive: Receive) -> tuple[bytes, Problem | None]:
        """The whole body, unless it is too large or comes too slowly."""
        too_large = Problem(
            status=413,
            kind="invalid_request_error",
            code="body_too_large",
            message=f"the body is above {self.max_body_bytes} bytes: send fewer or smaller pictures",
        )
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > self.max_body_bytes:
            return b"", too_large
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.timeout_s):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return b"", Problem(status=499, kind="invalid_request_error", message="the client has left")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self.max_body_bytes:
                        return b"", too_large
                    if not message.get("more_body", False):
                        return b"".join(parts), None
        except TimeoutError:
            return b"", Problem(
                status=408, kind="invalid_request_error", code="timeout", message="the body did not come in time"
            )


def unique_id() -> str:
    """A name for a request or a reply; nothing rests on its being secret."""
    return f"{_IDS.getrandbits(128):032x}"


def _bearer(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, key = value.decode("latin-1").partition(" ")
            return key.strip() if kind.lower() == "bearer" else ""
    return ""


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once more, then whatever comes after it."""
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
