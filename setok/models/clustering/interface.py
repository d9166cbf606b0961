"""From features to clusters by any method.

Features are brought to unit length first, so thresholds mean the same for every encoder. Nothing is random, ties break
by index, and an image's clusters do not depend on the other images of the batch, nor on padding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from setok.config import ClusteringConfig
from setok.errors import ConfigError, TrainingError
from setok.models.clustering.clusters import Clusters, one_hot, real_first
from setok.models.clustering.cosine_graph import cosine_graph
from setok.models.clustering.density_peaks import density_peak_scores, squared_distances
from setok.models.clustering.dpc_knn import dpc_knn
from setok.models.clustering.fixed import grid_cells, kmeans
from setok.models.clustering.regions import split_regions
from setok.models.clustering.stick_breaking import stick_breaking

NOT_FINITE = "the features to cluster hold NaN or infinity"
BY_DISTANCE = ("stick_breaking", "dpc_knn", "cosine_graph")
"""Methods that need nothing but distances; with them the picture decides the number of tokens."""
_NOT_FINITE_REMEDY = "lower the learning rate, or look for broken weights: training diverged or a checkpoint is damaged"


def cluster(
    features: Float[Tensor, "batch patches width"],
    config: ClusteringConfig,
    *,
    grid: tuple[int, int] | None = None,
    patch_mask: Bool[Tensor, "batch patches"] | None = None,
) -> Clusters:
    """Group the patches of every image as ``config`` says.

    Args:
        features: any scale; brought to unit length here, computed in fp32.
        config: method, threshold, and bounds on the number of tokens, which are kept exactly; an image with fewer real
            patches than tokens gets one token per patch.
        grid: rows and columns of patches, for ``method=grid``.
        patch_mask: True for real patches. The others change nothing, and belong to no cluster (-1).

    Raises:
        ConfigError: the method needs a grid, or weights, which a plain function does not have.
        TrainingError: a feature is not finite.
    """
    if patch_mask is not None:
        features = features.masked_fill(~patch_mask.unsqueeze(-1), 0.0)
    features = F.normalize(features.float(), dim=-1)
    require_finite(features)
    if config.method in BY_DISTANCE:
        found = cluster_by_distance(squared_distances(features), config, patch_mask)
        return cut_regions(found, config, grid)
    real = (
        torch.ones(features.shape[:2], dtype=torch.bool, device=features.device) if patch_mask is None else patch_mask
    )
    if config.method == "grid":
        if grid is None or grid[0] * grid[1] != features.shape[1]:
            raise ConfigError(
                f"clustering.method=grid was given {features.shape[1]} patches and grid={grid}",
                "pass grid=(rows, columns), whose product is the number of patches",
            )
        assignment, scores = grid_cells(grid, config.num_tokens, real), torch.zeros_like(features[..., 0])
    elif config.method == "kmeans":
        with torch.no_grad():
            scores = density_peak_scores(
                squared_distances(features), config.num_neighbors, squared=True, patch_mask=patch_mask
            )
            assignment = kmeans(features, scores, config.num_tokens, config.num_iterations, real)
    else:
        raise ConfigError(
            f"clustering.method={config.method} has weights, and cluster() has none",
            "use the tokenizer, which holds them (setok.models.tokenizer.ClusteringHead)",
        )
    return real_first(assignment, one_hot(assignment, config.max_tokens), scores)


def cluster_distances(
    distances: Float[Tensor, "batch patches patches"],
    config: ClusteringConfig,
    patch_mask: Bool[Tensor, "batch patches"] | None = None,
) -> Clusters:
    """Group patches by their squared distances; see ``cluster``.

    Raises:
        ConfigError: the method needs more than distances.
        TrainingError: a distance is not finite.
    """
    if config.method not in BY_DISTANCE:
        raise ConfigError(
            f"clustering.method={config.method} needs more than distances",
            f"use cluster(), or one of {', '.join(BY_DISTANCE)}",
        )
    if patch_mask is not None:
        distances = distances.masked_fill(~(patch_mask.unsqueeze(1) & patch_mask.unsqueeze(2)), 0.0)
    require_finite(distances)
    return cluster_by_distance(distances, config, patch_mask)


def cut_regions(clusters: Clusters, config: ClusteringConfig, grid: tuple[int, int] | None) -> Clusters:
    """Clusters in connected regions, where the config asks for that.

    Raises:
        ConfigError: it does, and there is no grid.
    """
    if not config.split_regions:
        return clusters
    if grid is None:
        raise ConfigError(
            f"clustering.split_regions={config.split_regions} needs to know where patches lie, and no grid was given",
            "pass grid=(rows, columns)",
        )
    return split_regions(clusters, grid, min_patches=config.split_regions, max_tokens=config.max_tokens)


def require_finite(values: Tensor) -> None:
    """Stop on NaN and infinity, by one reduction.

    A compiled graph cannot raise this error: on a CPU it stops with torch's RuntimeError, on a GPU it does not look, since an
    assertion there would end the process's use of the device.

    Raises:
        TrainingError: a value is not finite.
    """
    finite = torch.isfinite(values.detach().sum())
    if not torch.compiler.is_compiling():
        if not finite:
            raise TrainingError(NOT_FINITE, _NOT_FINITE_REMEDY)
    elif values.device.type == "cpu":
        torch._assert_async(finite, NOT_FINITE)


def cluster_by_distance(
    distances: Float[Tensor, "batch patches patches"],
    config: ClusteringConfig,
    patch_mask: Bool[Tensor, "batch patches"] | None,
    *,
    scores: Float[Tensor, "batch patches"] | None = None,
) -> Clusters:
    """Clusters by a method of ``BY_DISTANCE``, not cut into regions.

    Args:
        distances: squared, finite.
        patch_mask: True for real patches.
        scores: the density-peak scores of these distances, where they are known already.
    """
    if config.method == "cosine_graph":
        with torch.no_grad():
            assignment, degree = cosine_graph(distances, config, patch_mask)
        return real_first(assignment, one_hot(assignment, config.max_tokens), degree)
    if scores is None:
        with torch.no_grad():
            scores = density_peak_scores(distances, config.num_neighbors, squared=True, patch_mask=patch_mask)
    if config.method == "stick_breaking":
        masks, assignment = stick_breaking(distances, scores, config, patch_mask)
    else:
        assignment = dpc_knn(distances, scores, config, patch_mask)
        masks = one_hot(assignment, config.max_tokens)
    return real_first(assignment, masks, scores)
