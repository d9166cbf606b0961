"""What every clustering method returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Clusters of a batch of images, real ones first, padded to the most tokens an image may have."""

    assignment: Int[Tensor, "batch patches"]
    """Index of the cluster that each patch belongs to; -1 for padded patches."""
    masks: Float[Tensor, "batch clusters patches"]
    """Share of every patch that each cluster takes; sums to one over clusters, to zero at padded patches."""
    mask: Bool[Tensor, "batch clusters"]
    """True for real clusters: those that own at least one patch, and every query of a resampler."""
    scores: Float[Tensor, "batch patches"]
    """How good a centre each patch is, in the method's own measure; zero at padded patches."""
    weights: Float[Tensor, "batch clusters patches"] | None = None
    """Pooling weights of a method that learns them; ``None`` derives them from the masks."""

    @property
    def counts(self) -> Int[Tensor, " batch"]:
        """Number of clusters of every image."""
        return self.mask.sum(-1)

    def of_images(self, images: Int[Tensor, " images"] | Sequence[int]) -> Clusters:
        """The clusters of some images, in this order."""
        rows = images if isinstance(images, Tensor) else list(images)
        return Clusters(
            assignment=self.assignment[rows],
            masks=self.masks[rows],
            mask=self.mask[rows],
            scores=self.scores[rows],
            weights=None if self.weights is None else self.weights[rows],
        )

    def pooling_weights(self, assignment: Literal["soft", "hard"]) -> Float[Tensor, "batch clusters patches"]:
        """Weights that average patches into tokens: each real cluster's row sums to one, padding rows are zero."""
        if self.weights is not None:
            return self.weights
        owned = one_hot(self.assignment, self.masks.shape[1])
        weights = (
            owned if assignment == "hard" else torch.where(self.masks.sum(-1, keepdim=True) > 1e-4, self.masks, owned)
        )
        weights = weights * self.mask.unsqueeze(-1)
        return weights / weights.sum(-1, keepdim=True).clamp_min(1e-6)


def concatenate(parts: Sequence[Clusters]) -> Clusters:
    """The clusters of all images of several batches that one method made, in order."""
    weights = [part.weights for part in parts if part.weights is not None]
    return Clusters(
        assignment=torch.cat([part.assignment for part in parts]),
        masks=torch.cat([part.masks for part in parts]),
        mask=torch.cat([part.mask for part in parts]),
        scores=torch.cat([part.scores for part in parts]),
        weights=torch.cat(weights) if weights else None,
    )


def one_hot(assignment: Int[Tensor, "batch n"], num_clusters: int) -> Float[Tensor, "batch clusters n"]:
    """Masks of a hard assignment; a patch that belongs nowhere (-1) is in none."""
    index = torch.arange(num_clusters, device=assignment.device)
    return (assignment.unsqueeze(1) == index.unsqueeze(1)).float()


def real_first(
    assignment: Int[Tensor, "batch n"], masks: Float[Tensor, "batch k n"], scores: Float[Tensor, "batch n"]
) -> Clusters:
    """Renumber clusters so that those owning a patch come first, in their old order."""
    batch, k, _ = masks.shape
    nowhere = assignment < 0
    real = torch.zeros(batch, k + 1, dtype=torch.bool, device=masks.device)
    real = real.scatter(1, assignment.masked_fill(nowhere, k), torch.ones_like(nowhere))[:, :k]
    order = (~real).long().argsort(dim=-1, stable=True)
    renumbered = order.argsort(dim=-1)
    return Clusters(
        assignment=renumbered.gather(1, assignment.clamp_min(0)).masked_fill(nowhere, -1),
        masks=masks.gather(1, order.unsqueeze(-1).expand_as(masks)),
        mask=real.gather(1, order),
        scores=scores,
    )
