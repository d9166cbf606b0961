"""The frame of a cluster and the outline that its token is told."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from setok.config import MergerConfig
from setok.models.clustering import one_hot
from setok.models.geometry import Frame, Outline, hats, patch_places
from setok.models.merger import TokenMerger


def square(side: int, top: int, left: int, n: int = 16) -> Tensor:
    """A square among ``n × n`` patches, as one cluster."""
    mask = torch.zeros(n, n)
    mask[top : top + side, left : left + side] = 1
    return mask.view(1, 1, n * n)


def test_frame_of_a_square() -> None:
    frame = Frame.of(square(4, 2, 6), (16, 16))
    torch.testing.assert_close(frame.centre[0, 0], torch.tensor([8 / 16, 4 / 16]))
    torch.testing.assert_close(frame.extent[0, 0], torch.tensor(4 / 16 / math.sqrt(12)))
    torch.testing.assert_close(frame.area[0, 0], torch.tensor(1 / 16))


@pytest.mark.parametrize("side", [1, 2, 3, 6])
def test_extent_is_that_of_the_pixels_whatever_the_size(side: int) -> None:
    frame = Frame.of(square(side, 3, 3), (16, 16))
    torch.testing.assert_close(frame.extent[0, 0], torch.tensor(side / 16 / math.sqrt(12)))


def test_a_crop_reads_the_same_wherever_the_cluster_stands() -> None:
    outline = Outline(8, 12)
    crops = [
        outline.crop(mask, Frame.of(mask, (16, 16)))[0, 0]
        for mask in (square(4, 2, 6), square(4, 9, 5), 3 * square(4, 2, 6))
    ]
    torch.testing.assert_close(crops[0], crops[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(crops[0], crops[2], atol=1e-5, rtol=1e-5)
    picture = crops[0].view(8, 8)
    assert picture[3:5, 3:5].min() > 0.99
    assert picture[0].max() < 0.01, "the crop reaches past the cluster"
    torch.testing.assert_close(picture, picture.T)


def test_crops_tell_a_ring_from_a_disc() -> None:
    y, x = torch.meshgrid(torch.arange(16) - 7.5, torch.arange(16) - 7.5, indexing="ij")
    far = (y.square() + x.square()).sqrt()
    disc, ring = (far < 5).float().view(1, 1, -1), ((far < 5) & (far > 2.5)).float().view(1, 1, -1)
    outline = Outline(7, 12)
    crops = [outline.crop(mask, Frame.of(mask, (16, 16)))[0, 0].view(7, 7) for mask in (disc, ring)]
    assert crops[0][3, 3] > 0.99
    assert crops[1][3, 3] < 0.01


def test_interpolation_weights() -> None:
    weights = hats(torch.tensor([0.5, 1.0, 6.0]), 4)
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0]]))


def test_relative_places_have_mean_zero_and_unit_extent() -> None:
    assignment = torch.randint(0, 3, (2, 48), generator=torch.Generator().manual_seed(0))
    frame = Frame.of(one_hot(assignment, 3), (6, 8))
    offsets = frame.relative(assignment)[..., :2]
    for image in range(2):
        for number in range(3):
            mine = offsets[image][assignment[image] == number]
            torch.testing.assert_close(mine.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
            assert 0.9 < mine.square().mean().sqrt() <= 1.0


def test_places_run_over_rows() -> None:
    torch.testing.assert_close(patch_places((1, 2)), torch.tensor([[0.5, 0.5], [1.5, 0.5]]))


@pytest.mark.parametrize("hard", [True, False])
def test_tokens_do_not_depend_on_the_order_of_clusters(hard: bool) -> None:
    torch.manual_seed(0)
    merger = TokenMerger(MergerConfig(num_heads=2, relative_position=True, outline=6), 8, 8)
    features = torch.randn(1, 24, 8)
    assignment = torch.randint(0, 3, (1, 24))
    mask = torch.ones(1, 3, dtype=torch.bool)
    soft = torch.rand(1, 3, 24)
    renamed = torch.tensor([2, 0, 1])
    results = []
    for owner, weights in ((assignment, soft), (renamed[assignment], soft[:, renamed.argsort()])):
        tokens = merger(features, owner, None if hard else weights / weights.sum(-1, keepdim=True), mask, (4, 6))
        results.append(tokens)
    torch.testing.assert_close(results[0], results[1][:, renamed], atol=1e-5, rtol=1e-5)


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    merger = TokenMerger(MergerConfig(num_heads=2, relative_position=True, outline=6), 8, 8)
    assignment = torch.randint(0, 3, (2, 24))
    tokens = merger(torch.randn(2, 24, 8), assignment, None, torch.ones(2, 3, dtype=torch.bool), (4, 6))
    (tokens * torch.randn(tokens.shape)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in merger.parameters())


def test_padding_changes_no_token() -> None:
    torch.manual_seed(0)
    merger = TokenMerger(MergerConfig(num_heads=2, relative_position=True, outline=6), 8, 8).eval()
    features, assignment = torch.randn(2, 4, 6, 8), torch.randint(0, 3, (2, 4, 6))
    mask = torch.ones(2, 3, dtype=torch.bool)
    alone = merger(features.flatten(1, 2), assignment.flatten(1), None, mask, (4, 6))
    wide, owner = torch.randn(2, 8, 8, 8), torch.full((2, 8, 8), -1)
    wide[:, :4, :6], owner[:, :4, :6] = features, assignment
    padded = merger(wide.flatten(1, 2), owner.flatten(1), None, mask, (8, 8))
    torch.testing.assert_close(alone, padded, atol=1e-5, rtol=1e-5)
