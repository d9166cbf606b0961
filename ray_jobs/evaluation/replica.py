"""What the workers of an evaluation do: read and decode rows, put them through the model, and score what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ray_jobs.evaluation import files
from setok.batch import ImageTextBatch
from setok.config import ClusteringConfig
from setok.data.collate import decode_rows, rows_to_batch
from setok.data.shards import ShardReader
from setok.metrics import scoring
from setok.metrics.running import INDEX, Columns
from setok.models.clustering import cluster_distances, squared_distances
from setok.predictor import Reconstruction, TokenizerPredictor

RAW_COLOUR = ClusteringConfig.model_validate(
    {"num_neighbors": 6, "sharpness": 10.0, "stop_mass": 2.0, "stop_scope": 0.03, "max_tokens": 12}
)
"""How raw colour is clustered: the setting chosen on plain scenes (0.69 foreground ARI, 0.84 ARI)."""
_AT_ONCE = 8
_ROWS_AT_ONCE = 1024


class Read:
    """Row numbers to decoded rows, in a Ray Data task."""

    def __init__(self, folder: str, image_size: int, fit_multiple: int | None) -> None:
        self.folder, self.image_size, self.fit_multiple = folder, image_size, fit_multiple

    def __call__(self, rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
        table = ShardReader(self.folder).take(rows[INDEX])
        columns = decode_rows(table, image_size=self.image_size, with_segments=True, fit_multiple=self.fit_multiple)
        return {**columns, INDEX: rows[INDEX]}


@dataclass(frozen=True, kw_only=True)
class ReplicaTask:
    """What every replica must know."""

    path: str
    device: str
    weights: Literal["ema", "raw"]
    sampling_steps: int | None
    mean_image: np.ndarray | None
    """In [0, 1]; ``None`` leaves references out."""
    vocabulary: list[str]
    drawn: frozenset[int]
    """Row numbers of pictures to show whatever comes out."""
    num_extremes: int
    """How many of the best, and of the worst, may be shown."""
    num_threads: int


class Replica:
    """One copy of the model: decoded rows to rows of figures, with the pictures that may be shown."""

    def __init__(self, task: ReplicaTask) -> None:
        torch.set_num_threads(task.num_threads)
        self.task = task
        self.predictor = TokenizerPredictor.from_checkpoint(task.path, device=task.device, weights=task.weights)
        self.mean_image = None if task.mean_image is None else torch.from_numpy(np.array(task.mean_image))
        self.sides = scoring.grid_sides(self.predictor.config.model.clustering.max_tokens)

    @torch.inference_mode()
    def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        index = np.asarray(rows[INDEX])
        batch = rows_to_batch({name: values for name, values in rows.items() if name != INDEX})
        made = self.predictor.reconstruct(batch, concepts=self.task.vocabulary, sampling_steps=self.task.sampling_steps)
        made = to_cpu(made)
        visual, pixels = made.tokens, made.pixels
        columns = score_each(batch, made, self._score)
        shown = self._candidates(index, columns["psnr"])
        pictures = [
            files.pack(batch.pixel_values[i], pixels[i], visual.assignment[i], visual.grid) if i in shown else b""
            for i in range(len(index))
        ]
        return {
            INDEX: index,
            scoring.VALID: batch.valid.numpy(),
            files.ID: np.array(batch.ids, dtype=object),
            files.CAPTION: np.array(list(rows["caption"]), dtype=object),
            files.PICTURE: np.array(pictures, dtype=object),
            **columns,
        }

    def _score(self, batch: ImageTextBatch, made: Reconstruction) -> Columns:
        columns = scoring.score_images(batch, made.pixels, made.tokens, made.concept_scores, self.task.vocabulary)
        if self.mean_image is not None:
            height, width = made.pixels.shape[-2:]
            mean = self.mean_image[:, :height, :width]
            columns |= scoring.score_references(batch, mean, cluster_raw_colour, made.tokens.grid, self.sides)
        return columns

    def _candidates(self, index: np.ndarray, psnr: np.ndarray) -> set[int]:
        """Rows of the batch that may be among the set's best, worst or drawn pictures."""
        known = [i for i in np.argsort(psnr, kind="stable").tolist() if not np.isnan(psnr[i])]
        extremes = set(known[: self.task.num_extremes]) | set(known[len(known) - self.task.num_extremes :])
        return extremes | {i for i, row in enumerate(index.tolist()) if row in self.task.drawn}


def to_cpu(made: Reconstruction) -> Reconstruction:
    """The same with its tensors on the CPU."""
    visual = made.tokens
    tokens = replace(
        visual,
        tokens=visual.tokens.cpu(),
        mask=visual.mask.cpu(),
        assignment=visual.assignment.cpu(),
        scores=visual.scores.cpu(),
        features=visual.features.cpu(),
    )
    scores = None if made.concept_scores is None else made.concept_scores.cpu()
    return Reconstruction(pixels=made.pixels.cpu().float(), tokens=tokens, concept_scores=scores)


def score_each(
    batch: ImageTextBatch, made: Reconstruction, score: Callable[[ImageTextBatch, Reconstruction], Columns]
) -> Columns:
    """Figures of every picture in its own shape: of all at once, or of one after the other where they have padding."""
    if batch.sizes is None:
        return score(batch, made)
    return scoring.stack([score(*without_padding(batch, made, image)) for image in range(len(batch))])


def score_reconstruction(batch: ImageTextBatch, made: Reconstruction) -> Columns:
    """Figures of every picture, without concepts and references."""
    return score_each(batch, to_cpu(made), lambda one, its: scoring.score_images(one, its.pixels, its.tokens))


def without_padding(batch: ImageTextBatch, made: Reconstruction, image: int) -> tuple[ImageTextBatch, Reconstruction]:
    """One picture of a batch as if it had come alone, in its own shape: what the figures are about."""
    assert batch.sizes is not None
    visual, scores = made.tokens, made.concept_scores
    one = slice(image, image + 1)
    height, width = batch.sizes[image].tolist()
    patch = batch.pixel_values.shape[-2] // visual.grid[0]
    grid = (height // patch, width // patch)

    def cut(values: Tensor) -> Tensor:
        return values[one].unflatten(1, visual.grid)[:, : grid[0], : grid[1]].flatten(1, 2)

    return (
        replace(
            batch,
            pixel_values=batch.pixel_values[one, :, :height, :width],
            valid=batch.valid[one],
            concepts=batch.concepts[one],
            ids=batch.ids[one],
            segments=None if batch.segments is None else batch.segments[one, :height, :width],
            is_thing=batch.is_thing[one],
            sizes=None,
        ),
        Reconstruction(
            pixels=made.pixels[one, :, :height, :width],
            tokens=replace(
                visual,
                tokens=visual.tokens[one],
                mask=visual.mask[one],
                assignment=cut(visual.assignment),
                scores=cut(visual.scores),
                features=cut(visual.features),
                grid=grid,
            ),
            concept_scores=None if scores is None else scores[one],
        ),
    )


def cluster_raw_colour(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Clusters of patches by raw colour, not brought to unit length: a ``setok.metrics.references.ClusterFunction``."""
    parts = features.split(_AT_ONCE)
    return torch.cat([cluster_distances(squared_distances(part), RAW_COLOUR).assignment for part in parts])


def concept_vocabulary(folder: str, num_rows: int) -> list[str]:
    """The distinct concepts of a set's first rows, sorted: what each image's concepts are looked for among."""
    reader = ShardReader(folder, columns=["concepts"])
    phrases: set[str] = set()
    for start in range(0, num_rows, _ROWS_AT_ONCE):
        column = reader.take(np.arange(start, min(start + _ROWS_AT_ONCE, num_rows))).column("concepts")
        phrases.update(phrase for row in column.to_pylist() for phrase in row or [])
    return sorted(phrases)
