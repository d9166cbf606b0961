"""Prompts that join others under way and leave them: every reply is what it would have been alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from setok.errors import ConfigError, DataError
from setok.models.generation import (
    Continuation,
    Event,
    Finished,
    GenerationOptions,
    ImageEnd,
    ImageToken,
    MaskFound,
    TextToken,
    stream,
)
from setok.models.setokim import Setokim
from tests.generation import PROMPTS, SEEDS, WILD, batch_of, model_of

VARIED = (
    GenerationOptions(**WILD),
    GenerationOptions(mode="picture", sampling_steps=2, guidance=2.0, max_image_tokens=4),
    GenerationOptions(mode="text", temperature=1.0, top_k=5, max_new_tokens=9),
    GenerationOptions(mode="mask"),
)
"""Options of the four prompts; no two are alike. The second prompt has no picture, so it is drawn."""


@pytest.fixture(scope="module")
def model() -> Setokim:
    return model_of()


@pytest.fixture(scope="module")
def alone(model: Setokim) -> list[list[Event]]:
    """What every prompt gives by itself."""
    batches = [batch_of(model, [prompt]) for prompt in PROMPTS]
    return [list(stream(model, b, o, seeds=[s])) for b, o, s in zip(batches, VARIED, SEEDS, strict=True)]


def same_events(found: list[Event], wanted: list[Event]) -> None:
    assert [type(event) for event in found] == [type(event) for event in wanted]
    for a, b in zip(found, wanted, strict=True):
        if isinstance(a, TextToken) and isinstance(b, TextToken):
            assert a.token == b.token
        elif isinstance(a, ImageToken) and isinstance(b, ImageToken):
            torch.testing.assert_close(a.token, b.token, atol=1e-3, rtol=1e-3)
        elif isinstance(a, ImageEnd) and isinstance(b, ImageEnd):
            torch.testing.assert_close(a.tokens, b.tokens, atol=1e-3, rtol=1e-3)
        elif isinstance(a, MaskFound) and isinstance(b, MaskFound):
            torch.testing.assert_close(a.logits, b.logits, atol=1e-3, rtol=1e-3)
        elif isinstance(a, Finished) and isinstance(b, Finished):
            assert a.reason == b.reason


def test_one_batch_may_have_options_of_every_kind(model: Setokim, alone: list[list[Event]]) -> None:
    going = Continuation(model)
    joined = going.join(batch_of(model), VARIED, seeds=SEEDS)
    assert [one.row for one in joined] == [0, 1, 2, 3]
    assert [one.num_visual > 0 for one in joined] == [True, False, True, True]
    events = []
    while len(going):
        events += list(going.step())
    for row, wanted in enumerate(alone):
        same_events([event for event in events if event.row == row], wanted)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    starts=st.lists(st.integers(0, 6), min_size=4, max_size=4),
    leaves=st.dictionaries(st.integers(0, 3), st.integers(1, 4), max_size=2),
    use_cache=st.booleans(),
)
def test_a_reply_is_the_same_whenever_others_come_and_go(
    model: Setokim, alone: list[list[Event]], starts: list[int], leaves: dict[int, int], use_cache: bool
) -> None:
    """``leaves`` has the prompts that are given up, after so many steps of their own."""
    going = Continuation(model, use_cache=use_cache)
    row_of: dict[int, int] = {}
    heard: dict[int, list[Event]] = {index: [] for index in range(4)}
    for moment in range(200):
        for index in [i for i in range(4) if starts[i] == moment]:
            guided = VARIED[index].guidance != 1.0
            batch = batch_of(model, [PROMPTS[index]])
            unguided = batch_of(model, [("x", ["</s>"])]) if guided else None
            (one,) = going.join(batch, [VARIED[index]], seeds=[SEEDS[index]], unguided=unguided)
            row_of[one.row] = index
        for event in list(going.step()):
            heard[row_of[event.row]].append(event)
        gone = [r for r, index in row_of.items() if starts[index] + leaves.get(index, 1000) == moment]
        going.leave(gone)
        if moment >= max(starts) and not len(going):
            break
    for index in set(range(4)) - set(leaves):
        batch = batch_of(model, [PROMPTS[index]])
        unguided = batch_of(model, [("x", ["</s>"])]) if VARIED[index].guidance != 1.0 else None
        wanted = list(stream(model, batch, VARIED[index], seeds=[SEEDS[index]], unguided=unguided))
        same_events(heard[index], wanted)
    assert len(alone) == 4


def test_room_is_made_when_a_row_ends(model: Setokim) -> None:
    going = Continuation(model)
    long = batch_of(model, [PROMPTS[2]])
    short = batch_of(model, [PROMPTS[1]])
    going.join(long, [GenerationOptions(mode="text", max_new_tokens=2)], seeds=[0])
    wide = going.num_places
    going.join(short, [GenerationOptions(mode="text", max_new_tokens=40, stop_ids=(10**6,))], seeds=[0])
    assert going.num_places == wide
    while len(going) == 2:
        list(going.step())
    assert going.num_places < wide, "the places in front of the short row are gone with the long one"
    going.leave([1, 7])
    assert len(going) == 0
    assert going.num_places == 0
    assert list(going.step()) == []


def test_a_prompt_that_cannot_join_changes_nothing(model: Setokim) -> None:
    going = Continuation(model)
    batch, options = batch_of(model, [PROMPTS[0]]), GenerationOptions(mode="text", max_new_tokens=3)
    going.join(batch, [options], seeds=[0])
    with pytest.raises(DataError, match="row 0 has none"):
        going.join(batch_of(model, [PROMPTS[1]]), [GenerationOptions(mode="mask")], seeds=[0])
    with pytest.raises(ConfigError, match="1 rows and 2 options"):
        going.join(batch, [options, options], seeds=[0])
    with pytest.raises(ConfigError, match="1 rows and 0 seeds"):
        going.join(batch, [options], seeds=[])
    assert len(going) == 1
    tokens = []
    while len(going):
        tokens += [event.token for event in going.step() if isinstance(event, TextToken)]
    assert tokens == [event.token for event in stream(model, batch, options, seeds=[0]) if isinstance(event, TextToken)]


def test_layers_with_a_window_take_others_only_when_they_are_done() -> None:
    model = model_of(family="mistral")
    model.language_model.base.config.sliding_window = 4
    going = Continuation(model)
    options = GenerationOptions(mode="text", max_new_tokens=2)
    assert going.can_be_joined
    going.join(batch_of(model), [options] * 4, seeds=SEEDS)
    assert not going.can_be_joined
    with pytest.raises(ConfigError, match=r"have a window(.|\n)*wait until the continuation is empty"):
        going.join(batch_of(model), [options] * 4, seeds=SEEDS)
    while len(going):
        list(going.step())
    going.join(batch_of(model), [options] * 4, seeds=SEEDS)
    assert len(going) == 4
