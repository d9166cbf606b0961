"""What holds for every clustering method."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from setok.config import ClusteringConfig
from setok.errors import ConfigError, TrainingError
from setok.models.clustering import Clusters, cluster, density_peak_scores, dpc_knn, one_hot
from setok.models.clustering.resampler import Resampler
from setok.models.tokenizer import ClusteringHead
from tests.unit.test_clustering import blobs, golden, partition, reference_scores, scaled_distances, unit  # noqa: F401

CONFIGS = {
    "stick_breaking": ClusteringConfig(method="stick_breaking", sharpness=4.0),
    "dpc_knn": ClusteringConfig(method="dpc_knn", score_threshold=0.3),
    "dpc_knn_fixed": ClusteringConfig(method="dpc_knn", num_clusters=5),
    "cosine_graph": ClusteringConfig(method="cosine_graph", similarity_threshold=0.8),
    "grid": ClusteringConfig(method="grid", max_tokens=6),
    "kmeans": ClusteringConfig(method="kmeans", num_clusters=5, num_iterations=4),
    "resampler": ClusteringConfig(method="resampler", max_tokens=5),
}
METHODS = pytest.mark.parametrize("config", [pytest.param(c, id=name) for name, c in CONFIGS.items()])


def group(
    x: torch.Tensor,
    config: ClusteringConfig,
    patch_mask: torch.Tensor | None = None,
    grid: tuple[int, int] | None = None,
) -> Clusters:
    """Clusters by any method; the resampler's weights are always the same."""
    torch.manual_seed(3)
    head = ClusteringHead(config, x.shape[-1]).eval()
    with torch.no_grad():
        return head(x, grid=grid or (1, x.shape[1]), patch_mask=patch_mask)[0]


# ---------------------------------------------------------------- properties


@METHODS
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 5), columns=st.integers(1, 6), width=st.integers(1, 6))
def test_masks_sum_to_one_and_bounds_hold(
    config: ClusteringConfig, seed: int, rows: int, columns: int, width: int
) -> None:
    n = rows * columns
    result = group(blobs(seed, batch=2, n=n, width=width), config, grid=(rows, columns))
    torch.testing.assert_close(result.masks.sum(1), torch.ones(2, n))
    owned = one_hot(result.assignment, config.max_tokens).sum(-1)
    assert owned.sum(1).eq(n).all(), "every patch has one cluster"
    if config.method == "resampler":
        assert (result.counts == config.num_tokens).all()
    else:
        assert (owned > 0).equal(result.mask)
        assert (result.mask.long().diff(dim=1) <= 0).all(), "real clusters come first"
        assert (result.counts <= min(config.num_tokens, n)).all()
        assert (result.counts >= min(config.min_tokens, n)).all()
    if config.method in ("grid", "kmeans") or config.num_clusters:
        assert (result.counts == min(config.num_tokens, n)).all()
    torch.testing.assert_close(result.pooling_weights(config.assignment).sum(-1), result.mask.float())


@METHODS
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 12), padding=st.integers(1, 9))
def test_padding_and_batch_mates_change_nothing(config: ClusteringConfig, seed: int, n: int, padding: int) -> None:
    alone = blobs(seed, batch=1, n=n, width=5)
    junk = torch.full((1, padding, 5), torch.nan)
    mate = blobs(seed + 1, batch=1, n=n + padding, width=5)
    mask = torch.ones(2, n + padding, dtype=torch.bool)
    mask[0, n:] = False
    padded = group(torch.cat([torch.cat([alone, junk], 1), mate]), config, mask)
    result = group(alone, config)
    assert padded.assignment[0, :n].equal(result.assignment[0])
    assert (padded.assignment[0, n:] == -1).all()
    assert padded.mask[0].equal(result.mask[0])
    torch.testing.assert_close(padded.masks[0, :, :n], result.masks[0])
    torch.testing.assert_close(padded.scores[0, :n], result.scores[0])
    assert not padded.masks[0, :, n:].any() and not padded.scores[0, n:].any()
    weights = padded.pooling_weights("soft")
    assert not weights[0, :, n:].any()
    torch.testing.assert_close(weights[0, :, :n], result.pooling_weights("soft")[0])
    assert padded.assignment[1].equal(group(mate, config).assignment[0])


@METHODS
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_permuting_patches_permutes_the_result(config: ClusteringConfig, seed: int) -> None:
    if config.method == "grid":
        return  # a grid is about places
    x = blobs(seed, batch=1, n=30)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(30))
    assert group(x, config).assignment[0][order].equal(group(x[:, order], config).assignment[0])


@METHODS
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), exponent=st.integers(-12, 12))
def test_scale_of_features_changes_nothing(config: ClusteringConfig, seed: int, exponent: int) -> None:
    x = blobs(seed)
    scaled, result = group(2.0**exponent * x, config), group(x, config)
    assert scaled.assignment.equal(result.assignment)
    torch.testing.assert_close(scaled.masks, result.masks)


@METHODS
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 4))
def test_one_patch_and_fewer_patches_than_neighbours(config: ClusteringConfig, seed: int, n: int) -> None:
    few = group(blobs(seed, n=n), config)
    assert few.assignment.shape == (3, n) and few.assignment.min() >= 0
    assert torch.isfinite(few.scores).all() and torch.isfinite(few.masks).all()
    assert (few.counts <= n).all() or config.method == "resampler"
    if n == 1:
        assert (few.counts == (5 if config.method == "resampler" else 1)).all()


@METHODS
@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 30), value=st.floats(-3, 3).filter(lambda v: abs(v) > 1e-3))
def test_equal_features_make_no_more_tokens_than_asked_for(config: ClusteringConfig, n: int, value: float) -> None:
    result = group(torch.full((2, n, 4), value), config)
    torch.testing.assert_close(result.masks.sum(1), torch.ones(2, n))
    fixed = config.method in ("grid", "kmeans") or config.num_clusters is not None
    expected = 5 if config.method == "resampler" else min(config.num_tokens, n) if fixed else 1
    assert result.counts.tolist() == [expected, expected]


@pytest.mark.parametrize("tokens", [1, 4, 12])
@pytest.mark.parametrize("method", ["stick_breaking", "dpc_knn", "cosine_graph", "grid", "kmeans", "resampler"])
@pytest.mark.parametrize("features", ["blobs", "equal"])
def test_min_equal_to_max_fixes_the_number(method: str, tokens: int, features: str) -> None:
    config = ClusteringConfig(method=method, min_tokens=tokens, max_tokens=tokens)
    x = blobs(5, n=20) if features == "blobs" else torch.ones(2, 20, 4)
    assert group(x, config, grid=(4, 5)).counts.tolist() == [tokens] * len(x)


@METHODS
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), place=st.integers(0, 39), value=st.sampled_from([torch.nan, torch.inf, -torch.inf]))
def test_features_that_are_not_finite_are_an_error(
    config: ClusteringConfig, seed: int, place: int, value: float
) -> None:
    x = blobs(seed)
    x[seed % 3, place, 0] = value
    with pytest.raises(TrainingError, match="NaN or infinity"):
        group(x, config)


@pytest.mark.parametrize("method", ["stick_breaking", "resampler"])
def test_gradients_reach_the_features_through_soft_masks(method: str) -> None:
    x = blobs(7, batch=1, n=6, width=3).requires_grad_(True)
    result = ClusteringHead(ClusteringConfig(method=method, max_tokens=3), 3)(x)[0]
    result.pooling_weights("soft").square().sum().backward()
    assert x.grad is not None and x.grad.abs().max() > 0


def test_gradcheck_of_the_resampler() -> None:
    module = Resampler(3, 4).double()
    x = blobs(7, batch=1, n=5, width=4).double().requires_grad_(True)
    mask = torch.tensor([[True, True, True, True, False]])
    assert torch.autograd.gradcheck(lambda f: (module(f, 2, mask).masks, module(f, 2, mask).weights), (x,))


SETTINGS = {
    # setting: (a config, the same with another value of it); what comes out must differ
    "method": ({"method": "kmeans", "num_clusters": 6, "max_tokens": 6}, {"method": "grid"}),
    "assignment": ({}, {"assignment": "hard"}),
    "feature_dim": ({}, {"feature_dim": 3}),
    "num_neighbors": ({"method": "dpc_knn", "num_clusters": 6}, {"num_neighbors": 25}),
    "score_threshold": ({"method": "dpc_knn"}, {"score_threshold": 0.7}),
    "relative_threshold": ({"method": "dpc_knn", "score_threshold": 0.7}, {"relative_threshold": False}),
    "similarity_threshold": ({"method": "cosine_graph"}, {"similarity_threshold": 0.95}),
    "num_clusters": ({"method": "grid"}, {"num_clusters": 3}),
    "num_iterations": ({"method": "kmeans", "num_clusters": 8, "num_iterations": 0}, {"num_iterations": 5}),
    "sharpness": ({}, {"sharpness": 1.5}),
    "split_regions": ({"sharpness": 4.0}, {"split_regions": 1}),
    "stop_mass": ({"stop_mass": 0.0}, {"stop_mass": 12.0}),
    "stop_scope": ({"stop_mass": 0.0}, {"stop_scope": 0.6}),
    "min_tokens": ({"method": "cosine_graph", "similarity_threshold": 0.0}, {"min_tokens": 11}),
    "max_tokens": ({"sharpness": 4.0}, {"max_tokens": 2}),
}


def test_the_table_of_settings_is_complete() -> None:
    assert SETTINGS.keys() == ClusteringConfig.model_fields.keys()


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_changes_the_result_at_inference(name: str) -> None:
    """Each through the head that was built with another value of it, as ``tokenize(pixels, clustering)`` does."""
    base, change = SETTINGS[name]
    before = ClusteringConfig(**base)  # type: ignore[arg-type]
    after = ClusteringConfig(**(base | change))  # type: ignore[arg-type]
    x = blobs(3)
    torch.manual_seed(3)
    heads = [ClusteringHead(config, 8) for config in (before, after)]
    one = heads[0](x, grid=(5, 8))[0]
    other = heads[1 if name == "feature_dim" else 0](x, after, grid=(5, 8))[0]  # that one is a matter of weights
    weights = [c.pooling_weights(s.assignment) for c, s in ((one, before), (other, after))]
    same = weights[0].shape == weights[1].shape and torch.allclose(weights[0], weights[1], atol=1e-4)
    assert not same, f"clustering.{name} does nothing"


# ---------------------------------------------------------------- golden of a peer, and errors


def test_masked_dpc_knn_equals_chat_univi(golden) -> None:  # noqa: F811
    """The golden does not say which tokens were masked: of all masked tails and heads only 30 and 31 last ones reproduce it."""
    inputs, expected = golden
    mask = torch.arange(150)[None] < 120
    distances = scaled_distances(inputs["gauss6"])
    scores = density_peak_scores(distances, 5, include_self=True, peak="image", patch_mask=mask)
    labels = dpc_knn(distances, scores, ClusteringConfig(method="dpc_knn", num_clusters=8), mask)[0]
    theirs = expected["gauss6/masked_k5_n8/chatunivi_idx"]
    assert labels[:120].tolist() == theirs[:120].tolist()
    assert (labels[120:] == -1).all() and not theirs[120:].any(), "masked tokens: none here, the first cluster there"


@pytest.mark.parametrize(
    ("settings_", "message", "remedy"),
    [
        ({"num_clusters": 4}, "num_clusters=4 has no part in .*method=stick_breaking", "num_clusters=null"),
        ({"similarity_threshold": 0.5}, "similarity_threshold=0.5 has no part", "cosine_graph"),
        ({"method": "dpc_knn", "num_iterations": 3}, "num_iterations=3", "kmeans"),
        ({"method": "kmeans", "num_clusters": 2, "min_tokens": 3}, "num_clusters=2 is below", "min_tokens=2"),
    ],
)
def test_settings_of_another_method_are_refused(settings_: dict[str, object], message: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        ClusteringConfig(**settings_)  # type: ignore[arg-type]
    assert remedy in str(caught.value)


def test_methods_say_what_they_need() -> None:
    x = blobs(1)
    with pytest.raises(ConfigError, match=r"40 patches and grid=\(3, 4\)"):
        cluster(x, CONFIGS["grid"], grid=(3, 4))
    with pytest.raises(ConfigError, match="resampler has weights"):
        cluster(x, CONFIGS["resampler"])
    head = ClusteringHead(CONFIGS["resampler"], 8)
    with pytest.raises(ConfigError, match="9 tokens, and the model has 5 queries"):
        head(x, ClusteringConfig(method="resampler", max_tokens=9))
    assert head(x, ClusteringConfig(method="resampler", max_tokens=2))[0].counts.tolist() == [2, 2, 2]
    assert head(x, CONFIGS["kmeans"])[0].counts.tolist() == [5, 5, 5]
