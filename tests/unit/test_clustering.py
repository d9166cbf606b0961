"""Clustering against a brute-force reference in NumPy, the goldens of its peers, and what must never change a result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from setok.config import ClusteringConfig
from setok.errors import TrainingError
from setok.models.clustering import (
    cluster,
    cluster_distances,
    density_peak_scores,
    dpc_knn,
    one_hot,
    squared_distances,
    stick_breaking,
)

METHODS = [
    pytest.param(ClusteringConfig(method="stick_breaking", sharpness=4.0), id="stick_breaking"),
    pytest.param(ClusteringConfig(method="dpc_knn", score_threshold=0.3), id="dpc_knn"),
    pytest.param(ClusteringConfig(method="dpc_knn", num_clusters=5), id="dpc_knn_fixed"),
]


def blobs(seed: int, batch: int = 3, n: int = 40, width: int = 8) -> torch.Tensor:
    """Features around a few directions, as an encoder would give them."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(batch, 4, width))
    label = rng.integers(0, 4, (batch, n))
    return torch.from_numpy(
        centers[np.arange(batch)[:, None], label] + 0.2 * rng.normal(size=(batch, n, width))
    ).float()


# ---------------------------------------------------------------- the slow, obvious way


def reference_scores(x: np.ndarray, k: int) -> np.ndarray:
    n = len(x)
    distance = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in x] for a in x])
    density = np.array([np.exp(-np.mean(np.sort(np.delete(distance[i], i))[:k] ** 2)) for i in range(n)])
    scores = np.zeros(n)
    for i in range(n):
        denser = [j for j in range(n) if density[j] > density[i] or (density[j] == density[i] and j < i)]
        delta = min(distance[i, j] for j in denser) if denser else distance[i].max()
        scores[i] = density[i] * delta
    return scores


def reference_stick_breaking(x: np.ndarray, config: ClusteringConfig) -> tuple[np.ndarray, np.ndarray]:
    """Masks and the owner of every patch, one image, one patch at a time."""
    n, scores = len(x), reference_scores(x, config.num_neighbors)
    scope, seeds, masks = np.ones(n), [], []
    while True:
        seed = max((i for i in range(n) if i not in seeds), key=lambda i: (scores[i] * scope[i], -i))
        seeds.append(seed)
        share = np.array([scope[i] * 2.0 ** (-((x[i] - x[seed]) ** 2).sum() * config.sharpness) for i in range(n)])
        stop = share.sum() <= config.stop_mass or scope.mean() <= config.stop_scope
        if len(seeds) == config.max_tokens or (stop and len(seeds) >= config.min_tokens):
            masks.append(scope)
            break
        masks.append(share)
        scope = scope - share
    owner = np.stack(masks).argmax(0)
    for index, seed in enumerate(seeds[: config.min_tokens]):
        owner[seed] = index
    return np.stack(masks), owner


def reference_dpc(x: np.ndarray, config: ClusteringConfig) -> list[set[int]]:
    scores = reference_scores(x, config.num_neighbors)
    order = sorted(range(len(x)), key=lambda i: (-scores[i], i))
    if config.num_clusters:
        centers = order[: config.num_clusters]
    else:
        centers = [i for i in order if scores[i] > config.score_threshold * scores[order[0]]][: config.max_tokens]
        centers = centers or order[: config.min_tokens]
    groups: dict[int, set[int]] = {c: {c} for c in centers}
    for i in set(range(len(x))) - set(centers):
        groups[min(centers, key=lambda c: ((x[i] - x[c]) ** 2).sum())].add(i)
    return list(groups.values())


def unit(x: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(x.double(), dim=-1).numpy()


def partition(assignment: torch.Tensor) -> set[frozenset[int]]:
    return {frozenset(torch.nonzero(assignment == c).flatten().tolist()) for c in assignment.unique()}


def test_distances_are_symmetric_to_the_last_bit() -> None:
    x = torch.nn.functional.normalize(blobs(0, n=123, width=37), dim=-1)
    distances = squared_distances(x)
    assert distances.equal(distances.mT) and not distances.diagonal(dim1=1, dim2=2).any()
    torch.testing.assert_close(distances.sqrt(), torch.cdist(x, x), atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_scores_equal_the_brute_force(seed: int) -> None:
    x = blobs(seed)
    scores = density_peak_scores(squared_distances(x).sqrt(), 5)
    for i in range(len(x)):
        np.testing.assert_allclose(scores[i].numpy(), reference_scores(x[i].double().numpy(), 5), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("min_tokens", [1, 3, 6])
@pytest.mark.parametrize("seed", range(4))
def test_stick_breaking_equals_the_brute_force(seed: int, min_tokens: int) -> None:
    config = ClusteringConfig(sharpness=4.0, max_tokens=6, min_tokens=min_tokens, num_neighbors=4)
    x = torch.from_numpy(unit(blobs(seed)))
    distances = squared_distances(x)
    masks, owner = stick_breaking(distances, density_peak_scores(distances.sqrt(), 4), config)
    for i in range(len(x)):
        expected_masks, expected_owner = reference_stick_breaking(x[i].numpy(), config)
        np.testing.assert_allclose(masks[i, : len(expected_masks)].numpy(), expected_masks, atol=1e-5)
        assert masks[i, len(expected_masks) :].abs().max().item() == 0 if len(expected_masks) < 6 else True
        assert owner[i].tolist() == expected_owner.tolist()


@pytest.mark.parametrize("config", [METHODS[1].values[0], METHODS[2].values[0]], ids=["threshold", "fixed"])
@pytest.mark.parametrize("seed", range(4))
def test_dpc_knn_equals_the_brute_force(seed: int, config: ClusteringConfig) -> None:
    x = blobs(seed)
    result = cluster(x, config)
    for i in range(len(x)):
        assert partition(result.assignment[i]) == {frozenset(group) for group in reference_dpc(unit(x)[i], config)}


# ---------------------------------------------------------------- goldens of the peers

IMAGES = ["000000010977", "000000010995", "gauss6", "gauss6b"]


@pytest.fixture(scope="module")
def golden(realdata):
    folder = realdata / "golden" / "algorithms"
    return np.load(folder / "dpc_knn_inputs.npz"), np.load(folder / "dpc_knn_expected.npz")


def scaled_distances(x: np.ndarray) -> torch.Tensor:
    """Euclidean distances over √width, as all three peers take them."""
    features = torch.from_numpy(x)[None]
    return torch.cdist(features, features) / features.shape[-1] ** 0.5


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize(("k", "n"), [(5, 8), (9, 20)])
def test_dpc_knn_equals_tcformer_and_chat_univi(golden, name: str, k: int, n: int) -> None:
    inputs, expected = golden
    distances = scaled_distances(inputs[name])
    scores = density_peak_scores(distances, k, include_self=True, peak="image")
    labels = dpc_knn(distances, scores, ClusteringConfig(method="dpc_knn", num_clusters=n, max_tokens=n))[0]
    best = scores[0].sort(descending=True).values[:n]
    for peer in ("tcformer", "chatunivi"):
        theirs = torch.from_numpy(expected[f"{name}/k{k}_n{n}/{peer}_idx"])
        assert partition(labels) == partition(theirs)
        if len(best.unique()) == n:  # else the peers number equally good centres as topk happens to give them
            assert labels.equal(theirs)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("k", [5, 9, 64])
def test_dpc_knn_equals_the_public_setok_code(golden, name: str, k: int) -> None:
    inputs, expected = golden
    distances = scaled_distances(inputs[name])
    scores = density_peak_scores(distances, k, include_self=True, peak="radius")
    np.testing.assert_allclose(scores[0].numpy(), expected[f"{name}/k{k}/setok_score"], rtol=1e-5, atol=1e-6)
    for case in ("q50", "q90", "q97"):
        config = ClusteringConfig(
            method="dpc_knn",
            score_threshold=float(expected[f"{name}/k{k}_{case}/setok_threshold"]),
            relative_threshold=False,
            max_tokens=distances.shape[-1],
        )
        labels = dpc_knn(distances, scores, config)[0]
        theirs = torch.from_numpy(expected[f"{name}/k{k}_{case}/setok_labels"])
        assert partition(labels) == partition(theirs)


# ---------------------------------------------------------------- properties


@pytest.mark.parametrize("config", METHODS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 30), width=st.integers(1, 6))
def test_every_patch_has_one_cluster_and_masks_sum_to_one(
    config: ClusteringConfig, seed: int, n: int, width: int
) -> None:
    result = cluster(blobs(seed, batch=2, n=n, width=width), config)
    torch.testing.assert_close(result.masks.sum(1), torch.ones(2, n))
    owned = one_hot(result.assignment, config.max_tokens).sum(-1)
    assert (owned > 0).equal(result.mask)
    assert (result.mask.long().diff(dim=1) <= 0).all(), "real clusters come first"
    assert (result.counts >= min(config.min_tokens, n)).all()
    assert (result.counts <= config.max_tokens).all()
    weights = result.pooling_weights(config.assignment)
    torch.testing.assert_close(weights.sum(-1), result.mask.float())


@pytest.mark.parametrize("config", METHODS)
def test_batch_mates_change_nothing(config: ClusteringConfig) -> None:
    x = blobs(1, batch=5)
    together = cluster(x, config)
    for i in range(5):
        alone = cluster(x[i : i + 1], config)
        assert alone.assignment[0].equal(together.assignment[i])
        torch.testing.assert_close(alone.masks[0], together.masks[i])


@pytest.mark.parametrize("config", METHODS)
def test_permuting_patches_permutes_the_result(config: ClusteringConfig) -> None:
    x = blobs(2, batch=1)
    order = torch.randperm(x.shape[1])
    straight, permuted = cluster(x, config), cluster(x[:, order], config)
    assert straight.assignment[0][order].equal(permuted.assignment[0])


@pytest.mark.parametrize("config", METHODS)
def test_scale_of_features_changes_nothing(config: ClusteringConfig) -> None:
    x = blobs(3)
    assert cluster(x, config).assignment.equal(cluster(1000 * x, config).assignment)


@pytest.mark.parametrize("config", METHODS)
def test_equally_good_patches_come_in_order_whatever_the_batch(config: ClusteringConfig) -> None:
    """Two patches are as far from each other as the other way round; a third image makes the matrix product another one."""
    for seed in range(200):
        pair = blobs(seed, batch=1, n=2, width=5)
        padded = torch.cat([pair, torch.zeros(1, 7, 5)], 1)
        mask = torch.ones(2, 9, dtype=torch.bool)
        mask[0, 2:] = False
        together = cluster(torch.cat([padded, blobs(seed + 1, batch=1, n=9, width=5)]), config, patch_mask=mask)
        assert together.assignment[0, :2].equal(cluster(pair, config).assignment[0]), seed


@pytest.mark.parametrize("config", METHODS)
def test_repeated_calls_agree(config: ClusteringConfig) -> None:
    x = blobs(4)
    assert cluster(x, config).assignment.equal(cluster(x.clone(), config).assignment)


@pytest.mark.parametrize("tokens", [1, 4, 12])
@pytest.mark.parametrize("method", ["stick_breaking", "dpc_knn"])
@pytest.mark.parametrize("features", ["blobs", "equal"])
def test_min_equal_to_max_fixes_the_number(method: str, tokens: int, features: str) -> None:
    config = ClusteringConfig(method=method, min_tokens=tokens, max_tokens=tokens)
    x = blobs(5) if features == "blobs" else torch.ones(2, 20, 4)
    assert cluster(x, config).counts.tolist() == [tokens] * len(x)


def test_not_finite_features_are_an_error() -> None:
    x = blobs(6)
    x[1, 3, 0] = torch.nan
    with pytest.raises(TrainingError, match="NaN or infinity"):
        cluster(x, ClusteringConfig())


def test_gradients_reach_the_features_through_the_masks() -> None:
    x = blobs(7, batch=1, n=8, width=3).double().requires_grad_(True)

    def masks(features: torch.Tensor) -> torch.Tensor:
        config = ClusteringConfig(sharpness=2.0, max_tokens=3, stop_mass=0.0, stop_scope=0.0)
        return cluster_distances(squared_distances(features), config).masks

    assert torch.autograd.gradcheck(masks, (x,), atol=1e-4)


def test_higher_threshold_never_gives_more_tokens() -> None:
    x = blobs(8, batch=6)
    counts = [
        cluster(x, ClusteringConfig(method="dpc_knn", score_threshold=t, max_tokens=40)).counts for t in (0.1, 0.3, 0.6)
    ]
    assert (counts[0] >= counts[1]).all()
    assert (counts[1] >= counts[2]).all()
