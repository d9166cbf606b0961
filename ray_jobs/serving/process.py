"""The model in a process of its own, without Ray.

Python runs one thread of a process at a time: beside the web server the model would wait while requests are read and answers
written. Both sides send from a thread of their own what has gathered meanwhile, so that neither waits for the other, and many
small messages cost little more than one. What goes through the pipe is ours on both ends; nothing that clients send is unpickled.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, cast

import torch

from ray_jobs import launch
from setok.children import deaf_to_interrupts
from setok.config import ServeConfig
from setok.errors import OverloadedError, SetokError
from setok.serving.delivery import events_of
from setok.serving.engine import LAST, Call, Engine, Event, Failed, Ticket
from setok.serving.memory import keep_freed_memory
from setok.serving.model import Card, ServedModel

_STOP = -1
"""Stands for the number of a request where the engine is to stop."""


class ModelProcess:
    """An engine in another process, which takes requests as one in this process does (``Backend``).

    Args:
        config: what is loaded, on which device, and how much goes through it at once.

    Raises:
        SetokError: there is no such model, or the process ended before it was ready.
    """

    def __init__(self, config: ServeConfig) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve_model, args=(theirs, config), name="model")
        with deaf_to_interrupts():
            self._process.start()
        theirs.close()
        self._delivers: dict[int, Callable[[Event], object]] = {}
        self._next, self._lock = 0, threading.Lock()
        self._ended, self._stopping = False, False
        self.on_lost: Callable[[], None] = lambda: None
        """Is called, in another thread, when the process has ended unasked."""
        try:
            self._card = self._wait_until_ready()
        except BaseException:  # Ctrl-C too: otherwise Python waits for the process before it ends
            self._process.kill()
            raise
        self._outbox = _Outbox(self._connection)
        threading.Thread(target=self._receive, name="model-events", daemon=True).start()

    def _wait_until_ready(self) -> Card:
        try:
            first = _receive_from(self._connection)
        except EOFError:
            self._process.join()
            raise SetokError(
                f"the model's process ended with exit code {self._process.exitcode}",
                "its message is above; -9 is what the system does where memory runs out",
            ) from None
        if isinstance(first, Failed):
            self._process.join()
            raise first.error
        return cast(Card, first)

    # ------------------------------------------------------------ as a backend

    async def card(self) -> Card:
        """What the model is."""
        return self._card

    def run(self, call: Call) -> AsyncIterator[Event]:
        """Everything that a request gives, as it comes."""
        return events_of(self, call)

    # ------------------------------------------------------------ as an engine

    def submit(self, call: Call, deliver: Callable[[Event], object]) -> int:
        """Take a request; whether it can be answered is told by ``deliver``, which is called in another thread.

        Raises:
            OverloadedError: the process has ended.
        """
        with self._lock:
            if self._ended:
                raise _lost()
            self._next += 1
            number = self._next
            self._delivers[number] = deliver
        self._outbox.put((number, call))
        return number

    def cancel(self, ticket: int) -> None:
        """Nothing more is delivered."""
        with self._lock:
            known = self._delivers.pop(ticket, None)
        if known is not None:
            self._outbox.put((ticket, None))

    def stop(self, *, timeout_s: float) -> None:
        """Take no more, wait until everything that was taken is answered or the time is up, and end the process."""
        self._stopping = True
        self._outbox.put((_STOP, timeout_s))
        self._process.join(timeout_s + 5)
        self._process.kill()
        self._process.join()

    @property
    def exitcode(self) -> int | None:
        """Of the process, as ``multiprocessing`` gives it: below 0 for a signal; ``None`` while it runs."""
        return self._process.exitcode

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return self._process.pid

    def _receive(self) -> None:
        """Pass on what comes; when the process has ended, tell everyone who waits."""
        try:
            while True:
                for number, event in _receive_from(self._connection):
                    over = isinstance(event, LAST)
                    deliver = self._delivers.pop(number, None) if over else self._delivers.get(number)
                    if deliver is not None:
                        _tell(deliver, event)
        except (EOFError, OSError):
            pass
        with self._lock:
            self._ended = True
            waiting = list(self._delivers.values())
        for deliver in waiting:
            _tell(deliver, Failed(error=_lost()))
        if not self._stopping:
            self._process.join()
            self.on_lost()


def _tell(deliver: Callable[[Event], object], event: Event) -> None:
    with suppress(RuntimeError):  # the event loop of whoever asked is closed
        deliver(event)


def _lost() -> OverloadedError:
    return OverloadedError("the model's process has ended", "send the request again a little later")


# ---------------------------------------------------------------- the pipe


class _Outbox:
    """Sends from a thread of its own, in one piece what has gathered; ``put`` never waits."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._messages: SimpleQueue[tuple[int, Any] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def put(self, message: tuple[int, Any]) -> None:
        self._messages.put(message)

    def close(self) -> None:
        """Send what there is, and end."""
        self._messages.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            gathered = [self._messages.get()]
            while not self._messages.empty():
                gathered.append(self._messages.get())
            messages = [message for message in gathered if message is not None]
            try:
                _send_to(self._connection, messages)
            except OSError:  # nobody is there any more
                return
            if len(messages) < len(gathered):
                return


def _send_to(connection: Connection, what: Any) -> None:
    # Not connection.send, with which torch would put every tensor into shared memory.
    connection.send_bytes(pickle.dumps(what, protocol=pickle.HIGHEST_PROTOCOL))


def _receive_from(connection: Connection) -> Any:
    return pickle.loads(connection.recv_bytes())


# ---------------------------------------------------------------- the other process


def _serve_model(connection: Connection, config: ServeConfig) -> None:
    """What the process does: load, say that it is ready, and answer until it is told to stop or nobody asks any more."""
    signal.signal(
        signal.SIGTERM, signal.SIG_IGN
    )  # a service manager tells all processes; this one waits for its parent
    keep_freed_memory()
    launch.setup_logging()
    torch.set_num_threads(config.replicas.threads)
    try:
        device = "cuda" if config.replicas.gpus else "cpu"
        model = ServedModel.load(config.checkpoint, name=config.served_name, device=device)
        engine = Engine(model, config.batching)
        engine.start()
    except SetokError as error:
        _send_to(connection, Failed(error=error))
        return
    _send_to(connection, model.card)
    outbox = _Outbox(connection)
    engine.stop(timeout_s=_answer(connection, engine, outbox))
    outbox.close()


def _answer(connection: Connection, engine: Engine, outbox: _Outbox) -> float:
    """Hand requests to the engine; gives how long it may take to stop, once it is to."""
    tickets: dict[int, Ticket] = {}
    over: deque[int] = deque()
    """Requests that have got their last event, in the engine's thread; their tickets are thrown away here."""

    def deliver_of(number: int) -> Callable[[Event], object]:
        def deliver(event: Event) -> None:
            if isinstance(event, LAST):
                over.append(number)
            outbox.put((number, _portable(event)))

        return deliver

    while True:
        try:
            messages = _receive_from(connection)
        except (EOFError, OSError):
            return 0.0
        while over:
            tickets.pop(over.popleft(), None)
        for number, what in messages:
            if number == _STOP:
                return float(what)
            if what is None:
                ticket = tickets.pop(number, None)
                if ticket is not None:
                    engine.cancel(ticket)
                continue
            try:
                tickets[number] = engine.submit(what, deliver_of(number))
            except SetokError as error:
                outbox.put((number, Failed(error=error)))


def _portable(event: Event) -> Event:
    """The event as it can travel: errors that are not ours may hold anything."""
    if isinstance(event, Failed) and not isinstance(event.error, SetokError):
        return Failed(error=RuntimeError(f"{type(event.error).__name__}: {event.error}"))
    return event
