"""The mask decoder: losses by their formulas, padding without influence, grids of any size, and every input of use."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from setok.batch import VisualTokens
from setok.config import MaskDecoderConfig
from setok.errors import ConfigError
from setok.models.mask_decoder import MaskDecoder, mask_iou, mask_losses

TOKEN, PATCH, FEATURE = 12, 20, 8


def decoder(**settings: Any) -> MaskDecoder:
    torch.manual_seed(0)
    config = MaskDecoderConfig.model_validate({"width": 16, "depth": 2, "num_heads": 2} | settings)
    return MaskDecoder(config, TOKEN, PATCH, FEATURE).eval()


def inputs(
    masks: int = 3, grid: tuple[int, int] = (4, 6), side: int = 4
) -> tuple[Tensor, VisualTokens, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    patches = grid[0] * grid[1]
    counts = torch.arange(masks) % 4 + 1
    mask = torch.arange(5) < counts.unsqueeze(1)
    visual = VisualTokens(
        tokens=normal(masks, 5, TOKEN),
        mask=mask,
        assignment=(torch.arange(patches) % counts.unsqueeze(1)).long(),
        scores=normal(masks, patches),
        grid=grid,
        features=torch.nn.functional.normalize(normal(masks, patches, FEATURE), dim=-1),
    )
    pixels = torch.randint(0, 256, (masks, 3, grid[0] * side, grid[1] * side), generator=generator, dtype=torch.uint8)
    return normal(masks, TOKEN), visual, normal(masks, patches, PATCH), pixels


@torch.no_grad()
def test_padding_tokens_and_other_masks_change_nothing() -> None:
    model, (query, visual, patches, pixels) = decoder(), inputs()
    together = model(query, visual, patches, pixels)
    assert together.shape == (3, 16, 24)
    garbage = replace(visual, tokens=visual.tokens.masked_fill(~visual.mask.unsqueeze(-1), 1e3))
    torch.testing.assert_close(model(query, garbage, patches, pixels), together)
    for i in range(3):
        own = replace(
            visual,
            **{
                name: getattr(visual, name)[i : i + 1]
                for name in ("tokens", "mask", "assignment", "scores", "features")
            },
        )
        alone = model(query[i : i + 1], own, patches[i : i + 1], pixels[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_every_input_has_a_say() -> None:
    model, (query, visual, patches, pixels) = decoder(), inputs()
    plain = model(query, visual, patches, pixels)
    changed = [
        (query + 1, visual, patches, pixels),
        (query, replace(visual, tokens=visual.tokens.flip(0)), patches, pixels),
        (query, replace(visual, assignment=visual.assignment * 0), patches, pixels),
        (query, replace(visual, features=visual.features.flip(1)), patches, pixels),
        (query, visual, patches.flip(1), pixels),
        (query, visual, patches, 255 - pixels),
    ]
    for values in changed:
        assert (model(*values) - plain).abs().amax((1, 2)).max() > 1e-4


@pytest.mark.parametrize(("stride", "grid", "side"), [(1, (4, 4), 4), (2, (4, 6), 4), (4, (3, 3), 7), (3, (2, 2), 8)])
def test_any_stride_gives_logits_of_the_pictures_size(stride: int, grid: tuple[int, int], side: int) -> None:
    model, (query, visual, patches, pixels) = decoder(stride=stride), inputs(grid=grid, side=side)
    logits = model(query, visual, patches, pixels)
    assert logits.shape == (3, grid[0] * side, grid[1] * side)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_losses_are_their_formulas(gamma: float) -> None:
    logits = torch.tensor([[[2.0, -1.0], [0.5, -3.0]], [[-2.0, -2.0], [-2.0, -2.0]]])
    target = torch.tensor([[[True, False], [False, True]], [[False, False], [False, False]]])
    cross_entropy, dice = mask_losses(logits, target, gamma=gamma)
    for m in range(2):
        total = both = shares = wanted = 0.0
        for y in range(2):
            for x in range(2):
                p, g = 1 / (1 + math.exp(-float(logits[m, y, x]))), bool(target[m, y, x])
                right = p if g else 1 - p
                total += -math.log(right) * (1 - right) ** gamma / 4
                both, shares, wanted = both + p * g, shares + p, wanted + g
        assert cross_entropy[m].item() == pytest.approx(total, rel=1e-4)
        assert dice[m].item() == pytest.approx(1 - (2 * both + 1) / (shares + wanted + 1), rel=1e-4)
    sure = torch.where(target, 50.0, -50.0)
    for loss in mask_losses(sure, target, gamma=gamma):
        assert loss.max() < 1e-5


def test_iou_counts_pixels() -> None:
    logits = torch.tensor([[[1.0, 1.0, -1.0, -1.0]], [[-1.0, -1.0, -1.0, -1.0]], [[1.0, -1.0, -1.0, -1.0]]])
    target = torch.tensor([[[True, False, True, False]], [[False] * 4], [[False] * 4]])
    torch.testing.assert_close(mask_iou(logits, target), torch.tensor([1 / 3, 1.0, 0.0]))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="num_heads=3 does not divide"):
        MaskDecoderConfig(width=16, num_heads=3)
