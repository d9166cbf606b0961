"""Names of classes: a linear probe, or zero-shot classification."""

from __future__ import annotations

from typing import Any

from ray_jobs.scoring.files import Complaints, Given, by_id, checked, compare_ids, read_json, read_rows
from setok.metrics.samples import SampleScores

CLASSES = "[{image_id, label}]"


def score_classes(given: Given) -> dict[str, Any]:
    """Top-1 of a linear probe or of zero-shot classification: the label must be the same."""
    what = "the labels [{image_id, label}]"
    truth = checked(given.truth, what, lambda: {str(row["image_id"]): row["label"] for row in read_json(given.truth)})
    complaints = Complaints(given.predictions, given, CLASSES)
    rows = by_id(read_rows(given.predictions, complaints), "image_id", [], complaints)
    lacking = [picture for picture, row in rows.items() if "label" not in row]
    if lacking:
        complaints.add(f"{len(lacking)} without label", lacking)
    compare_ids(rows, truth, complaints)
    complaints.settle()
    scores = SampleScores()
    for picture, label in truth.items():
        scores.update(picture, {"top1": float(rows[picture]["label"] == label)})
    return scores.compute()
