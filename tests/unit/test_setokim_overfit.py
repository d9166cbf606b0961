"""A handful of samples of every task is learned by heart: answers exact, tokens near the true ones, masks on their objects."""

from __future__ import annotations

import pytest
import torch

from setok.models.generation import GenerationOptions, generate
from setok.models.mask_decoder import mask_iou
from setok.models.setokim import Setokim
from tests.sequences import Part, Picture, Point, Say, sequence_batch, setokim, square

STEPS = 400
SQUARES = {
    "red": ("left", square("red", 2, 8, 13, background="white")),
    "green": ("right", square("green", 16, 4, 11, background="blue")),
    "blue": ("right", square("blue", 18, 17, 10, background="green")),
    "white": ("left", square("white", 3, 15, 14, background="red")),
}


def tasks() -> dict[str, list[tuple[str, list[Part], list[Part]]]]:
    """Prompt and answer of every sample, by task."""
    found: dict[str, list[tuple[str, list[Part], list[Part]]]] = {"caption": [], "vqa": [], "draw": [], "point": []}
    for colour, (side, (pixels, mask)) in SQUARES.items():
        caption = f"a {colour} square {side} </s>"
        found["caption"].append((f"caption-{colour}", ["what is it", Picture(pixels)], [Say(caption)]))
        found["vqa"].append((f"vqa-{colour}", [Picture(pixels), "where is the square"], [Say(f"{side} </s>")]))
        found["draw"].append((f"draw-{colour}", [f"draw a {colour} square"], [Picture(pixels, draw=True), Say("</s>")]))
        found["point"].append(
            (f"point-{colour}", ["where is the", f"{colour} square", Picture(pixels)], [Point(mask), Say("</s>")])
        )
    return found


@pytest.fixture(scope="module")
def trained() -> Setokim:
    torch.set_num_threads(1)
    model = setokim(
        diffusion={"width": 128, "batch_multiplier": 16, "condition_drop": 0.0, "sampling_steps": 20}
    ).train()
    rows = [[(name, [*prompt, *answer]) for name, prompt, answer in samples] for samples in tasks().values()]
    batch = sequence_batch(rows, model.text_tokenizer, model.max_image_tokens)
    images = model.encode_images(batch.pixel_values)
    model.diffusion.normalizer.update(model.diffusion.normalizer.moments(images.visual.tokens, images.visual.mask))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, STEPS, pct_start=0.1)
    for step in range(STEPS):
        output = model(batch, noise_key=f"0/{step}", images=images)
        loss = sum(
            getattr(output, name) / output.counts[name]
            for name in ("text", "stop", "diffusion", "mask_cross_entropy", "mask_dice")
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    assert output.text / output.counts["text"] < 0.02 and output.stop / output.counts["stop"] < 0.05
    assert output.statistics["text_correct"] == output.counts["text"]
    assert output.diffusion / output.counts["diffusion"] < 0.08
    return model.eval()


def prompts(model: Setokim, task: str) -> tuple:
    samples = tasks()[task]
    batch = sequence_batch(
        [[(name, prompt)] for name, prompt, _ in samples], model.text_tokenizer, model.max_image_tokens
    )
    return batch, [answer for _, _, answer in samples]


@pytest.mark.parametrize("task", ["caption", "vqa"])
def test_answers_come_back_word_for_word(trained: Setokim, task: str) -> None:
    batch, answers = prompts(trained, task)
    found = generate(trained, batch, GenerationOptions(max_new_tokens=12), seeds=range(4))
    for one, (wanted,) in zip(found, answers, strict=True):
        assert isinstance(wanted, Say) and one.reason == "stop"
        assert trained.text_tokenizer.decode(one.ids) == wanted.text.removesuffix(" </s>")


def test_drawn_tokens_are_near_the_true_ones(trained: Setokim) -> None:
    batch, answers = prompts(trained, "draw")
    pixels = torch.stack([answer[0].pixels for answer in answers])
    truth = trained.encode_images(pixels).visual
    found = generate(trained, batch, GenerationOptions(), seeds=range(4))
    _, deviation = trained.diffusion.normalizer.statistics()
    for i, one in enumerate(found):
        (tokens,) = one.images
        wanted = truth.tokens[i, truth.mask[i]]
        assert one.reason == "stop" and not one.ids and len(tokens) == len(wanted), (
            "the number of tokens comes back too"
        )
        error = ((tokens - wanted) / deviation).square().mean()
        others = [((truth.tokens[j, : len(wanted)] - wanted) / deviation).square().mean() for j in range(4) if j != i]
        assert error < 0.1 and error < 0.05 * max(others), (
            error,
            others,
        )  # without training, some pictures are much alike
    painted = trained.paint([one.images[0] for one in found], (32, 32)).float()
    true = trained.paint([truth.tokens[i, truth.mask[i]] for i in range(4)], (32, 32)).float()
    mse = (painted - true).square().mean((1, 2, 3)) / 255**2
    assert (-10 * mse.log10()).min() > 20


def test_masks_lie_on_their_objects(trained: Setokim) -> None:
    batch, answers = prompts(trained, "point")
    masks = torch.stack([answer[0].mask for answer in answers])
    for mode in ("free", "mask"):
        found = generate(trained, batch, GenerationOptions(mode=mode), seeds=range(4))
        assert all(len(one.masks) == 1 and one.reason == "stop" for one in found)
        assert mask_iou(torch.stack([one.masks[0] for one in found]), masks).min() > 0.9
