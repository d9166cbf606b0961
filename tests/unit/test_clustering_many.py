"""Many settings in one pass are the same settings one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from setok.config import ClusteringConfig, TokenizerConfig
from setok.errors import ConfigError
from setok.models.clustering import DistinctClusters, cluster, cluster_many

GRID = (6, 5)
BASE = {"max_tokens": 7, "min_tokens": 1}


def config(**changes: Any) -> ClusteringConfig:
    return ClusteringConfig.model_validate(BASE | changes)


def features_of(seed: int, batch: int = 4) -> Tensor:
    """A few directions with noise, so that thresholds matter."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(batch, 4, 8, generator=generator)
    which = torch.randint(0, 4, (batch, GRID[0] * GRID[1]), generator=generator)
    noise = torch.randn(batch, GRID[0] * GRID[1], 8, generator=generator)
    return torch.stack([c[w] for c, w in zip(centres, which, strict=True)]) + 0.4 * noise


def check_against_separate_runs(
    found: DistinctClusters, features: Tensor, several: Sequence[ClusteringConfig], mask: Tensor | None
) -> None:
    for setting, outcomes in zip(several, found.outcome, strict=True):
        alone = cluster(features, setting, grid=GRID, patch_mask=mask)
        got = found.clusters.of_images(outcomes)
        width = alone.mask.shape[1]
        assert torch.equal(found.image[outcomes], torch.arange(len(features)))
        assert torch.equal(got.assignment, alone.assignment)
        assert torch.equal(got.mask[:, :width], alone.mask)
        assert not got.mask[:, width:].any()
        real = alone.mask.unsqueeze(-1)
        assert torch.equal(got.masks[:, :width] * real, alone.masks * real), "to the last bit"


METHODS: tuple[tuple[str, str, Sequence[float]], ...] = (
    ("dpc_knn", "score_threshold", (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0)),
    ("stick_breaking", "stop_mass", (0.0, 0.5, 1.0, 2.0, 4.0, 9.0, 40.0)),
    ("stick_breaking", "stop_scope", (0.0, 0.01, 0.03, 0.2, 0.7)),
    ("stick_breaking", "sharpness", (0.5, 1.0, 3.0, 9.0)),
    ("cosine_graph", "similarity_threshold", (-1.0, 0.0, 0.3, 0.6, 0.9)),
    ("dpc_knn", "num_neighbors", (1, 2, 5, 29)),
    ("stick_breaking", "max_tokens", (1, 2, 3, 7)),
)


@pytest.mark.parametrize("split", [0, 2])
@pytest.mark.parametrize(("method", "key", "values"), METHODS)
@pytest.mark.parametrize("padded", [False, True])
def test_one_pass_is_exact(method: str, key: str, values: Sequence[float], split: int, padded: bool) -> None:
    several = [config(method=method, split_regions=split, **{key: value}) for value in values]
    features = features_of(3)
    mask = None
    if padded:
        mask = torch.ones(len(features), *GRID, dtype=torch.bool)
        mask[1, :, 3:] = False
        mask[2, 4:] = False
        mask = mask.flatten(1)
    found = cluster_many(features, several, grid=GRID, patch_mask=mask)
    check_against_separate_runs(found, features, several, mask)
    assert found.outcome.unique().numel() == len(found.image), "no outcome that nothing leads to"


@given(
    seed=st.integers(0, 50),
    minimum=st.integers(1, 4),
    soft=st.booleans(),
    thresholds=st.lists(st.floats(0, 12), min_size=1, max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_any_thresholds_are_exact(seed: int, minimum: int, soft: bool, thresholds: list[float]) -> None:
    several = [
        config(stop_mass=value, min_tokens=minimum, assignment="soft" if soft else "hard") for value in thresholds
    ]
    features = features_of(seed, batch=2)
    check_against_separate_runs(cluster_many(features, several), features, several, None)


def test_hundreds_of_thresholds_have_few_outcomes() -> None:
    several = [config(method="dpc_knn", score_threshold=number / 300) for number in range(300)]
    found = cluster_many(features_of(0), several)
    assert len(found.image) <= 4 * BASE["max_tokens"]
    assert len(found.image) > 4


def test_methods_without_thresholds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"method=kmeans has no threshold.*\n.*stick_breaking"):
        cluster_many(features_of(0), [config(method="kmeans")])
    with pytest.raises(ConfigError, match="no grid was given"):
        cluster_many(features_of(0), [config(split_regions=2)])


# ---------------------------------------------------------------- through the whole tokenizer


@pytest.mark.parametrize(
    ("resize", "assignment", "precision"),
    [("crop", "soft", "fp32"), ("crop", "hard", "fp32"), ("crop", "soft", "bf16"), ("fit", "soft", "fp32")],
)
def test_figures_are_those_of_separate_runs(resize: str, assignment: str, precision: str) -> None:
    from ray_jobs.evaluation.thresholds import score_many
    from ray_jobs.evaluation.tokenizer_replica import score_reconstruction
    from setok.metrics import scoring
    from tests.untrained import predictor_of, scenes_batch

    model = TokenizerConfig.model_validate(
        {
            "image_size": 32,
            "resize": resize,
            "encoder": {"patch_size": 4, "width": 24, "depth": 1, "num_heads": 3},
            "clustering": {"assignment": assignment, "feature_dim": 8, "max_tokens": 6, "split_regions": 2},
            "merger": {"num_heads": 3, "outline": 4, "relative_position": True},
            "detokenizer": {"width": 24, "depth": 1, "num_heads": 3},
        }
    )
    predictor, batch = predictor_of(model, precision), scenes_batch(5, size=32, padded=resize == "fit")
    several = [model.clustering.model_copy(update={"stop_mass": value}) for value in (0.0, 1.0, 4.0, 12.0, 60.0)]
    rows = score_many(predictor, batch, several)
    for number, setting in enumerate(several):
        made = predictor.reconstruct(batch, clustering=setting)
        alone = score_reconstruction(batch, made)
        mine = {name: values[rows.outcome[number]] for name, values in rows.columns.items()}
        assert mine.keys() == alone.keys() | {scoring.VALID}
        for name in ("tokens", "ari", "foreground_ari", "miou", "mbo", "pixel_ari", "num_objects"):
            torch.testing.assert_close(
                torch.tensor(mine[name]), torch.tensor(alone[name]), rtol=0, atol=0, equal_nan=True
            )
        for name in ("psnr", "ssim", "l1", "painted_psnr"):
            torch.testing.assert_close(
                torch.tensor(mine[name]), torch.tensor(alone[name]), rtol=1e-4, atol=1e-4, equal_nan=True
            )
    assert len(set(rows.outcome[:, 0].tolist())) > 1, "the thresholds make a difference"
