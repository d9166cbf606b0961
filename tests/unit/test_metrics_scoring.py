"""From batches to a set's figures: what is counted, what is left out, and what a missing figure says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ray_jobs.evaluation.tokenizer_replica import cluster_raw_colour
from setok.batch import ImageTextBatch, VisualTokens
from setok.metrics import scoring
from setok.metrics.running import ImageRows

SIZE, GRID = 16, (4, 4)
VOCABULARY = ("blue square", "green square", "red square")


def scene(count: int, *, segments: bool = True, broken: int | None = None) -> ImageTextBatch:
    """Black pictures with a red square, and a green one in every second; the row ``broken`` could not be read."""
    pixels = torch.zeros(count, 3, SIZE, SIZE, dtype=torch.uint8)
    masks = torch.zeros(count, SIZE, SIZE, dtype=torch.long)
    pixels[:, 0, :8, :8], masks[:, :8, :8] = 255, 1
    pixels[1::2, 1, 8:, 8:], masks[1::2, 8:, 8:] = 255, 2
    valid = torch.ones(count, dtype=torch.bool)
    if broken is not None:
        valid[broken] = False
    names = [("red square", "green square") if i % 2 else ("red square",) for i in range(count)]
    things = tuple((False, *(True for _ in row)) for row in names)
    return ImageTextBatch(
        pixel_values=pixels,
        valid=valid,
        concepts=tuple(names),
        ids=tuple(f"id{i}" for i in range(count)),
        segments=masks if segments else torch.full_like(masks, -1),
        is_thing=things if segments else ((),) * count,
    )


def perfect(batch: ImageTextBatch) -> VisualTokens:
    """Tokens that are just the objects."""
    count = len(batch)
    assignment = scene(count).segments[:, ::4, ::4].flatten(1)
    mask = torch.arange(3) < assignment.amax(1, keepdim=True) + 1
    features = torch.nn.functional.one_hot(assignment, 4).float()
    return VisualTokens(
        tokens=torch.eye(3, 8).expand(count, -1, -1),
        mask=mask,
        assignment=assignment,
        scores=torch.zeros(count, 16),
        grid=GRID,
        features=features,
    )


def figures_of(batch: ImageTextBatch, *, references: bool = True, scores: torch.Tensor | None = None) -> dict:
    visual, rows = perfect(batch), ImageRows()
    columns = scoring.score_images(batch, batch.pixel_values.float() / 255, visual, scores, VOCABULARY)
    if references:
        mean_image = torch.zeros(3, SIZE, SIZE)
        columns |= scoring.score_references(batch, mean_image, cluster_raw_colour, GRID, scoring.grid_sides(4))
    rows.update({"index": np.arange(len(batch)), scoring.VALID: batch.valid.numpy(), **columns})
    return scoring.summarise(rows)


def test_perfect_tokens_have_perfect_figures() -> None:
    scores = torch.tensor([[0.1, 0.2, 0.9], [0.1, 0.8, 0.9], [0.9, 0.2, 0.1], [0.9, 0.8, 0.1]])
    figures = figures_of(scene(4), scores=scores)
    for name in ("ari", "foreground_ari", "pixel_ari", "mbo", "miou", "ssim", "tokens_objects_correlation"):
        assert figures[name] == pytest.approx(1), name
    assert figures["psnr"] == 100
    assert figures["l1"] == figures["mse"] == figures["token_similarity"] == 0
    assert (figures["mean_tokens"], figures["std_tokens"]) == (2.5, 0.5)
    assert figures["concept_hit_rate"] == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert figures["concept_chance"] == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert (figures["num_images"], figures["num_skipped"]) == (4, 0)
    assert figures["notes"] == {}
    assert figures["psnr_gain_over_mean_image"] == figures["psnr"] - figures["psnr_mean_image"]


def test_references_are_at_the_same_token_count() -> None:
    references = figures_of(scene(4))["references"]
    assert references["grid"]["below"]["cells_per_side"] == 1
    assert references["grid"]["above"]["cells_per_side"] == 2
    assert references["grid"]["above"]["mean_tokens"] == 4
    assert references["grid"]["below"]["tokens_objects_correlation"] == 0
    assert references["raw_colour"]["ari"] == pytest.approx(1)  # here colour tells everything
    assert set(references) == {"mean_image", "own_mean_colour", "grid", "raw_colour"}


def test_what_could_not_be_read_takes_no_part() -> None:
    whole, broken = figures_of(scene(3)), figures_of(scene(4, broken=3))
    assert (broken["num_images"], broken["num_skipped"]) == (3, 1)
    for name, value in whole.items():
        if name not in ("num_skipped", "num_images"):
            assert broken[name] == value, name


def test_without_segments_the_notes_say_so() -> None:
    figures = figures_of(scene(4, segments=False), references=False)
    assert figures["psnr"] == 100
    for name in ("ari", "foreground_ari", "pixel_ari", "mbo", "miou", "tokens_objects_correlation"):
        assert figures[name] is None
        assert figures["notes"][name] == scoring.NO_SEGMENTS
    assert figures["notes"]["psnr_mean_image"] == scoring.NO_MEAN_IMAGE
    assert figures["notes"]["concept_hit_rate"] == scoring.NO_CONCEPTS
    assert figures["references"] == {}
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_single_objects_have_no_foreground_figure() -> None:
    figures = figures_of(scene(1), references=False)
    assert figures["foreground_ari"] is None
    assert figures["notes"]["foreground_ari"] == scoring.ONE_OBJECT
    assert figures["ari"] == 1


def test_nothing_could_be_read() -> None:
    figures = figures_of(scene(1, broken=0))
    assert figures["num_images"] == 0
    assert figures["psnr"] is None
    assert figures["notes"]["psnr"] == "no image could be read"


def test_sides_of_grids_cover_every_mean_count() -> None:
    assert list(scoring.grid_sides(1)) == [1]
    assert list(scoring.grid_sides(12)) == [1, 2, 3, 4]
    assert list(scoring.grid_sides(16)) == [1, 2, 3, 4]
    assert list(scoring.grid_sides(17)) == [1, 2, 3, 4, 5]


def test_concepts_outside_the_vocabulary_are_left_out() -> None:
    assert scoring.concept_table(scene(2), ["green square"]).tolist() == [[False], [True]]
