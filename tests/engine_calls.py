"""Questions to an engine of the server, and what it answers."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import pytest

from setok.data.schema import Turn
from setok.models.generation import GenerationOptions
from setok.predictor import Ask, Ended
from setok.serving.engine import Engine, Event, Failed
from setok.serving.model import Seen
from tests.sequences import noise_picture
from tests.served import started_engine

FREE = GenerationOptions(max_new_tokens=20, temperature=1.0, sampling_steps=2)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with started_engine() as started:
        yield started


def ask(words: str = "what is it?", *, seed: int = 0, options: GenerationOptions = FREE, pictures: int = 1) -> Ask:
    slots = "<image>" * pictures
    return Ask(
        conversation=[Turn(role="user", text=f"{slots}{words}")],
        pictures=[noise_picture(index + seed) for index in range(pictures)],
        options=options,
        seed=seed,
    )


def answer(engine: Engine, call: Any) -> list[Event]:
    heard: queue.Queue[Event] = queue.Queue()
    engine.submit(call, heard.put)
    events = []
    while not events or not isinstance(events[-1], (Ended, Seen, Failed)):
        events.append(heard.get(timeout=30))
    return events
