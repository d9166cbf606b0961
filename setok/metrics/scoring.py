"""From a batch and what a tokenizer made of it to one row of figures per image, and from rows to a report's figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from setok.batch import ImageTextBatch, VisualTokens
from setok.metrics import reconstruction, references, tokens
from setok.metrics.references import ClusterFunction
from setok.metrics.running import Columns, ImageRows, correlation_of, deviation_of, mean_of

VALID, NUM_OBJECTS = "valid", "num_objects"
_OF_SEGMENTS = ("foreground_ari", "ari", "pixel_ari", "mbo", "miou", "tokens_objects_correlation")
NO_SEGMENTS = "the set has no segment masks"
NO_CONCEPTS = "the model or the set has no concepts"
NO_MEAN_IMAGE = "references were switched off"
ONE_OBJECT = "no image has two objects that cover a patch"


def concept_table(batch: ImageTextBatch, vocabulary: Sequence[str]) -> Bool[Tensor, "batch concepts"]:
    """Which concepts of a vocabulary each image has."""
    column = {phrase: i for i, phrase in enumerate(vocabulary)}
    present = torch.zeros(len(batch), len(column), dtype=torch.bool)
    for i, image in enumerate(batch.concepts):
        present[i, [column[phrase] for phrase in image if phrase in column]] = True
    return present


def grid_sides(max_tokens: int) -> range:
    """Sides of all the grids that the mean token count may turn out to lie between."""
    return range(1, math.isqrt(max(0, max_tokens - 1)) + 2)


def score_images(
    batch: ImageTextBatch,
    pixels: Float[Tensor, "batch 3 height width"],
    visual: VisualTokens,
    concept_scores: Float[Tensor, "batch concepts"] | None = None,
    vocabulary: Sequence[str] = (),
) -> Columns:
    """Figures of every image of a batch, all on the CPU; those of rows that are not valid are NaN.

    Args:
        pixels: the reconstruction in [0, 1].
        concept_scores: similarity of every image with each phrase of ``vocabulary``, or ``None``.
    """
    target = batch.pixel_values.float() / 255
    rows = {
        "psnr": reconstruction.psnr(pixels, target),
        "ssim": reconstruction.ssim(pixels, target),
        "l1": reconstruction.mean_absolute_error(pixels, target),
        "mse": reconstruction.mean_squared_error(pixels, target),
        "token_similarity": tokens.mean_similarity(visual.tokens.float(), visual.mask),
        **references.score_assignment(target, batch, visual.assignment, visual.grid),
        "tokens": visual.counts.double(),
        NUM_OBJECTS: _num_objects(batch),
    }
    nothing = torch.full((len(batch),), torch.nan, dtype=torch.float64)
    rows["concept_hit_rate"], rows["concept_chance"] = nothing, nothing
    if concept_scores is not None and len(vocabulary):
        present = concept_table(batch, vocabulary)
        rows["concept_hit_rate"] = tokens.concept_hit_rate(concept_scores.float(), present)
        chance = present.sum(-1).double() / present.shape[1]
        rows["concept_chance"] = torch.where(chance > 0, chance, torch.nan)
    return _columns(batch, rows)


def score_references(
    batch: ImageTextBatch,
    mean_image: Float[Tensor, "3 height width"],
    cluster: ClusterFunction,
    grid: tuple[int, int],
    sides: Iterable[int],
) -> Columns:
    """Figures of what needs no training, as columns ``reference/figure``.

    Args:
        mean_image: mean training image in [0, 1].
        cluster: clusters raw patch colours.
        grid: the tokenizer's patches, which square cells are cut from.
        sides: cells to a side of the grids to measure.
    """
    target = batch.pixel_values.float() / 255
    rows = {
        "mean_image/psnr": references.mean_image_psnr(target, mean_image),
        "own_mean_colour/psnr": references.own_mean_colour_psnr(target),
    }
    for side in sides:
        scored = references.score_grid(target, batch, grid, side)
        rows |= {f"grid{side}/{name}": values for name, values in scored.items()}
    raw = references.score_raw_colour(target, batch, cluster)
    rows |= {f"raw_colour/{name}": values for name, values in raw.items()}
    return _columns(batch, rows)


def stack(parts: Sequence[Mapping[str, np.ndarray]]) -> Columns:
    """The columns of several batches of any sizes, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def summarise(rows: ImageRows) -> dict[str, Any]:
    """A set's figures from its images' rows, ``None`` where one does not apply, with the reason under ``notes``."""
    table = rows.table()
    valid = table.get(VALID, np.zeros(0, dtype=bool)).astype(bool)
    table = {name: values[valid] for name, values in table.items()}
    objects = table.get(NUM_OBJECTS, np.zeros(0))

    def mean(name: str) -> float | None:
        return mean_of(table[name]) if name in table else None

    figures: dict[str, Any] = {"psnr": mean("psnr")}
    figures["psnr_mean_image"] = mean("mean_image/psnr")
    figures["psnr_gain_over_mean_image"] = _difference(figures["psnr"], figures["psnr_mean_image"])
    figures["psnr_own_mean_colour"] = mean("own_mean_colour/psnr")
    for name in ("painted_psnr", "ssim", "l1", "mse", "foreground_ari", "ari", "pixel_ari", "mbo", "miou"):
        figures[name] = mean(name)
    counts = table.get("tokens", np.zeros(0))
    figures |= {
        "mean_tokens": mean_of(counts),
        "std_tokens": deviation_of(counts),
        "tokens_objects_correlation": correlation_of(counts, objects) if len(counts) else None,
        "token_similarity": mean("token_similarity"),
        "concept_hit_rate": mean("concept_hit_rate"),
        "concept_chance": mean("concept_chance"),
        "num_images": int(valid.sum()),
        "num_skipped": int((~valid).sum()),
        "references": _references(table, figures["psnr_mean_image"], mean_of(counts)),
    }
    figures["notes"] = _notes(figures, has_segments=bool(len(objects)) and not np.isnan(objects).all())
    return figures


def _references(table: Mapping[str, Any], mean_image: float | None, mean_tokens: float | None) -> dict[str, Any]:
    if mean_image is None or mean_tokens is None:
        return {}
    below, above = references.nearest_squares(mean_tokens)
    return {
        "mean_image": {"psnr": mean_image},
        "own_mean_colour": {"psnr": mean_of(table["own_mean_colour/psnr"])},
        "grid": {
            "below": {"cells_per_side": below, **_of_map(table, f"grid{below}/")},
            "above": {"cells_per_side": above, **_of_map(table, f"grid{above}/")},
        },
        "raw_colour": _of_map(table, "raw_colour/"),
    }


def _of_map(table: Mapping[str, Any], prefix: str) -> dict[str, float | None]:
    """Figures of a map of groups that paints each with its mean colour."""
    figures = {name: mean_of(table[prefix + name]) for name in ("ari", "foreground_ari", "pixel_ari", "mbo", "miou")}
    counts = table[prefix + "tokens"]
    return {
        "psnr": mean_of(table[prefix + "painted_psnr"]),
        **figures,
        "mean_tokens": mean_of(counts),
        "std_tokens": deviation_of(counts),
        "tokens_objects_correlation": correlation_of(counts, table[NUM_OBJECTS]),
    }


def _notes(figures: Mapping[str, Any], *, has_segments: bool) -> dict[str, str]:
    """Why each missing figure is missing."""
    notes = {}
    for name, value in figures.items():
        if value is not None:
            continue
        if figures["num_images"] == 0:
            notes[name] = "no image could be read"
        elif name in _OF_SEGMENTS:
            notes[name] = NO_SEGMENTS if not has_segments else ONE_OBJECT
        elif name.startswith("concept"):
            notes[name] = NO_CONCEPTS
        elif name.startswith("psnr_"):
            notes[name] = NO_MEAN_IMAGE
        elif name == "ssim":
            notes[name] = "pictures are smaller than the window of 11 pixels"
        else:
            notes[name] = "no image has more than one token"
    return notes


def _columns(batch: ImageTextBatch, rows: Mapping[str, Tensor]) -> Columns:
    """As float64 arrays, NaN where the image is not valid."""
    unknown = ~batch.valid.cpu()
    return {name: values.cpu().double().masked_fill(unknown, torch.nan).numpy() for name, values in rows.items()}


def _num_objects(batch: ImageTextBatch) -> Float[Tensor, " batch"]:
    """Things in each image, whether or not they cover a patch; NaN for an image without any segment."""
    is_thing = batch.is_thing or ((),) * len(batch)
    return torch.tensor([sum(row) if row else math.nan for row in is_thing], dtype=torch.float64)


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
