"""The same pictures clustered under many settings, for little more than the price of one.

Distances between patches do not depend on any threshold, and density-peak scores only on the number of neighbours, so both are
computed once. What comes of two thresholds is mostly the same for a picture: it is told once, with all settings it stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from setok.config import ClusteringConfig
from setok.errors import ConfigError
from setok.models.clustering.clusters import Clusters, concatenate
from setok.models.clustering.density_peaks import density_peak_scores, squared_distances
from setok.models.clustering.interface import BY_DISTANCE, cluster_by_distance, cut_regions, require_finite


@dataclass(frozen=True, kw_only=True)
class DistinctClusters:
    """All different ways in which some settings cluster the pictures of a batch."""

    clusters: Clusters
    """Of every outcome, as if each were a picture of its own."""
    image: Int[Tensor, " outcomes"]
    """The picture that an outcome is of."""
    outcome: Int[Tensor, "settings batch"]
    """What comes of every setting for every picture."""


def cluster_many(
    features: Float[Tensor, "batch patches width"],
    settings: Sequence[ClusteringConfig],
    *,
    grid: tuple[int, int] | None = None,
    patch_mask: Bool[Tensor, "batch patches"] | None = None,
) -> DistinctClusters:
    """The clusters that ``cluster`` gives for every one of the settings, to the last bit.

    Args:
        features: any scale; brought to unit length here.
        settings: of methods that need distances alone: stick_breaking, dpc_knn, cosine_graph.
        grid: rows and columns of patches, where a setting has ``split_regions``.
        patch_mask: True for real patches.

    Raises:
        ConfigError: another method, or no grid where one is needed.
        TrainingError: a feature is not finite.
    """
    for setting in settings:
        if setting.method not in BY_DISTANCE:
            raise ConfigError(
                f"clustering.method={setting.method} has no threshold to go through",
                f"use one of {', '.join(BY_DISTANCE)}",
            )
    if patch_mask is not None:
        features = features.masked_fill(~patch_mask.unsqueeze(-1), 0.0)
    features = F.normalize(features.float(), dim=-1)
    require_finite(features)
    distances = squared_distances(features)
    scores: dict[int, Tensor] = {}
    found = _Found(len(features))
    for setting in settings:
        if setting.method != "cosine_graph" and setting.num_neighbors not in scores:
            scores[setting.num_neighbors] = density_peak_scores(
                distances, setting.num_neighbors, squared=True, patch_mask=patch_mask
            )
        known = None if setting.method == "cosine_graph" else scores[setting.num_neighbors]
        found.add(setting, cluster_by_distance(distances, setting, patch_mask, scores=known))
    return found.distinct(grid, max(setting.max_tokens for setting in settings))


class _Found:
    """Gathers outcomes setting by setting, and keeps those that are new.

    They are cut into connected regions at the end, when there are few; settings that cut in another way have outcomes of their
    own from the beginning.
    """

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._known: dict[tuple[object, ...], int] = {}
        self._new: list[tuple[ClusteringConfig, Clusters, list[int]]] = []
        self._outcome: list[list[int]] = []

    def add(self, setting: ClusteringConfig, clusters: Clusters) -> None:
        """Take note of what a setting makes of all pictures."""
        cut = (setting.split_regions, setting.max_tokens) if setting.split_regions else ()
        assignment, masks = clusters.assignment.cpu().numpy(), clusters.masks.cpu().numpy()
        row, new = [], []
        for image in range(self._batch):
            # Empty masks at the end say nothing; how many there are depends on the most tokens that were allowed.
            real = int(clusters.mask[image].sum())
            key = (image, setting.method, cut, real, assignment[image].tobytes(), masks[image, :real].tobytes())
            if key not in self._known:
                self._known[key] = len(self._known)
                new.append(image)
            row.append(self._known[key])
        self._outcome.append(row)
        if new:
            self._new.append((setting, clusters.of_images(new), new))

    def distinct(self, grid: tuple[int, int] | None, most_tokens: int) -> DistinctClusters:
        """All of it, cut into regions and brought to one width."""
        parts = [_widen(cut_regions(clusters, setting, grid), most_tokens) for setting, clusters, _ in self._new]
        images = [image for _, _, new in self._new for image in new]
        clusters = concatenate(parts)
        device = clusters.mask.device
        return DistinctClusters(
            clusters=clusters,
            image=torch.tensor(images, device=device),
            outcome=torch.tensor(self._outcome, device=device),
        )


def _widen(clusters: Clusters, most_tokens: int) -> Clusters:
    """With room for so many tokens, the added ones empty."""
    missing = most_tokens - clusters.mask.shape[1]
    return replace(
        clusters,
        masks=F.pad(clusters.masks, (0, 0, 0, missing)),
        mask=F.pad(clusters.mask, (0, missing)),
    )
