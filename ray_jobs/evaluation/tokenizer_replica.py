"""What the workers of an evaluation of a tokenizer do: read and decode rows, ask the model, and score what it made."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ray_jobs.evaluation import tokenizer_files
from ray_jobs.evaluation.journal import Row
from ray_jobs.evaluation.pictures import png
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
TOKENS = "tokens"
_AT_ONCE = 8


class Read:
    """Row numbers to decoded rows, in a Ray Data task; other columns pass through."""

    def __init__(self, folder: str, image_size: int, fit_multiple: int | None) -> None:
        self.folder, self.image_size, self.fit_multiple = folder, image_size, fit_multiple

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        table = ShardReader(self.folder).take(rows[INDEX])
        columns = decode_rows(table, image_size=self.image_size, with_segments=True, fit_multiple=self.fit_multiple)
        return {**columns, **rows}


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
    clustering: ClusteringConfig | None = None
    """In place of the trained one."""
    keep_pictures: bool = False
    """Keep what was painted, and the true picture, of every row."""


class TokenizerReplica:
    """One copy of the model: decoded rows to rows of figures, with the pictures that may be shown."""

    def __init__(self, task: ReplicaTask) -> None:
        torch.set_num_threads(task.num_threads)
        self.task = task
        self.predictor = TokenizerPredictor.from_checkpoint(task.path, device=task.device, weights=task.weights)
        self.mean_image = None if task.mean_image is None else torch.from_numpy(np.array(task.mean_image))
        self.sides = scoring.grid_sides((task.clustering or self.predictor.tokenizer.config.clustering).max_tokens)

    @torch.inference_mode()
    def __call__(self, rows: Mapping[str, Any]) -> list[Row]:
        """Rows of figures; those of a picture that cannot be read have ``valid`` false, and nothing else that counts."""
        index = np.asarray(rows[INDEX])
        batch = rows_to_batch({name: values for name, values in rows.items() if name not in (INDEX, "number", "asks")})
        made = to_cpu(
            self.predictor.reconstruct(
                batch,
                concepts=self.task.vocabulary,
                clustering=self.task.clustering,
                sampling_steps=self.task.sampling_steps,
            )
        )
        visual, pixels = made.tokens, made.pixels
        columns = score_each(batch, made, self._score)
        shown = self._candidates(index, columns["psnr"])
        figures = {name: values.tolist() for name, values in columns.items()}
        found: list[Row] = []
        for i, number in enumerate(index.tolist()):
            valid = bool(batch.valid[i])
            row: Row = {INDEX: number, "number": 0, "task": TOKENS, tokenizer_files.ID: batch.ids[i]}
            row |= {tokenizer_files.CAPTION: str(rows["caption"][i]), scoring.VALID: valid}
            row |= {name: values[i] for name, values in figures.items()}
            if i in shown:
                packed = tokenizer_files.pack(batch.pixel_values[i], pixels[i], visual.assignment[i], visual.grid)
                row[tokenizer_files.PICTURE] = base64.b64encode(packed).decode()
            if self.task.keep_pictures and valid:
                height, width = pixels.shape[-2:] if batch.sizes is None else batch.sizes[i].tolist()
                painted = (pixels[i, :, :height, :width] * 255).byte()
                row |= {"drawn": png(painted), "truth": png(batch.pixel_values[i, :, :height, :width])}
            found.append(row)
        return found

    def _score(self, batch: ImageTextBatch, made: Reconstruction) -> Columns:
        columns = scoring.score_images(batch, made.pixels, made.tokens, made.concept_scores, self.task.vocabulary)
        if self.mean_image is not None:
            height, width = made.pixels.shape[-2:]
            mean = self.mean_image[:, :height, :width]
            columns |= scoring.score_references(batch, mean, cluster_raw_colour, made.tokens.grid, self.sides)
        return columns

    def _candidates(self, index: np.ndarray, psnr: np.ndarray) -> set[int]:
        """Rows of the batch that may be among the set's best, worst or drawn pictures; equal ones as in ``ranked``."""
        known = [i for i in np.argsort(-psnr, kind="stable").tolist() if not np.isnan(psnr[i])]
        extremes = set(known[: self.task.num_extremes]) | set(known[len(known) - self.task.num_extremes :])
        return extremes | {i for i, row in enumerate(index.tolist()) if row in self.task.drawn}


def to_cpu(made: Reconstruction) -> Reconstruction:
    """The same with its tensors on the CPU, and the pixels in steps of 1/255."""
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
    # As a file of the picture holds it, so that whoever scores the files finds the same.
    pixels = (made.pixels.cpu().float() * 255).round() / 255
    return Reconstruction(pixels=pixels, tokens=tokens, concept_scores=scores)


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
        batch.alone(image),
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
