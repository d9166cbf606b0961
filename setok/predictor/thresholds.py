"""What a trained tokenizer makes of pictures under many clustering settings, in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from setok.batch import ImageTextBatch
from setok.config import ClusteringConfig
from setok.models.clustering import DistinctClusters, cluster_many
from setok.models.tokenizer import SeTok
from setok.predictor.tokenizer import Reconstruction, TokenizerPredictor

AT_ONCE = 64
"""Outcomes that are merged and painted together."""


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Different outcomes for some pictures of a batch."""

    batch: ImageTextBatch
    """Their pictures, one for every outcome."""
    reconstruction: Reconstruction
    number: Int[Tensor, " outcomes"]
    """Which outcomes they are, as ``DistinctClusters.outcome`` counts them."""
    image: Int[Tensor, " outcomes"]
    """Which pictures of the batch they are of."""


@torch.no_grad()
def reconstruct_many(
    predictor: TokenizerPredictor,
    batch: ImageTextBatch,
    settings: Sequence[ClusteringConfig],
    *,
    sampling_steps: int | None = None,
) -> tuple[Int[Tensor, "settings batch"], Iterator[Outcomes]]:
    """The tokens and reconstructions of ``predictor.reconstruct`` for every setting, each different one once.

    Args:
        predictor: of a trained tokenizer.
        batch: pictures of the model's size.
        settings: with the same ``assignment``; see ``cluster_many``.
        sampling_steps: of a flow decoder; ``None`` takes those of its config.

    Returns:
        The number of the outcome of every setting for every picture, and the outcomes, a few at a time.
    """
    batch = batch.to(predictor.device)
    tokenizer = predictor.tokenizer
    grid = tokenizer.encoder.grid(*batch.pixel_values.shape[-2:])
    patch_mask = tokenizer.patch_mask(batch.pixel_values, batch.sizes)
    with predictor.autocast():
        features = tokenizer.encoder(batch.pixel_values, patch_mask)
        clustered = tokenizer.clustering.unit_features(features, patch_mask)
    found = cluster_many(clustered, settings, grid=grid, patch_mask=patch_mask)  # in fp32, as always
    several = _paint(predictor, tokenizer, batch, features, clustered, found, settings[0], grid, sampling_steps)
    return found.outcome, several


@torch.no_grad()
def _paint(
    predictor: TokenizerPredictor,
    tokenizer: SeTok,
    batch: ImageTextBatch,
    features: Tensor,
    clustered: Tensor,
    found: DistinctClusters,
    setting: ClusteringConfig,
    grid: tuple[int, int],
    sampling_steps: int | None,
) -> Iterator[Outcomes]:
    """Merge and paint outcomes, some at a time."""
    size = (batch.pixel_values.shape[-2], batch.pixel_values.shape[-1])
    for number in torch.arange(len(found.image), device=found.image.device).split(AT_ONCE):
        image = found.image[number]
        own, clusters = take(batch, image.tolist()), found.clusters.of_images(number)
        with predictor.autocast():
            visual = tokenizer.merge(features[image], clusters, clustered[image], setting, grid)
            pixels = tokenizer.detokenize(
                visual.tokens, visual.mask, size, sampling_steps=sampling_steps, sizes=own.sizes
            )
        made = Reconstruction(pixels=pixels.float().clamp(0, 1), tokens=visual, concept_scores=None)
        yield Outcomes(batch=own, reconstruction=made, number=number, image=image)


def take(batch: ImageTextBatch, images: Sequence[int]) -> ImageTextBatch:
    """Some pictures of a batch, in this order; one may come several times."""
    rows = list(images)
    return replace(
        batch,
        pixel_values=batch.pixel_values[rows],
        valid=batch.valid[rows],
        concepts=tuple(batch.concepts[image] for image in rows),
        ids=tuple(batch.ids[image] for image in rows),
        segments=None if batch.segments is None else batch.segments[rows],
        is_thing=tuple(batch.is_thing[image] for image in rows) if batch.is_thing else (),
        sizes=None if batch.sizes is None else batch.sizes[rows],
    )
