"""What answers the requests that have been understood: an engine in this process, or replicas elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from setok.serving.delivery import events_of
from setok.serving.engine import Call, Engine, Event
from setok.serving.model import Card


class Backend(Protocol):
    """A model, wherever it runs."""

    async def card(self) -> Card:
        """What it is; comes once it is ready."""

    def run(self, call: Call) -> AsyncIterator[Event]:
        """Everything that a request gives, as it comes.

        Raises:
            OverloadedError: too much waits already.
            SetokError: the request cannot be answered.
        """


class LocalBackend:
    """An engine in this process, which must have been started."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def card(self) -> Card:
        return self.engine.model.card

    def run(self, call: Call) -> AsyncIterator[Event]:
        return events_of(self.engine, call)

    async def stop(self, timeout_s: float) -> None:
        """Answer what was taken, and take no more."""
        await asyncio.to_thread(self.engine.stop, timeout_s=timeout_s)
