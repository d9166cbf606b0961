"""The one thread that a replica's model runs in: requests wait, join the batch when there is room, and leave when they are done.

What has come in is let in by the order in which it came, as long as rows and their longest place stay within the token budget
(``BatchingConfig``). Between two steps of the replies under way the pictures that are only to be tokenized have their turn.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from setok.config import BatchingConfig
from setok.data.schema import Turn
from setok.errors import OverloadedError, SetokError
from setok.models.generation import GenerationOptions
from setok.predictor import Ask, Ended, Session
from setok.predictor.replies import Part
from setok.serving.model import Look, Seen, ServedModel

logger = logging.getLogger(__name__)


PATIENCE = 4
"""Steps for which room is left empty at most, so that more can be read at once."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A request could not be answered."""

    error: Exception


Call = Ask | Look
Event = Part | Ended | Seen | Failed
"""What a request gives: parts and an end, or what was seen; or that it failed."""
LAST = (Ended, Seen, Failed)
"""After one of these nothing comes."""


@dataclass(eq=False)
class Ticket:
    """A request that was taken."""

    call: Call
    deliver: Callable[[Event], object]
    rows: int = 0
    places: int = 0
    """The most that it takes in the cache, by row."""
    cancelled: bool = False


class Engine:
    """Answers requests of one model in a thread of its own.

    Args:
        model: only the thread touches it.
        limits: how much goes through it at once.
    """

    def __init__(self, model: ServedModel, limits: BatchingConfig) -> None:
        self.model, self.limits = model, limits
        self.failure: Exception | None = None
        """What went wrong in a way that nobody asked for; the process had better be replaced."""
        self._waiting: deque[Ticket] = deque()
        self._running: dict[int, Ticket] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._held = 0
        """Steps for which room for several was left empty."""
        self._session = self._new_session()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # ------------------------------------------------------------ for other threads

    def start(self) -> None:
        """Warm the model up, and begin."""
        self._warm_up()
        self._thread.start()

    def submit(self, call: Call, deliver: Callable[[Event], object]) -> Ticket:
        """Take a request.

        Args:
            deliver: is called with everything that the request gives, in the engine's thread; it must not block.

        Raises:
            OverloadedError: too many wait already, or the engine has stopped.
            DataError, ConfigError: the request cannot be answered.
        """
        ticket = Ticket(call, deliver)
        if isinstance(call, Ask):
            inference = self.model.require_language().inference
            options = call.options or GenerationOptions()
            ticket.rows = 1 if options.guidance == 1.0 else 2
            drawn = 0 if options.mode in ("text", "mask") else self.model.card.clustering.num_tokens
            said = options.max_new_tokens if options.mode in ("free", "text") else 2
            ticket.places = inference.prompts.length_of(call.conversation) + said + drawn
        with self._changed:
            if self._stopping:
                raise OverloadedError("the server is stopping", "send the request again: another one will take it")
            if len(self._waiting) + len(self._running) >= self.limits.max_rows + self.limits.max_waiting:
                raise OverloadedError(
                    f"{len(self._waiting)} requests wait already, and batching.max_waiting={self.limits.max_waiting}",
                    "send the request again a little later",
                )
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Give a request up: nothing more is delivered. One that is complete already does not matter."""
        with self._changed:
            ticket.cancelled = True
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            self._changed.notify()

    @property
    def load(self) -> tuple[int, int]:
        """Requests that are being answered, and that wait."""
        with self._changed:
            return len(self._running), len(self._waiting)

    def stop(self, *, timeout_s: float) -> None:
        """Take no more, and wait until everything that was taken is answered, or the time is up."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._waiting or self._running)
                if self._stopping and not self._waiting and not self._running:
                    return
                gone = [number for number, ticket in self._running.items() if ticket.cancelled]
                for number in gone:
                    del self._running[number]
                looks, asks = self._admit()
            try:
                if gone and self._session is not None:
                    self._session.leave(gone)
                if looks:
                    self._look(looks)
                if asks:
                    self._join(asks)
                self._step()
            except Exception as error:
                logger.exception("the engine failed, and everything that was under way with it")
                self.failure = error
                with self._changed:
                    lost = [*looks, *asks, *self._running.values()]
                    self._running.clear()
                for ticket in lost:
                    self._deliver(ticket, Failed(error=error))
                self._session = self._new_session()

    def _admit(self) -> tuple[list[Ticket], list[Ticket]]:
        """What has its turn now: pictures of one setting to look at, and conversations for which there is room."""
        looks: list[Ticket] = []
        asks: list[Ticket] = []
        rows = sum(ticket.rows for ticket in self._running.values())
        longest = max((ticket.places for ticket in self._running.values()), default=0)
        full = self._session is None or not self._session.can_be_joined
        full = full or not self._is_worth_reading(rows)
        passed: list[Ticket] = []
        for ticket in self._waiting:
            call = ticket.call
            if isinstance(call, Look):
                first = looks[0].call if looks else call
                assert isinstance(first, Look)
                if len(looks) < self.limits.max_rows and call.clustering == first.clustering:
                    looks.append(ticket)
                else:
                    passed.append(ticket)
                continue
            after, reach = rows + ticket.rows, max(longest, ticket.places)
            fits = after <= self.limits.max_rows and after * reach <= self.limits.max_places
            if full or not (fits or rows == 0):
                full = True  # those behind it do not overtake
                passed.append(ticket)
                continue
            rows, longest = after, reach
            asks.append(ticket)
        self._waiting = deque(passed)
        return looks, asks

    def _is_worth_reading(self, rows: int) -> bool:
        """Whether those who wait are to be let in now.

        Reading few prompts takes nearly as long as reading many, and short replies end soon after each other: where there is not
        yet room for all, nor for half a batch, those who wait do so for the next ends, though not for long.
        """
        waiting = sum(isinstance(ticket.call, Ask) for ticket in self._waiting)
        room, most = self.limits.max_rows - rows, self.limits.max_rows
        if rows == 0 or room >= min(waiting, most * 3 // 4):
            self._held = 0
            return True
        if room < most // 8:
            return False
        self._held += 1
        if self._held <= PATIENCE:
            return False
        self._held = 0
        return True

    def _look(self, tickets: list[Ticket]) -> None:
        calls = [ticket.call for ticket in tickets if isinstance(ticket.call, Look)]
        try:
            seen = self.model.see(calls)
        except SetokError as error:
            for ticket in tickets:
                self._deliver(ticket, Failed(error=error))
            return
        for ticket, one in zip(tickets, seen, strict=True):
            self._deliver(ticket, one)

    def _join(self, tickets: list[Ticket]) -> None:
        """Begin replies; where one request spoils a batch, each by itself."""
        assert self._session is not None
        calls = [ticket.call for ticket in tickets if isinstance(ticket.call, Ask)]
        try:
            numbers = self._session.join(calls)
        except SetokError as error:
            if len(tickets) == 1:
                self._deliver(tickets[0], Failed(error=error))
                return
            for ticket in tickets:
                self._join([ticket])
            return
        with self._changed:
            self._running |= dict(zip(numbers, tickets, strict=True))

    def _step(self) -> None:
        for number, event in () if self._session is None else self._session.step():
            ticket = self._running[number]
            self._deliver(ticket, event)
            if isinstance(event, Ended):
                with self._changed:
                    del self._running[number]

    def _deliver(self, ticket: Ticket, event: Event) -> None:
        if ticket.cancelled:
            return
        try:
            ticket.deliver(event)
        except RuntimeError:  # the event loop of whoever asked is closed
            ticket.cancelled = True

    def _new_session(self) -> Session | None:
        """Of a tokenizer alone there is none."""
        predictor = self.model.predictor
        return None if predictor is None else Session(predictor.inference)

    def _warm_up(self) -> None:
        """Say, draw, point and tokenize once, so that the first request is not the one that waits."""
        size, predictor = self.model.card.image_size, self.model.predictor
        black = np.zeros((3, size, size), np.uint8)
        self.model.see([Look(pixels=black, paint=True)])
        if predictor is None:
            return
        session = Session(predictor.inference)
        talk = [Turn(role="user", text="<image>\na")]
        modes: list[Any] = ["text", "picture", *(["mask"] if self.model.card.points else [])]
        session.join(
            [
                Ask(conversation=talk, pictures=[black], options=GenerationOptions(mode=mode, max_new_tokens=2))
                for mode in modes
            ]
        )
        while len(session):
            session.step()
