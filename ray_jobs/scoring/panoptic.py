"""Panoptic segmentation in COCO's format: a JSON file, and a folder of the same name with a PNG per picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ray_jobs.scoring.files import Complaints, Given, Row, annotated, by_id, compare_ids, section
from setok.data.images import decode_image
from setok.errors import DataError
from setok.metrics.panoptic import PanopticScores

PANOPTIC = (
    "NAME.json {annotations: [{image_id, file_name, segments_info: [{id, category_id}]}]} beside a folder NAME of PNGs"
)


def score_panoptic(given: Given) -> dict[str, Any]:
    """PQ, SQ and RQ, of all categories, of things and of stuff."""
    what = "the official panoptic_*.json with its folder of PNGs"
    rows = section(given.truth, "annotations", what)
    truth = annotated(given, what, lambda: [(str(row["image_id"]), row) for row in rows])
    kinds = section(given.truth, "categories", what)
    categories = annotated(given, what, lambda: [(str(int(row["id"])), bool(row.get("isthing"))) for row in kinds])
    things = {int(category) for category, is_thing in categories.items() if is_thing}
    complaints = Complaints(given.predictions, given, PANOPTIC)
    found = by_id(section(given.predictions, "annotations", PANOPTIC), "image_id", ["file_name"], complaints)
    compare_ids(found, truth, complaints)
    unknown = [picture for picture, row in found.items() if not _categories_of(row) <= categories.keys()]
    if unknown:
        complaints.add(f"{len(unknown)} picture(s) with a category that the annotations do not have", unknown)
    complaints.settle()
    scores = PanopticScores()
    for picture, row in truth.items():
        true, said = _categories(row, given.truth), _categories(found[picture], given.predictions)
        crowds = {int(segment["id"]) for segment in row["segments_info"] if segment.get("iscrowd")}
        scores.update(picture, _ids(given.predictions, found[picture]), said, _ids(given.truth, row), true, crowds)
    return scores.compute(things)


def _categories_of(row: Row) -> set[str]:
    """Categories that a prediction names; whatever else is wrong with it is told when it is scored."""
    segments = row.get("segments_info")
    named = segments if isinstance(segments, list) else []
    return {str(segment["category_id"]) for segment in named if isinstance(segment, dict) and "category_id" in segment}


def _categories(row: Row, path: Path) -> dict[int, int]:
    try:
        return {int(segment["id"]): int(segment["category_id"]) for segment in row["segments_info"]}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: picture {row['image_id']!r} is broken: {error!r}", f"give {PANOPTIC}") from error


def _ids(path: Path, row: Row) -> np.ndarray:
    """Segment of every pixel: red + 256 · green + 65536 · blue."""
    file = (
        path.with_name(path.name.removesuffix(".gz").removesuffix(".json"))
        / Path(row["file_name"]).with_suffix(".png").name
    )
    if not file.is_file():
        raise DataError(f"there is no {file}", f"give {PANOPTIC}")
    return decode_image(file.read_bytes()).astype(np.int64) @ np.array([1, 256, 65536])
