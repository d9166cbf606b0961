"""The engine: replies as the predictor gives them, whoever else asks; a budget, an end to the queue, and nothing that is lost."""

from __future__ import annotations

import queue
import threading
from typing import Any

import numpy as np
import pytest
import torch

from setok.config import BatchingConfig
from setok.data.processor import SeTokImageProcessor
from setok.data.schema import Turn
from setok.errors import CheckpointError, DataError, OverloadedError
from setok.models.generation import GenerationOptions
from setok.models.tokenizer import SeTok
from setok.predictor import Ask, Ended, MaskPart, PicturePart, TextPart
from setok.serving.engine import PATIENCE, Engine, Event, Failed, Ticket
from setok.serving.model import Look, Seen, ServedModel
from tests.engine_calls import FREE, answer, ask, engine
from tests.sequences import noise_picture, setok_config
from tests.served import NAME, predictor, serve_config, served_model, started_engine

__all__ = ["engine"]


def test_many_at_once_each_get_what_the_predictor_would_say(engine: Engine) -> None:
    modes = ("free", "text", "picture", "mask")
    calls = [
        ask(f"what is {number}?", seed=number, options=GenerationOptions(**vars(FREE) | {"mode": modes[number % 4]}))
        for number in range(12)
    ]
    heard: list[list[Event]] = [[] for _ in calls]
    done = threading.Semaphore(0)

    def take(number: int, event: Event) -> None:
        heard[number].append(event)
        if isinstance(event, Ended):
            done.release()

    for number, call in enumerate(calls):
        engine.submit(call, lambda event, number=number: take(number, event))  # type: ignore[misc]
    for _ in calls:
        assert done.acquire(timeout=60)
    for call, events in zip(calls, heard, strict=True):
        (wanted,) = predictor().chat([call.conversation], [call.pictures], options=call.options, seeds=[call.seed])
        end = events[-1]
        assert isinstance(end, Ended)
        assert end.reason == wanted.reason
        assert "".join(part.text for part in events if isinstance(part, TextPart)).strip() == wanted.text
        drawn = [part.pixels for part in events if isinstance(part, PicturePart)]
        for a, b in zip(drawn, wanted.pictures, strict=True):
            assert (a.int() - b.int()).abs().max() <= 2
        masks = [part.mask for part in events if isinstance(part, MaskPart)]
        assert all(torch.equal(a, b) for a, b in zip(masks, wanted.masks, strict=True))
        assert end.visual_tokens == sum(part.num_tokens for part in events if isinstance(part, PicturePart))
        counts = predictor().model.tokenizer.tokenize(torch.stack(list(call.pictures))).counts  # type: ignore[arg-type]
        assert end.prompt_visual_tokens == int(counts.sum())
        assert end.prompt_tokens > end.prompt_visual_tokens


def test_pictures_are_looked_at_between_the_steps(engine: Engine) -> None:
    pixels = [noise_picture(number).numpy() for number in range(5)]
    tokenizer = predictor().model.tokenizer
    tight = tokenizer.config.clustering.model_copy(update={"max_tokens": 2})
    for clustering in (None, tight):
        for one in pixels:
            (seen,) = answer(engine, Look(pixels=one, clustering=clustering, paint=True))
            assert isinstance(seen, Seen)
            visual = tokenizer.tokenize(torch.from_numpy(one)[None], clustering)
            assert seen.assignment.tolist() == visual.assignment[0].tolist()
            np.testing.assert_allclose(seen.tokens, visual.tokens[0, : visual.counts[0]].detach(), atol=1e-4)
            painted = tokenizer.reconstruct(torch.from_numpy(one)[None], clustering)[0].numpy()
            assert seen.painted is not None
            assert np.abs(seen.painted.astype(int) - painted).max() <= 1
    (seen,) = answer(engine, Look(pixels=pixels[0]))
    assert isinstance(seen, Seen)
    assert seen.painted is None


def test_stop_texts_end_a_reply_and_its_row(engine: Engine) -> None:
    options = GenerationOptions(mode="text", max_new_tokens=60, temperature=1.0)
    whole = "".join(part.text for part in answer(engine, ask(options=options)) if isinstance(part, TextPart))
    stop = whole[10:13]
    call = ask(options=options)
    events = answer(engine, Ask(**vars(call) | {"stop": (stop,)}))
    said = "".join(part.text for part in events if isinstance(part, TextPart))
    assert said == whole[: whole.index(stop)]
    end = events[-1]
    assert isinstance(end, Ended)
    assert end.reason == "stop"
    assert engine.load == (0, 0)


# ------------------------------------------------------------ room


@pytest.mark.parametrize(("max_rows", "budget", "expected"), [(3, 100.0, 3), (8, 2.5, 2), (8, 4.0, 4)])
def test_rows_and_places_stay_within_the_budget(max_rows: int, budget: float, expected: int) -> None:
    """``budget`` is in requests of the test's size, and ``expected`` the rows that fit."""
    options = GenerationOptions(mode="text", max_new_tokens=30, stop_ids=(10**6,))
    calls = [ask("a " * 20, seed=number, options=options) for number in range(6)]
    places = int(budget * (predictor().inference.prompts.length_of(calls[0].conversation) + 30))
    engine = Engine(served_model(), BatchingConfig(max_rows=max_rows, max_places=places))
    session = engine._session
    assert session is not None
    seen, step = [], session.step

    def watched() -> Any:
        seen.append((len(session), session.num_places))
        return step()

    session.step = watched  # type: ignore[method-assign]
    heard: queue.Queue[Event] = queue.Queue()
    for call in calls:
        engine.submit(call, heard.put)
    engine.start()
    engine.stop(timeout_s=60)
    assert sum(isinstance(event, Ended) for event in heard.queue) == 6
    assert max(rows for rows, _ in seen) == expected
    assert all(rows * wide <= places for rows, wide in seen)


def test_a_request_beyond_the_budget_runs_alone() -> None:
    with started_engine(serve_config(batching__max_places=1)) as engine:
        assert isinstance(answer(engine, ask())[-1], Ended)
        guided = GenerationOptions(mode="picture", guidance=2.0, sampling_steps=2)
        assert isinstance(answer(engine, ask(options=guided))[-1], Ended)


def test_more_than_may_wait_are_sent_away_and_the_others_answered() -> None:
    engine = Engine(served_model(), BatchingConfig(max_rows=2, max_waiting=3))
    heard: queue.Queue[Event] = queue.Queue()
    for number in range(5):  # the thread does not run yet
        engine.submit(ask(seed=number), heard.put)
    with pytest.raises(OverloadedError, match=r"5 requests wait(.|\n)*a little later"):
        engine.submit(ask(), heard.put)
    assert engine.load == (0, 5)
    engine.start()
    ends = 0
    while ends < 5:
        ends += isinstance(heard.get(timeout=60), Ended)
    engine.stop(timeout_s=10)
    with pytest.raises(OverloadedError, match="is stopping"):
        engine.submit(ask(), heard.put)


def test_stopping_answers_what_was_taken() -> None:
    engine = Engine(served_model(), BatchingConfig(max_rows=1))
    heard: queue.Queue[Event] = queue.Queue()
    for number in range(3):
        engine.submit(ask(seed=number), heard.put)
    engine.start()
    engine.stop(timeout_s=60)
    assert sum(isinstance(event, Ended) for event in heard.queue) == 3


# ------------------------------------------------------------ what goes wrong


def test_one_that_cannot_be_answered_does_not_spoil_the_others() -> None:
    engine = Engine(served_model(), BatchingConfig())
    heard: dict[str, queue.Queue[Event]] = {name: queue.Queue() for name in ("good", "bad", "fine")}
    engine.submit(ask(), heard["good"].put)
    # Two slots and one picture: told only when the prompt is made.
    bad = Ask(conversation=[Turn(role="user", text="<image><image>a")], pictures=[noise_picture(0)], options=FREE)
    engine.submit(bad, heard["bad"].put)
    engine.submit(ask(seed=1), heard["fine"].put)
    engine.start()
    engine.stop(timeout_s=60)
    assert isinstance(heard["good"].queue[-1], Ended)
    assert isinstance(heard["fine"].queue[-1], Ended)
    (failed,) = heard["bad"].queue
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, DataError)
    assert "2 <image> slots and 1 pictures" in str(failed.error)
    assert engine.failure is None


def test_what_is_too_long_is_refused_at_once(engine: Engine) -> None:
    with pytest.raises(DataError, match="too long"):
        engine.submit(ask("a " * 400), lambda event: None)


def test_a_failure_of_the_model_reaches_everyone_and_is_remembered() -> None:
    engine = Engine(served_model(), BatchingConfig())
    engine.start()
    session = engine._session
    assert session is not None

    def broken() -> Any:
        raise RuntimeError("out of memory")

    session.step = broken  # type: ignore[method-assign]
    (failed,) = answer(engine, ask())
    assert isinstance(failed, Failed)
    assert "out of memory" in str(failed.error)
    assert isinstance(engine.failure, RuntimeError)
    assert isinstance(answer(engine, ask())[-1], Ended), "the next one is answered by a new session"
    engine.stop(timeout_s=10)


def test_a_tokenizer_alone_only_looks() -> None:
    torch.manual_seed(0)
    tokenizer = SeTok(setok_config()).eval().requires_grad_(False)
    with started_engine(model=ServedModel(NAME, tokenizer, None)) as engine:
        assert not engine.model.card.talks
        (seen,) = answer(engine, Look(pixels=noise_picture(0).numpy()))
        assert isinstance(seen, Seen)
        with pytest.raises(CheckpointError, match=r"without a language model(.|\n)*/v1/tokenize"):
            engine.submit(ask(), lambda event: None)


def test_a_served_picture_is_cut_as_the_predictor_cuts_it() -> None:
    """The ingress sends squares of the model's size; cutting them again changes nothing."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 71, 3), dtype=np.uint8)
    processor = SeTokImageProcessor(size=32, max_pixels=32**2)
    once = processor(pixels)["pixel_values"]
    assert torch.equal(once, processor(once)["pixel_values"])  # type: ignore[arg-type]


# ------------------------------------------------------------ who is let in


def waiting_engine(*, running: int, waiting: int, max_rows: int = 8) -> Engine:
    """One whose thread has not been started."""
    engine = Engine(served_model(), BatchingConfig(max_rows=max_rows))
    for number in range(running):
        engine._running[number] = Ticket(ask(), lambda event: None, rows=1, places=10)
    for _ in range(waiting):
        engine.submit(ask(), lambda event: None)
    return engine


@pytest.mark.parametrize(("running", "waiting", "let_in"), [(0, 20, 8), (2, 20, 6), (7, 1, 1), (5, 3, 3)])
def test_those_for_whom_there_is_room_are_let_in_at_once(running: int, waiting: int, let_in: int) -> None:
    assert len(waiting_engine(running=running, waiting=waiting)._admit()[1]) == let_in


def test_others_wait_for_the_next_ends_but_not_for_long() -> None:
    engine = waiting_engine(running=4, waiting=20)
    let_in = [len(engine._admit()[1]) for _ in range(PATIENCE + 1)]
    assert let_in == [0] * PATIENCE + [4]
    engine = waiting_engine(running=4, waiting=20)
    assert engine._admit() == ([], [])
    engine._running.clear()
    assert len(engine._admit()[1]) == 8  # and not four, and four more a step later
    assert all(waiting_engine(running=8, waiting=20)._admit() == ([], []) for _ in range(2 * PATIENCE))
