"""Names of classes: a linear probe, or zero-shot classification."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from ray_jobs.scoring.files import Complaints, Given, annotated, by_id, compare_ids, read_rows
from ray_jobs.scoring.reading import SHOWN, read_json
from setok.errors import close_to
from setok.metrics.samples import SampleScores

CLASSES = "[{image_id, label}], the label as text or a whole number"


def score_classes(given: Given) -> dict[str, Any]:
    """Top-1 of a linear probe or of zero-shot classification: the label must be the same, ``1`` and ``"1"`` being one.

    ``num_unknown`` counts labels that no annotation has: classes that these pictures lack, or names of another list.
    """
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
    unknown = _compare_labels(said, {str(label) for label in truth.values()}, complaints)
    complaints.settle()
    scores = SampleScores()
    for picture, label in truth.items():
        scores.update(picture, {"top1": float(str(said[picture]) == str(label))})
    return scores.compute() | {"num_unknown": len(unknown)}


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


def _compare_labels(said: Mapping[str, Any], known: Collection[str], complaints: Complaints) -> list[str]:
    """Pictures with a label that no annotation has: wrong where it is one in another spelling, or where all are unknown."""
    unknown = {picture: str(label) for picture, label in said.items() if str(label) not in known}
    spelt = {_letters(label): label for label in known if _letters(label)}
    slips = [
        f"{picture} ({label!r}, which is {spelt[_letters(label)]!r} there)"
        for picture, label in unknown.items()
        if _letters(label) in spelt
    ]
    if slips:
        complaints.add(f"{len(slips)} whose label the annotations spell otherwise", slips)
    elif unknown and len(unknown) == len(said) and not complaints:
        label = next(iter(unknown.values()))
        close = close_to(label, known)
        hint = (
            f"did you mean {' or '.join(map(repr, close))}?"
            if close
            else f"they have {', '.join(sorted(known)[:SHOWN])}"
        )
        complaints.add(f"all {len(said)} labels are unknown to the annotations, such as {label!r}: {hint}", unknown)
    return list(unknown)


def _letters(label: str) -> str:
    """What is left of a name without case, blanks and marks; nothing of a number."""
    return "" if _is_number(label) else re.sub(r"[\W_]", "", label).casefold()


def _is_number(label: Any) -> bool:
    return str(label).removeprefix("-").isdecimal()
