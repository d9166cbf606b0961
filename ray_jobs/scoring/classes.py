"""Names of classes: a linear probe, or zero-shot classification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_jobs.scoring.files import Complaints, Given, annotated, by_id, compare_ids, read_rows
from ray_jobs.scoring.reading import read_json
from setok.metrics.samples import SampleScores

CLASSES = "[{image_id, label}], the label as text or a whole number"


def score_classes(given: Given) -> dict[str, Any]:
    """Top-1 of a linear probe or of zero-shot classification: the label must be the same, ``1`` and ``"1"`` being one."""
    truth = annotated(
        given,
        CLASSES,
        lambda: [(str(row["image_id"]), row["label"]) for row in read_json(given.truth)],
        flaw=lambda label: "" if _is_label(label) else "whose label is neither text nor a whole number",
    )
    complaints = Complaints(given.predictions, given, CLASSES)
    rows = by_id(read_rows(given.predictions, complaints), "image_id", [], complaints)
    said = {picture: row["label"] for picture, row in rows.items() if _is_label(row.get("label"))}
    if len(said) < len(rows):
        lacking = [picture for picture in rows if picture not in said]
        complaints.add(f"{len(lacking)} without a label that is text or a whole number", lacking)
    compare_ids(rows, truth, complaints)
    _compare_kinds(said, truth, complaints)
    complaints.settle()
    scores = SampleScores()
    for picture, label in truth.items():
        scores.update(picture, {"top1": float(str(said[picture]) == str(label))})
    return scores.compute()


def _is_label(label: Any) -> bool:
    return isinstance(label, (str, int)) and not isinstance(label, bool)


def _compare_kinds(said: Mapping[str, Any], truth: Mapping[str, Any], complaints: Complaints) -> None:
    """Numbers of classes against their names can only be wrong, and say nothing about who predicted them."""
    known = set(map(_is_number, truth.values()))
    strange = [picture for picture, label in said.items() if _is_number(label) not in known]
    if strange:
        has, wanted = ("numbers", "names") if _is_number(said[strange[0]]) else ("names", "numbers")
        complaints.add(
            f"{len(strange)} whose labels are {has} of classes, where the annotations have {wanted}", strange
        )


def _is_number(label: Any) -> bool:
    return str(label).removeprefix("-").isdecimal()
