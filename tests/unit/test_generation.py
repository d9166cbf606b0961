"""Generation: the same with and without cache, alone and in a batch, and the same as reading what was said in training's way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from setok.batch import VisualTokens
from setok.errors import ConfigError, DataError
from setok.models.generation import (
    Finished,
    GenerationOptions,
    ImageEnd,
    ImageToken,
    MaskFound,
    Text,
    TextToken,
    choose_token,
    generate,
    stream,
)
from setok.models.setokim import Setokim
from setok.models.setokim_targets import EncodedImages
from tests.generation import PROMPTS, SEEDS, WILD, batch_of, model_of, same
from tests.sequences import Picture, Point, Say, noise_picture, sequence_batch, setokim, shaken


@pytest.fixture(scope="module")
def model() -> Setokim:
    return model_of()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("settings", [WILD, {"max_new_tokens": 12, "sampling_steps": 3, "guidance": 2.0}])
def test_cached_equals_uncached_and_batched_equals_single(family: str, settings: dict[str, Any]) -> None:
    model = model_of(family=family)
    options = GenerationOptions(**settings)
    together = generate(model, batch_of(model), options, seeds=SEEDS)
    uncached = generate(model, batch_of(model), replace(options, use_cache=False), seeds=SEEDS)
    for i, (one, other) in enumerate(zip(together, uncached, strict=True)):
        same(one, other)
        alone = generate(model, batch_of(model, [PROMPTS[i]]), options, seeds=[SEEDS[i]])
        same(one, alone[0])
    if settings is WILD and family == "llama":
        assert any(g.images for g in together) and any(g.masks for g in together) and any(g.ids for g in together)


def test_it_says_what_training_would_have_it_say(model: Setokim) -> None:
    """Read prompt and answer in one pass, as in training: the logits there choose the same tokens."""
    found = 0
    for i, prompt in enumerate(PROMPTS):
        batch = batch_of(model, [prompt])
        options = GenerationOptions(max_new_tokens=10, sampling_steps=2)
        (answer,) = generate(model, batch, options, seeds=[SEEDS[i]])
        parts, said, drawn = list(prompt[1]), [], []
        for segment in answer.segments:
            if isinstance(segment, Text):
                parts.append(Say(" ".join(model.text_tokenizer.convert_ids_to_tokens(list(segment.ids)))))
                said += segment.ids
            elif isinstance(segment, ImageEnd):
                parts.append(Picture(noise_picture(0), draw=True))
                said.append(model.image_start_id)
                drawn.append(segment.tokens)
            elif isinstance(segment, MaskFound):
                parts.append(Point(torch.zeros(32, 32, dtype=torch.bool)))
                said.append(model.segment_id)
        whole = batch_of(model, [("x", parts)])
        images = with_tokens(model.encode_images(whole.pixel_values), whole.image_is_target, drawn)
        rows = model.splice(whole, images)
        with torch.no_grad():
            states = model.language_model(model.embed(rows, images), rows.segment_ids, rows.position_ids)[0]
            targets = model.targets(whole, rows, images)
            logits = model.language_model.logits(states)
        labels = targets.labels[0]
        text = (labels != -100) & ~targets.is_stop[0]
        assert labels[text].tolist() == said
        banned = [model.image_end_id] + ([] if any(isinstance(p, Picture) for p in prompt[1]) else [model.segment_id])
        logits[:, banned] = -torch.inf
        assert logits[text].argmax(-1).tolist() == said
        found += len(said) + len(drawn)
        masks = [part.logits for part in answer.segments if isinstance(part, MaskFound)]
        if masks:
            with torch.no_grad():
                again = model.point(
                    states[targets.mask_places], images[whole.mask_image], whole.pixel_values[whole.mask_image]
                )
            torch.testing.assert_close(again, torch.stack(masks), atol=1e-3, rtol=1e-3)
    assert found > 20


def with_tokens(images: EncodedImages, drawn: Tensor, tokens: Sequence[Tensor]) -> EncodedImages:
    """Pictures of which those that were drawn have the drawn tokens."""
    longest = max([images.visual.tokens.shape[1], *map(len, tokens)])
    pad = longest - images.visual.tokens.shape[1]
    all_tokens = torch.nn.functional.pad(images.visual.tokens, (0, 0, 0, pad)).clone()
    mask = torch.nn.functional.pad(images.visual.mask, (0, pad)).clone()
    for picture, own in zip(drawn.nonzero().squeeze(1).tolist(), tokens, strict=True):
        all_tokens[picture, : len(own)] = own
        mask[picture] = torch.arange(longest) < len(own)
    visual: VisualTokens = replace(images.visual, tokens=all_tokens, mask=mask)
    return EncodedImages(visual=visual, patches=images.patches)


def test_the_drawn_token_is_conditioned_on_the_place_before(model: Setokim) -> None:
    """The first visual token is drawn from the hidden state at ``[Img]``, the next one from that at the first."""
    batch = batch_of(model, [PROMPTS[0]])
    options = GenerationOptions(mode="picture", min_image_tokens=2, max_image_tokens=2, sampling_steps=4)
    (answer,) = generate(model, batch, options, seeds=[5])
    whole = batch_of(model, [("x", [*PROMPTS[0][1], Picture(noise_picture(0), draw=True)])])
    images = with_tokens(model.encode_images(whole.pixel_values), whole.image_is_target, answer.images)
    rows = model.splice(whole, images)
    with torch.no_grad():
        states = model.language_model(model.embed(rows, images), rows.segment_ids, rows.position_ids)[0]
    generator = torch.Generator().manual_seed(5)
    for place, token in zip(model.targets(whole, rows, images).token_places[1], answer.images[0], strict=False):
        condition = model.output_projector(states[place - 1])
        expected = model.diffusion.sample(condition.unsqueeze(0), [generator], steps=4)
        torch.testing.assert_close(expected[0], token, atol=1e-3, rtol=1e-3)


def test_seeds_choose(model: Setokim) -> None:
    batch, options = batch_of(model), GenerationOptions(**WILD)
    first = generate(model, batch, options, seeds=SEEDS)
    for one, other in zip(first, generate(model, batch, options, seeds=SEEDS), strict=True):
        same(one, other, close=0.0)
    others = generate(model, batch, options, seeds=[s + 100 for s in SEEDS])
    assert all(a.ids != b.ids for a, b in zip(first, others, strict=True))
    state = torch.get_rng_state()
    generate(model, batch, options, seeds=SEEDS)
    assert torch.equal(state, torch.get_rng_state()), "the global generator is left alone"


@pytest.mark.parametrize(("least", "most"), [(1, 1), (3, 3), (2, 5), (6, 9)])
def test_pictures_keep_their_bounds(model: Setokim, least: int, most: int) -> None:
    options = GenerationOptions(mode="picture", min_image_tokens=least, max_image_tokens=most, sampling_steps=2)
    for answer in generate(model, batch_of(model), options, seeds=SEEDS):
        assert answer.reason == "stop" and len(answer.segments) == 1
        assert least <= len(answer.images[0]) <= most
    eager, shy = replace(options, stop_threshold=1e-9), replace(options, stop_threshold=1.0)
    assert all(len(a.images[0]) == least for a in generate(model, batch_of(model), eager, seeds=SEEDS))
    assert all(len(a.images[0]) == most for a in generate(model, batch_of(model), shy, seeds=SEEDS))


def test_modes(model: Setokim) -> None:
    batch = batch_of(model)
    for answer in generate(model, batch, GenerationOptions(**WILD | {"mode": "text"}), seeds=SEEDS):
        assert not answer.images and not answer.masks and answer.ids
        assert not set(answer.ids) & set(model.language_model.new_ids)
    with_pictures = [PROMPTS[0], PROMPTS[2], PROMPTS[3]]
    pointed = generate(model, batch_of(model, with_pictures), GenerationOptions(mode="mask"), seeds=SEEDS[:3])
    assert all(len(a.segments) == 1 and a.masks[0].shape == (32, 32) and a.reason == "stop" for a in pointed)
    assert not torch.allclose(pointed[0].masks[0], pointed[2].masks[0])
    assert not generate(model, batch_of(model, [PROMPTS[1]]), GenerationOptions(**WILD), seeds=[3])[0].masks


def test_the_stream_tells_everything_in_order(model: Setokim) -> None:
    batch, options = batch_of(model), GenerationOptions(**WILD)
    events = list(stream(model, batch, options, seeds=SEEDS))
    answers = generate(model, batch, options, seeds=SEEDS)
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
    for row, answer in enumerate(answers):
        own = [event for event in events if event.row == row]
        assert isinstance(own[-1], Finished) and sum(isinstance(e, Finished) for e in own) == 1
        assert [e.token for e in own if isinstance(e, TextToken)] == list(answer.ids)
        tokens = [e.token for e in own if isinstance(e, ImageToken)]
        ended = [e.tokens for e in own if isinstance(e, ImageEnd)]
        if ended:
            assert torch.equal(torch.stack(tokens), torch.cat(ended))
        said = len(answer.ids) + len(answer.images) + len(answer.masks)
        assert said == 30 if answer.reason == "length" else said < 30
    first = next(iter(stream(model, batch, options, seeds=SEEDS)))
    assert first.row == events[0].row and type(first) is type(events[0])


def test_guidance_moves_pictures_away_from_the_null_and_from_unguided_prompts(model: Setokim) -> None:
    options = GenerationOptions(mode="picture", min_image_tokens=2, max_image_tokens=2, sampling_steps=3)
    guided = replace(options, guidance=3.0)
    batch = batch_of(model)
    empty = batch_of(model, [(name, ["</s>"]) for name, _ in PROMPTS])
    runs = [
        generate(model, batch, options, seeds=SEEDS),
        generate(model, batch, guided, seeds=SEEDS),
        generate(model, batch, guided, seeds=SEEDS, unguided=empty),
        generate(model, batch, guided, seeds=SEEDS, unguided=batch),
    ]
    pictures = [torch.stack([answer.images[0] for answer in run]) for run in runs]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(pictures[i], pictures[j], atol=1e-3)
    torch.testing.assert_close(pictures[3], pictures[0], atol=1e-3, rtol=1e-3)  # away from itself is nowhere
    alone = generate(
        model, batch_of(model, [PROMPTS[2]]), guided, seeds=[13], unguided=batch_of(model, [("x", ["</s>"])])
    )
    torch.testing.assert_close(alone[0].images[0], pictures[2][2], atol=1e-3, rtol=1e-3)
    with pytest.raises(DataError, match="4 prompts and 1 unguided"):
        generate(model, batch, guided, seeds=SEEDS, unguided=batch_of(model, [PROMPTS[1]]))


def test_rows_end_where_there_is_no_more_room() -> None:
    model = model_of(max_positions=24)
    batch = batch_of(model, [PROMPTS[0]])
    images = model.encode_images(batch.pixel_values)
    room = 24 - int(model.splice(batch, images).lengths)
    (answer,) = generate(model, batch, GenerationOptions(mode="text", max_new_tokens=99), seeds=[0])
    assert answer.reason == "length" and len(answer.ids) == room
    (drawn,) = generate(
        model, batch, GenerationOptions(mode="picture", max_image_tokens=99, stop_threshold=1.0), seeds=[0]
    )
    assert len(drawn.images[0]) == room - 2
    with pytest.raises(DataError) as error:
        generate(model, batch_of(model, [("x", ["what " * 30])]), GenerationOptions(), seeds=[0])
    assert "row 0 has 30 places" in error.value.problem and "reads 24: 7 too many" in error.value.problem
    assert "shorten the prompt" in error.value.remedy


@pytest.mark.parametrize("room", [1, 2, 3, 4])
def test_a_picture_needs_room_for_one_token_at_least(room: int) -> None:
    model = model_of(max_positions=24)
    batch = batch_of(model, [("x", ["what " * (24 - room)])])
    if room < 3:
        with pytest.raises(DataError, match=f"{3 - room} too many for a picture"):
            generate(model, batch, GenerationOptions(mode="picture"), seeds=[0])
    else:
        (drawn,) = generate(model, batch, GenerationOptions(mode="picture", stop_threshold=1.0), seeds=[0])
        assert len(drawn.images[0]) == room - 2
    head = model.language_model.base.get_output_embeddings()
    head.register_forward_hook(lambda *called: opened(called[-1], model.image_start_id))
    (free,) = generate(model, batch, GenerationOptions(stop_threshold=1.0), seeds=[0])
    assert free.reason == "length"
    assert [len(tokens) for tokens in free.images] == ([room - 2] if room > 2 else [])


def opened(logits: Tensor, token: int) -> Tensor:
    """Logits of a model that opens one picture after the other."""
    return torch.zeros_like(logits).index_fill(-1, torch.tensor([token]), 9.0)


def test_top_k_and_top_p_choose_as_their_papers_say() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.4, 0.05, 0.3, 0.15]])).expand(1000, -1)
    chance = (torch.arange(1000) + 0.5) / 1000

    def shares(top_k: int, top_p: float) -> Tensor:
        return torch.bincount(choose_token(logits, chance, top_k, top_p), minlength=5) / 1000

    torch.testing.assert_close(shares(0, 1.0), torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15]), atol=2e-3, rtol=0)
    torch.testing.assert_close(shares(2, 1.0), torch.tensor([0, 4 / 7, 0, 3 / 7, 0]), atol=2e-3, rtol=0)
    torch.testing.assert_close(shares(0, 0.75), torch.tensor([0, 8 / 17, 0, 6 / 17, 3 / 17]), atol=2e-3, rtol=0)
    assert shares(0, 1e-6).tolist() == [0, 1, 0, 0, 0]
    assert choose_token(logits[:1], torch.tensor([1.0]), 3, 0.9).tolist() == [4]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "said", "remedy"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0", "1 or more"),
        ({"temperature": -1.0}, "temperature=-1.0", "0 or more"),
        ({"top_p": 0.0}, "top_p=0.0", "above 0"),
        ({"min_image_tokens": 4, "max_image_tokens": 3}, "max_image_tokens=3", "4 or more"),
        ({"sampling_steps": 0}, "sampling_steps=0", "1 or more"),
        ({"stop_threshold": 0.0}, "stop_threshold=0.0", "above 0"),
        ({"temperature": float("nan")}, "temperature=nan", "0 or more"),
        ({"image_temperature": float("inf")}, "image_temperature=inf", "0 or more"),
        ({"guidance": "strong"}, "guidance='strong'", "0 or more"),
        ({"max_new_tokens": 2.5}, "max_new_tokens=2.5", "1 or more"),
        ({"mode": "foo"}, "mode='foo'", "'free' or 'text' or 'picture' or 'mask'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], said: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as error:
        GenerationOptions(**options)
    assert said in error.value.problem and remedy in error.value.remedy


def test_prompts_that_cannot_be_continued_are_refused(model: Setokim) -> None:
    packed = sequence_batch([[PROMPTS[0], PROMPTS[1]]], model.text_tokenizer, model.max_image_tokens)
    with pytest.raises(DataError, match="row 0 holds 2 samples"):
        generate(model, packed, GenerationOptions(), seeds=[0])
    with pytest.raises(DataError, match=r"row 0 holds 0 samples"):
        generate(model, replace(packed, segment_ids=packed.segment_ids * 0), GenerationOptions(), seeds=[0])
    with pytest.raises(DataError, match="row 1 has none"):
        generate(model, batch_of(model), GenerationOptions(mode="mask"), seeds=SEEDS)
    with pytest.raises(ConfigError, match="4 rows and 1 seeds"):
        generate(model, batch_of(model), GenerationOptions(), seeds=[0])
    blind = shaken(setokim(mask_decoder=None))
    with pytest.raises(ConfigError, match="this model has none"):
        generate(blind, batch_of(blind, [PROMPTS[0]]), GenerationOptions(mode="mask"), seeds=[0])
