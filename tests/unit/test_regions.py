"""Connected regions of clusters against a plain flood fill, and what splitting must keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from setok.config import ClusteringConfig
from setok.errors import ConfigError
from setok.models.clustering import cluster
from setok.models.clustering.clusters import one_hot, real_first
from setok.models.clustering.regions import connected_regions, split_regions


def flood(labels: np.ndarray) -> np.ndarray:
    """Lowest index in the region of every cell, by walking."""
    rows, columns = labels.shape
    region = np.full(rows * columns, -1)
    for start in range(rows * columns):
        if region[start] >= 0:
            continue
        region[start], stack = start, [start]
        while stack:
            y, x = divmod(stack.pop(), columns)
            for b, a in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= b < rows and 0 <= a < columns
                if inside and labels[b, a] == labels[y, x] >= 0 and region[b * columns + a] < 0:
                    region[b * columns + a] = start
                    stack.append(b * columns + a)
    return region


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12), st.integers(1, 4))
def test_regions_are_those_of_a_flood_fill(seed: int, rows: int, columns: int, kinds: int) -> None:
    labels = np.random.default_rng(seed).integers(-1, kinds, (2, rows, columns))
    found = connected_regions(torch.from_numpy(labels).flatten(1), (rows, columns))
    for image, regions in zip(labels, found.numpy(), strict=True):
        np.testing.assert_array_equal(regions, flood(image))


def test_a_spiral_is_one_region() -> None:
    spiral = np.zeros((9, 9), int)
    y, x, dy, dx = 0, 0, 0, 1
    spiral[0, 0] = 1
    for _ in range(40):
        ahead = (y + dy, x + dx, y + 2 * dy, x + 2 * dx)
        blocked = not (0 <= ahead[0] < 9 and 0 <= ahead[1] < 9) or spiral[ahead[0], ahead[1]]
        blocked = blocked or (0 <= ahead[2] < 9 and 0 <= ahead[3] < 9 and spiral[ahead[2], ahead[3]])
        if blocked:
            dy, dx = dx, -dy
            continue
        y, x = ahead[:2]
        spiral[y, x] = 1
    assert spiral.sum() > 30
    regions = connected_regions(torch.from_numpy(spiral).view(1, -1), (9, 9))[0]
    assert len(regions[torch.from_numpy(spiral).flatten() == 1].unique()) == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 9))
def test_what_splitting_keeps(seed: int, min_patches: int, max_tokens: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns, kinds = 6, 5, min(3, max_tokens)
    labels = torch.from_numpy(rng.integers(0, kinds, (3, rows * columns)))
    soft = torch.from_numpy(rng.dirichlet(np.ones(kinds), (3, rows * columns))).float().transpose(1, 2)
    before = real_first(labels, soft, torch.zeros(3, rows * columns))
    after = split_regions(before, (rows, columns), min_patches=min_patches, max_tokens=max_tokens)
    torch.testing.assert_close(after.masks.sum(1), torch.ones(3, rows * columns))
    assert (after.counts <= max_tokens).all()
    assert (after.counts >= before.counts).all()
    for image in range(3):
        old, new = before.assignment[image], after.assignment[image]
        assert set(new.tolist()) == set(range(int(after.counts[image])))
        region = flood(old.view(rows, columns).numpy())
        for number in range(int(before.counts[image]), int(after.counts[image])):
            members = (new == number).nonzero().flatten().numpy()
            assert len(set(region[members])) == 1, "a new cluster is one region"
            assert len(members) >= min_patches
            assert len(members) == (region == region[members[0]]).sum(), "and the whole of it"
            assert len(set(old[members].tolist())) == 1


def test_the_nearest_region_takes_a_soft_share() -> None:
    labels = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 0, 0]])
    share = torch.tensor([0.9, 0.9, 0.2, 0.3, 0.4, 0.3, 0.2, 0.8, 0.8])
    soft = torch.stack([share, 1 - share]).unsqueeze(0)
    after = split_regions(real_first(labels, soft, torch.zeros(1, 9)), (1, 9), min_patches=2, max_tokens=3)
    assert after.assignment.tolist() == [[0, 0, 1, 1, 1, 1, 1, 2, 2]]
    torch.testing.assert_close(after.masks[0, 0], torch.tensor([0.9, 0.9, 0.2, 0.3, 0.4, 0.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(after.masks[0, 2], torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.3, 0.2, 0.8, 0.8]))


def test_what_lies_behind_everything_stays_whole() -> None:
    labels = torch.tensor([[0, 0, 0, 1, 1, 0, 0, 0, 1, 1]])
    after = split_regions(
        real_first(labels, one_hot(labels, 2), torch.zeros(1, 10)), (1, 10), min_patches=2, max_tokens=9
    )
    assert after.assignment.tolist() == [[0, 0, 0, 1, 1, 0, 0, 0, 2, 2]]


def test_two_like_things_are_two_tokens_and_gradients_flow() -> None:
    features = torch.tensor([[0.0, 1.0]]).repeat(36, 1)
    for place in (0, 1, 6, 7, 28, 29, 34, 35):
        features[place] = torch.tensor([1.0, 0.0])
    features = features.unsqueeze(0).requires_grad_(True)
    whole = cluster(features, ClusteringConfig(max_tokens=6), grid=(6, 6))
    cut = cluster(features, ClusteringConfig(max_tokens=6, split_regions=2), grid=(6, 6))
    assert (int(whole.counts[0]), int(cut.counts[0])) == (2, 3)
    assert cut.assignment[0, 0] != cut.assignment[0, 35]
    noisy = (features + 0.1 * torch.randn(features.shape, generator=torch.Generator().manual_seed(0))).detach()
    noisy.requires_grad_(True)
    found = cluster(noisy, ClusteringConfig(max_tokens=6, split_regions=2), grid=(6, 6))
    (found.masks * torch.rand(found.masks.shape)).sum().backward()
    assert noisy.grad is not None
    assert noisy.grad.abs().sum() > 0


def test_batch_mates_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (4, 30), generator=generator)
    together = split_regions(
        real_first(labels, one_hot(labels, 3), torch.zeros(4, 30)), (5, 6), min_patches=2, max_tokens=8
    )
    for image in range(4):
        own = labels[image : image + 1]
        alone = split_regions(real_first(own, one_hot(own, 3), torch.zeros(1, 30)), (5, 6), min_patches=2, max_tokens=8)
        assert torch.equal(alone.assignment[0], together.assignment[image])
        assert torch.equal(alone.masks[0], together.masks[image])


def test_splitting_needs_a_grid() -> None:
    with pytest.raises(ConfigError, match=r"split_regions=3 .*no grid(.|\n)*pass grid"):
        cluster(torch.randn(1, 9, 4), ClusteringConfig(split_regions=3))
