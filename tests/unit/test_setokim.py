"""Setokim's losses: the same however samples are packed, nothing seen across samples, and only what is meant to learn learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from setok.batch import SequenceBatch
from setok.models.generation import GenerationOptions, generate
from setok.models.setokim import Setokim
from setok.models.setokim_targets import EncodedImages, SetokimOutput
from tests.sequences import Part, Picture, Point, Say, noise_picture, sequence_batch, setokim, shaken, square

LOSSES = ("text", "stop", "diffusion", "mask_cross_entropy", "mask_dice")


def samples() -> list[tuple[str, list[Part]]]:
    """Every kind: question, drawing, pointing, text, two turns with pictures of both sorts, an unreadable picture."""
    red, red_mask = square("red", 4, 4)
    blue, blue_mask = square("blue", 14, 10, background="green")
    return [
        ("vqa", ["what colour is the square", Picture(red), Say("red </s>")]),
        ("draw", ["draw a blue square", Picture(noise_picture(3), draw=True), Say("</s>")]),
        ("point", ["where is", Picture(noise_picture(1)), Picture(blue), Point(blue_mask, 1), Say("</s>")]),
        ("text", ["how many", Say("two </s>")]),
        (
            "turns",
            [
                *("what is", Picture(red), Say("red </s>"), "move it right", Picture(blue, draw=True), Say("</s>")),
                *("and left", Picture(noise_picture(5), draw=True), Point(red_mask, 0), Say("yes </s>")),
            ],
        ),
        ("broken", ["what", Picture(noise_picture(2), draw=True, valid=False), Picture(red, valid=False)]),
    ]


def batch_of(model: Setokim, rows: Sequence[Sequence[tuple[str, list[Part]]]]) -> SequenceBatch:
    return sequence_batch(rows, model.text_tokenizer, model.max_image_tokens)


@pytest.fixture(scope="module")
def model() -> Setokim:
    return shaken(setokim())


def run(model: Setokim, batch: SequenceBatch, **settings: Any) -> SetokimOutput:
    with torch.no_grad():
        return model(batch, noise_key="0/0", **settings)


def summed(outputs: Sequence[SetokimOutput], name: str) -> Tensor:
    return torch.stack([getattr(output, name) for output in outputs]).sum()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_packed_equals_unpacked_and_batched_equals_single(family: str) -> None:
    model = shaken(setokim(language_model={"family": family}))
    alone = [run(model, batch_of(model, [[sample]])) for sample in samples()]
    a, b, c, d, e, f = samples()
    for rows in (
        [[a], [b], [c], [d], [e], [f]],
        [[a, b, c], [d, e, f]],
        [[f, e, d, c, b, a]],
        [[d], [c, a], [e, b, f]],
    ):
        packed = run(model, batch_of(model, rows))
        for name in LOSSES:
            torch.testing.assert_close(getattr(packed, name), summed(alone, name), atol=1e-3, rtol=1e-4)
            assert packed.counts[name] == sum(output.counts[name] for output in alone)
        for name in ("text_correct", "stop_correct", "mask_dice_iou", "image_tokens", "images", "places"):
            total = sum(output.statistics[name] for output in alone)
            torch.testing.assert_close(packed.statistics[name], total, atol=1e-3, rtol=1e-4)
    assert all(getattr(packed, name) > 0 for name in LOSSES)


def test_counts_are_those_of_the_script(model: Setokim) -> None:
    for sample, text, masks in zip(samples(), (2, 2, 2, 2, 8, 0), (0, 0, 1, 0, 1, 0), strict=True):
        batch = batch_of(model, [[sample]])
        drawn = batch.image_is_target & batch.image_valid
        tokens = model.encode_images(batch.pixel_values).visual.counts[: len(drawn)][drawn].sum()
        counts = run(model, batch).counts
        assert counts["diffusion"] == tokens
        assert counts["stop"] == tokens, "one decision after every token"
        assert counts["mask_dice"] == counts["mask_cross_entropy"] == masks
        assert counts["text"] == text, sample[0]


def test_samples_of_a_row_do_not_see_each_other(model: Setokim) -> None:
    """Gradients of one sample's losses reach its own embeddings only."""
    a, b, c, _, e, _ = samples()
    batch = batch_of(model, [[a, c, e], [b, e]])
    images = model.encode_images(batch.pixel_values)
    rows = model.splice(batch, images)
    embedded = model.embed(rows, images).detach().requires_grad_()
    hidden = model.language_model(embedded, rows.segment_ids, rows.position_ids)
    for row, segment in ((0, 2), (0, 1), (1, 2)):
        own = (rows.segment_ids == segment) & (torch.arange(2).unsqueeze(1) == row)
        (gradient,) = torch.autograd.grad(hidden[own].square().sum(), embedded, retain_graph=True)
        assert torch.equal(gradient.abs().sum(-1) > 0, own)
    place = int((rows.segment_ids[0] == 2).nonzero()[2])
    (gradient,) = torch.autograd.grad(hidden[0, place].sum(), embedded)
    before = torch.arange(rows.segment_ids.shape[1]) <= place
    assert torch.equal(gradient[0].abs().sum(-1) > 0, before & (rows.segment_ids[0] == 2))


def test_another_neighbour_changes_nothing(model: Setokim) -> None:
    a, b, c, d, *_ = samples()
    other = ("other", ["draw", Picture(noise_picture(9)), Say("no </s>")])
    with torch.no_grad():
        hidden = []
        for neighbour in (b, other):
            batch = batch_of(model, [[a, neighbour], [c, d]])
            images = model.encode_images(batch.pixel_values)
            rows = model.splice(batch, images)
            states = model.language_model(model.embed(rows, images), rows.segment_ids, rows.position_ids)
            hidden.append((states[0][rows.segment_ids[0] == 1], states[1][rows.segment_ids[1] > 0]))
    for one, two in zip(*hidden, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


def test_pictures_stand_where_their_places_are(model: Setokim) -> None:
    batch = batch_of(model, [[samples()[4]], [samples()[2], samples()[0]]])
    images = model.encode_images(batch.pixel_values)
    rows = model.splice(batch, images)
    embedded, projected = model.embed(rows, images), model.project_tokens(images.visual.tokens)
    seen = 0
    for row in range(2):
        for place in rows.is_visual[row].nonzero().squeeze(1).tolist():
            picture, offset = int(rows.image_index[row, place]), int(rows.image_offset[row, place])
            assert torch.equal(embedded[row, place], projected[picture, offset])
            seen += 1
    assert seen == images.visual.counts.sum() and images.visual.counts.unique().numel() > 1
    targets = model.targets(batch, rows, images)
    places = targets.token_places[images.visual.mask]
    assert torch.equal(places.sort().values, rows.is_visual.flatten().nonzero().squeeze(1))
    # After the last token of a picture that is drawn [/Img] is said, after every other one that it goes on.
    for picture in batch.image_is_target.nonzero().squeeze(1).tolist():
        spots = targets.token_places[picture][images.visual.mask[picture]]
        said = targets.labels.flatten()[spots].tolist()
        assert said == [model.image_start_id] * (len(spots) - 1) + [model.image_end_id]
        assert targets.is_stop.flatten()[spots].all()


def test_swapped_pictures_change_the_answer(model: Setokim) -> None:
    a, b = noise_picture(1), noise_picture(6)
    losses = [
        run(model, batch_of(model, [[("x", ["what", *pictures, Say("red </s>")])]])).text
        for pictures in ([Picture(a), Picture(b)], [Picture(b), Picture(a)])
    ]
    assert abs(losses[0] - losses[1]) > 1e-4


def test_pictures_may_be_encoded_before(model: Setokim) -> None:
    batch = batch_of(model, [samples()])
    images = model.encode_images(batch.pixel_values)
    first, second = run(model, batch), run(model, batch, images=images)
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in LOSSES)
    zeroed = EncodedImages(visual=replace(images.visual, tokens=images.visual.tokens * 0), patches=images.patches)
    assert not torch.allclose(run(model, batch, images=zeroed).text, first.text)


def test_the_same_modules_run_with_and_without_pictures(model: Setokim) -> None:
    """What ZeRO-3 needs of all ranks; a stand-in has no weight in any loss."""
    called: list[list[str]] = []
    names = {module: name for name, module in model.named_modules()}
    hooks = [m.register_forward_pre_hook(lambda m, _: called[-1].append(names[m])) for m in model.modules()]
    gradients = []
    try:
        for chosen in ([samples()[3]], samples(), [samples()[0]], [samples()[1], samples()[5]]):
            called.append([])
            model.zero_grad()
            output = model(batch_of(model, [chosen]), noise_key="0/0")
            sum(getattr(output, name) for name in LOSSES).backward()
            learning = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
            assert all(g is not None and g.isfinite().all() for g in learning.values())
            gradients.append(learning)
    finally:
        for hook in hooks:
            hook.remove()
    ours = [[name for name in names if not name.startswith("tokenizer.")] for names in called]
    assert all(names == ours[0] for names in ours) and len(ours[0]) > 40
    parts = {name.split(".")[0] for name, grad in gradients[0].items() if grad is not None and grad.any()}
    assert parts == {"language_model"}, "a batch of text moves nothing else"


def test_noise_depends_on_the_key_and_the_sample(model: Setokim) -> None:
    batch = batch_of(model, [[samples()[1]]])
    first = run(model, batch).diffusion
    with torch.no_grad():
        assert model(batch, noise_key="0/1").diffusion != first
        assert model(replace(batch, ids=(("other",),)), noise_key="0/0").diffusion != first
        assert model(batch, noise_key="0/0").diffusion == first


def test_unreadable_pictures_and_their_masks_teach_nothing(model: Setokim) -> None:
    batch = batch_of(model, [[samples()[1], samples()[2]]])
    blind = replace(batch, image_valid=torch.zeros_like(batch.image_valid))
    output = run(model, blind)
    assert output.diffusion == output.mask_dice == output.mask_cross_entropy == 0
    assert output.counts["diffusion"] == output.counts["mask_dice"] == 0


@pytest.mark.parametrize("chunks", [2, 5, 40])
def test_parts_of_the_cross_entropy_change_nothing(model: Setokim, chunks: int) -> None:
    batch = batch_of(model, [samples()])
    split = shaken(setokim(language_model={"loss_chunks": chunks}))
    whole, parts = model(batch, noise_key="k"), split(batch, noise_key="k")
    torch.testing.assert_close(whole.text, parts.text)
    torch.testing.assert_close(whole.stop, parts.stop)
    assert torch.equal(whole.statistics["text_correct"], parts.statistics["text_correct"])
    model.zero_grad(), whole.text.backward(), parts.text.backward()
    for one, other in zip(model.language_model.parameters(), split.language_model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-3)


def test_checkpointing_changes_nothing_and_the_tokenizer_stays_in_evaluation_mode() -> None:
    plain, saving = shaken(setokim()).train(), shaken(setokim()).train()
    saving.gradient_checkpointing_enable()
    assert not plain.tokenizer.training and plain.language_model.training
    batch = batch_of(plain, [samples()])
    for one in (plain, saving):
        output = one(batch, noise_key="k")
        sum(getattr(output, name) for name in LOSSES).backward()
    for (name, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert (one.grad is None) == name.startswith("tokenizer.")
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-3)


def test_a_model_without_mask_decoder() -> None:
    model = shaken(setokim(mask_decoder=None))
    output = run(model, batch_of(model, [samples()]))
    assert output.mask_dice == 0 and output.text > 0
    assert not any("mask" in name for name, _ in model.named_parameters())


def test_what_is_returned_can_be_seen_by_deepspeed(model: Setokim) -> None:
    """Tensors with gradients lie in fields of the dataclass, where ray_jobs.training.engine looks for them."""
    output = model(batch_of(model, [samples()]), noise_key="k")
    assert {f.name for f in fields(output) if getattr(getattr(output, f.name), "requires_grad", False)} == set(LOSSES)


@pytest.mark.parametrize("autocast", [True, False])
def test_a_frozen_half_precision_language_model_with_adapters_learns(tmp_path: Path, autocast: bool) -> None:
    base = setokim(language_model={"tie_embeddings": False})
    base.language_model.base.save_pretrained(tmp_path)
    adapted = {"path": str(tmp_path), "dtype": "bf16", "train": "lora", "lora": {"rank": 4, "dropout": 0.0}}
    model = setokim(language_model=adapted).train()
    model.gradient_checkpointing_enable()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = model(batch_of(model, [samples()]), noise_key="k")
    loss = sum(getattr(output, name) for name in LOSSES)
    assert loss.dtype == torch.float32
    loss.backward()
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in learning} == {
        *("language_model", "input_projector", "output_projector", "diffusion", "mask_projector", "mask_decoder")
    }
    assert all("lora_" in n or "new_tokens" in n for n in learning if n.startswith("language_model"))
    assert all(p.grad is not None and p.grad.isfinite().all() and p.dtype == torch.float32 for p in learning.values())
    assert {p.dtype for name, p in model.named_parameters() if name not in learning and "base" in name} == {
        torch.bfloat16
    }
    reference = run(base, batch_of(base, [samples()]))
    assert abs(output.text - reference.text) / reference.text < 0.05
    options = GenerationOptions(max_new_tokens=3, sampling_steps=2)
    assert generate(model.eval(), batch_of(model, [[samples()[3]]]), options, seeds=[0])[0].reason
