"""The model in a process of its own: it answers as it would in ours, what goes wrong there is raised here, and nobody waits for a
process that has ended."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from ray_jobs.serving.process import ModelProcess, _answer, _Outbox, _portable, _receive_from, _send_to
from setok.data.schema import Turn
from setok.errors import CheckpointError, ConfigError, DataError, OverloadedError
from setok.export import SETTINGS, PredictorSettings
from setok.models.generation import GenerationOptions
from setok.predictor import Ask, Ended, MaskPart, TextPart
from setok.serving.engine import Call, Engine, Event, Failed, Ticket
from setok.serving.model import Look, Seen
from tests.sequences import noise_picture
from tests.served import NAME, predictor, serve_config

FREE = GenerationOptions(max_new_tokens=20, temperature=1.0, sampling_steps=2)
LONG = GenerationOptions(mode="text", max_new_tokens=150, stop_ids=(10**6,))


def ask(*, seed: int = 0, options: GenerationOptions = FREE) -> Ask:
    talk = [Turn(role="user", text=f"<image>what is {seed}?")]
    return Ask(conversation=talk, pictures=[noise_picture(seed)], options=options, seed=seed)


async def events_of(model: ModelProcess, call: Call) -> list[Event]:
    return [event async for event in model.run(call)]


def test_it_answers_as_the_model_would_here_until_it_is_killed(tmp_path: Path) -> None:
    predictor().model.save_pretrained(tmp_path)
    (tmp_path / SETTINGS).write_text(PredictorSettings(sequence=predictor().sequence).model_dump_json())
    model = ModelProcess(serve_config(checkpoint=str(tmp_path), model_name=NAME))
    lost = threading.Event()
    model.on_lost = lost.set
    try:
        assert model.exitcode is None
        asyncio.run(everything(model))
        assert lost.wait(60)
        assert model.exitcode == -signal.SIGKILL
        with pytest.raises(OverloadedError, match="the model's process has ended"):
            asyncio.run(events_of(model, ask()))
    finally:
        model.stop(timeout_s=20)


async def everything(model: ModelProcess) -> None:
    assert (await model.card()).name == NAME
    modes = ("free", "text", "picture", "mask")
    calls = [ask(seed=n, options=GenerationOptions(**vars(FREE) | {"mode": modes[n % 4]})) for n in range(8)]
    look = Look(pixels=np.zeros((3, 32, 32), np.uint8), paint=True)
    *replies, seen = await asyncio.gather(*(events_of(model, call) for call in [*calls, look]))
    for call, events in zip(calls, replies, strict=True):
        (wanted,) = predictor().chat([call.conversation], [call.pictures], options=call.options, seeds=[call.seed])
        assert isinstance(events[-1], Ended)
        assert "".join(event.text for event in events if isinstance(event, TextPart)).strip() == wanted.text.strip()
        masks = [event.mask for event in events if isinstance(event, MaskPart)]
        assert len(masks) == len(wanted.masks)
        assert all(torch.equal(one, other) for one, other in zip(masks, wanted.masks, strict=True))
    assert isinstance(seen[0], Seen) and seen[0].painted is not None
    with pytest.raises((DataError, ConfigError), match="row 0 has none"):
        await events_of(model, Ask(conversation=[Turn(role="user", text="a")], options=GenerationOptions(mode="mask")))

    assert model.pid is not None
    long = model.run(ask(options=LONG))
    assert isinstance(await anext(long), TextPart)
    os.kill(model.pid, signal.SIGTERM)  # as a terminal sends it to all processes: it goes on
    assert isinstance(await anext(long), TextPart)
    os.kill(model.pid, signal.SIGKILL)
    with pytest.raises(OverloadedError, match="the model's process has ended"):
        async for _ in long:
            pass


def test_what_cannot_be_loaded_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing-here"):
        ModelProcess(serve_config(checkpoint=str(tmp_path / "nothing-here"), model_name=NAME))


class Recorder(Engine):
    """Says one word to every request, and refuses the second."""

    def __init__(self) -> None:
        self.cancelled: list[Ticket] = []
        self.taken: list[Ticket] = []

    def submit(self, call: Call, deliver: Callable[[Event], object]) -> Ticket:
        if self.taken:
            raise OverloadedError("full")
        self.taken.append(Ticket(call, deliver))
        deliver(TextPart(text="a"))
        return self.taken[-1]

    def cancel(self, ticket: Ticket) -> None:
        self.cancelled.append(ticket)


def test_the_other_side_takes_refuses_gives_up_and_stops_when_told() -> None:
    ours, theirs = multiprocessing.Pipe()
    engine, outbox = Recorder(), _Outbox(theirs)
    _send_to(ours, [(1, ask()), (2, ask(seed=2))])
    _send_to(ours, [(1, None), (2, None), (7, None)])
    _send_to(ours, [(-1, 3.5)])
    assert _answer(theirs, engine, outbox) == 3.5
    outbox.close()
    theirs.close()
    told: list[tuple[int, Event]] = []
    with suppress(EOFError):
        while True:
            told += _receive_from(ours)
    assert told[0] == (1, TextPart(text="a"))
    assert told[1][0] == 2 and isinstance(told[1][1], Failed) and str(told[1][1].error) == "full"
    assert len(told) == 2
    assert engine.cancelled == engine.taken and len(engine.taken) == 1


def test_the_other_side_ends_when_nobody_asks_any_more() -> None:
    ours, theirs = multiprocessing.Pipe()
    ours.close()
    assert _answer(theirs, Recorder(), _Outbox(theirs)) == 0.0


def test_messages_that_gather_travel_together_and_in_order() -> None:
    ours, theirs = multiprocessing.Pipe()
    outbox = _Outbox(ours)
    for number in range(20_000):  # more than the pipe holds: put waits for nobody
        outbox.put((number, "x" * 50))
    pieces: list[list[tuple[int, str]]] = []
    while sum(map(len, pieces)) < 20_000:
        pieces.append(_receive_from(theirs))
    outbox.close()
    assert [number for piece in pieces for number, _ in piece] == list(range(20_000))
    assert len(pieces) < 20_000


def test_an_error_that_cannot_travel_is_told_in_words() -> None:
    class Local(Exception):
        """Cannot be pickled."""

    told = _portable(Failed(error=Local("no memory")))
    assert isinstance(told, Failed) and str(told.error) == "Local: no memory"
    ours = Failed(error=DataError("a", "b"))
    assert _portable(ours) is ours
