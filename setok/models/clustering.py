"""Dynamic clustering of patch features into a number of tokens that depends on the picture.

All methods score patches by density peaks (Rodriguez & Laio, Science 2014): a good centre is dense and far from
anything denser. Features are brought to unit length first, so thresholds mean the same for every encoder. Nothing is
random, ties break by index, and an image's clusters do not depend on the other images of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from setok.config import ClusteringConfig
from setok.errors import TrainingError


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Clusters of a batch of images, real ones first, padded to ``max_tokens``."""

    assignment: Int[Tensor, "batch patches"]
    """Index of the cluster that each patch belongs to."""
    masks: Float[Tensor, "batch clusters patches"]
    """Share of every patch that each cluster takes; sums to one over clusters."""
    mask: Bool[Tensor, "batch clusters"]
    """True for real clusters: those that own at least one patch."""
    scores: Float[Tensor, "batch patches"]
    """Density × distance of every patch."""

    @property
    def counts(self) -> Int[Tensor, " batch"]:
        """Number of clusters of every image."""
        return self.mask.sum(-1)

    def pooling_weights(self, assignment: Literal["soft", "hard"]) -> Float[Tensor, "batch clusters patches"]:
        """Weights that average patches into tokens: each real cluster's row sums to one, padding rows are zero."""
        owned = one_hot(self.assignment, self.masks.shape[1])
        weights = (
            owned if assignment == "hard" else torch.where(self.masks.sum(-1, keepdim=True) > 1e-4, self.masks, owned)
        )
        weights = weights * self.mask.unsqueeze(-1)
        return weights / weights.sum(-1, keepdim=True).clamp_min(1e-6)


def cluster(features: Float[Tensor, "batch patches width"], config: ClusteringConfig) -> Clusters:
    """Group the patches of every image as ``config`` says.

    Args:
        features: any scale; brought to unit length here, computed in fp32.
        config: method, threshold, and bounds on the number of tokens, which are kept exactly.

    Raises:
        TrainingError: a feature is not finite.
    """
    features = F.normalize(features.float(), dim=-1)
    return cluster_distances(squared_distances(features), config)


def cluster_distances(distances: Float[Tensor, "batch patches patches"], config: ClusteringConfig) -> Clusters:
    """Group patches by their squared distances; see ``cluster``."""
    if not torch.isfinite(distances).all():
        raise TrainingError(
            "the features to cluster hold NaN or infinity",
            "lower the learning rate, or look for broken weights: training diverged or a checkpoint is damaged",
        )
    with torch.no_grad():
        scores = density_peak_scores(distances.sqrt(), config.num_neighbors)
    if config.method == "stick_breaking":
        masks, assignment = stick_breaking(distances, scores, config)
    else:
        assignment = dpc_knn(distances, scores, config)
        masks = one_hot(assignment, config.max_tokens)
    return _real_first(assignment, masks, scores)


def squared_distances(x: Float[Tensor, "batch n width"]) -> Float[Tensor, "batch n n"]:
    """Squared Euclidean distances between all rows, never negative, exactly zero on the diagonal."""
    square = x.pow(2).sum(-1)
    distances = square.unsqueeze(1) + square.unsqueeze(2) - 2 * x @ x.transpose(1, 2)
    eye = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    return distances.clamp_min(0).masked_fill(eye, 0.0)


def density_peak_scores(
    distances: Float[Tensor, "batch n n"],
    num_neighbors: int,
    *,
    include_self: bool = False,
    peak: Literal["own", "image", "radius"] = "own",
) -> Float[Tensor, "batch n"]:
    """Score ρ·δ of every patch.

    ρ_i = exp(−mean of the squared distances to the k nearest), δ_i = distance to the nearest denser patch.

    Args:
        distances: Euclidean (not squared).
        num_neighbors: k; cut down where there are fewer patches.
        include_self: count the patch itself among its neighbours, as TCFormer and Chat-UniVi do.
        peak: δ of a patch that has no denser one: ``own``, its largest distance; ``image``, the largest distance in the
            image (TCFormer, Zeng et al. 2022); ``radius``, the smallest eccentricity of the image, which also caps every
            other δ (what the public SeTok code computes).
    """
    n = distances.shape[-1]
    first = 0 if include_self else 1
    k = max(1, min(num_neighbors, n - first))
    nearest = distances.topk(min(k + first, n), largest=False).values[..., first:]
    if nearest.shape[-1] == 0:
        return torch.ones_like(distances[..., 0])
    density = torch.exp(-nearest.pow(2).mean(-1))
    denser = _is_denser(density, earlier_wins=peak == "own")
    nearest_denser = distances.masked_fill(~denser, torch.inf).amin(-1)
    eccentricity = distances.amax(-1)
    if peak == "own":
        delta = torch.where(torch.isinf(nearest_denser), eccentricity, nearest_denser)
    elif peak == "image":
        delta = nearest_denser.minimum(eccentricity.amax(-1, keepdim=True))
    else:
        delta = nearest_denser.minimum(eccentricity.amin(-1, keepdim=True))
    return density * delta


def _is_denser(density: Float[Tensor, "batch n"], *, earlier_wins: bool) -> Bool[Tensor, "batch n n"]:
    """[i, j] is True where j is denser than i.

    Of two equally dense patches the earlier one counts as denser, so that a flat region has one peak; the peers leave such
    patches unrelated, and each is a peak.
    """
    n = density.shape[-1]
    mine, other = density.unsqueeze(2), density.unsqueeze(1)
    if not earlier_wins:
        return other > mine
    earlier = torch.ones(n, n, dtype=torch.bool, device=density.device).tril(-1)
    return (other > mine) | ((other == mine) & earlier)


def stick_breaking(
    distances: Float[Tensor, "batch n n"], scores: Float[Tensor, "batch n"], config: ClusteringConfig
) -> tuple[Float[Tensor, "batch k n"], Int[Tensor, "batch n"]]:
    """Algorithm 1 of SeTok (Wu et al. 2025), the stick-breaking of GENESIS-V2 (Engelcke et al. 2021) with density-peak seeds.

    Each round takes the best-scored patch of the remaining scope z as a seed and gives it the share
    α = exp(−d²·c·ln 2) of what is left of every patch; the last mask is the remaining scope, so masks sum to one.
    A round that would explain too little, or finds too little left, ends the image's rounds (not before ``min_tokens``).

    Returns:
        The masks, and for every patch the mask that takes most of it. The first ``min_tokens`` seeds own their patch
        whatever the masks say, so the lower bound on the number of tokens holds.
    """
    batch, n, _ = distances.shape
    sharpness = config.sharpness if config.sharpness is not None else float(config.max_tokens)
    rows = torch.arange(batch, device=distances.device)
    scope = torch.ones(batch, n, device=distances.device)
    free = torch.ones(batch, n, dtype=torch.bool, device=distances.device)
    live = torch.ones(batch, dtype=torch.bool, device=distances.device)
    min_tokens = min(config.min_tokens, n)
    masks, owner = [], torch.full((batch, n), -1, device=distances.device)
    for index in range(config.max_tokens):
        with torch.no_grad():
            seed = (scores * scope).masked_fill(~free, -1.0).argmax(-1)
            forced = index < min_tokens
            if forced:
                owner[rows, seed] = index
            free = free.index_put((rows, seed), torch.zeros(batch, dtype=torch.bool, device=free.device))
        share = scope * torch.exp2(-distances[rows, seed] * sharpness)
        last = index == config.max_tokens - 1
        with torch.no_grad():
            ends = (share.sum(-1) <= config.stop_mass) | (scope.mean(-1) <= config.stop_scope)
            ends = live & ((ends & (index + 1 >= min_tokens)) | last)
        mask = torch.where(ends.unsqueeze(-1), scope, share) * live.unsqueeze(-1)
        live = live & ~ends
        scope = scope - mask
        masks.append(mask)
    stacked = torch.stack(masks, dim=1)
    assignment = stacked.detach().argmax(1)
    return stacked, torch.where(owner >= 0, owner, assignment)


def dpc_knn(
    distances: Float[Tensor, "batch n n"], scores: Float[Tensor, "batch n"], config: ClusteringConfig
) -> Int[Tensor, "batch n"]:
    """Density-peak centres, every patch to its nearest one (DPC-KNN, Du et al. 2016; as used by TCFormer and Chat-UniVi).

    Centres are the patches that score above the threshold (of the image's best score where ``relative_threshold``),
    never fewer than ``min_tokens`` nor more than ``max_tokens``, or just the ``num_clusters`` best. A centre belongs
    to itself. Clusters are numbered by falling score.
    """
    n = distances.shape[-1]
    most = min(config.max_tokens, n)
    best, centers = scores.sort(dim=-1, descending=True, stable=True)
    best, centers = best[:, :most], centers[:, :most]
    rank = torch.arange(most, device=scores.device)
    if config.num_clusters is not None:
        chosen = (rank < config.num_clusters).expand_as(best)
    else:
        scale = best[:, :1] if config.relative_threshold else 1.0
        chosen = (best > config.score_threshold * scale) | (rank < config.min_tokens)
    to_center = distances.gather(1, centers.unsqueeze(-1).expand(-1, -1, n)).masked_fill(
        ~chosen.unsqueeze(-1), torch.inf
    )
    own = torch.where(chosen, rank, -1)
    owner = torch.full_like(scores, -1, dtype=torch.long).scatter(1, centers, own)
    return torch.where(owner >= 0, owner, to_center.argmin(1))


def one_hot(assignment: Int[Tensor, "batch n"], num_clusters: int) -> Float[Tensor, "batch clusters n"]:
    """Masks of a hard assignment."""
    return F.one_hot(assignment, num_clusters).transpose(1, 2).float()


def _real_first(
    assignment: Int[Tensor, "batch n"], masks: Float[Tensor, "batch k n"], scores: Float[Tensor, "batch n"]
) -> Clusters:
    """Renumber clusters so that those owning a patch come first, in their old order."""
    real = one_hot(assignment, masks.shape[1]).sum(-1) > 0
    order = (~real).long().argsort(dim=-1, stable=True)
    renumbered = order.argsort(dim=-1)
    return Clusters(
        assignment=renumbered.gather(1, assignment),
        masks=masks.gather(1, order.unsqueeze(-1).expand_as(masks)),
        mask=real.gather(1, order),
        scores=scores,
    )
