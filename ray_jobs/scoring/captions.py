"""Captions of pictures, by the COCO caption evaluation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ray_jobs.scoring.files import Complaints, Given, Row, annotated, by_id, compare_ids, read_rows, section
from ray_jobs.scoring.samples import Sample, Written, number, places, written
from setok.metrics.captions import CaptionScores
from setok.metrics.meteor import meteor

CAPTIONS = "[{image_id, caption}]"


def score_captions(given: Given) -> dict[str, Any]:
    """BLEU, ROUGE-L and CIDEr-D of one caption for every annotated picture; METEOR where it is asked for."""
    truth = _references(given)
    complaints = Complaints(given.predictions, given, CAPTIONS)
    rows = by_id(read_rows(given.predictions, complaints), "image_id", ["caption"], complaints)
    compare_ids(rows, truth, complaints)
    complaints.settle()
    scores = CaptionScores()
    for picture, captions in truth.items():
        scores.update(picture, rows[picture]["caption"], captions)
    return scores.compute() | ({"meteor": meteor(scores)} if given.meteor else {})


def _references(given: Given) -> dict[str, list[str]]:
    """The captions of every picture. A picture has several, which are told apart by their own id where they have one."""
    what = "the official annotations {annotations: [{image_id, caption}]}"

    def one(place: int, row: Row) -> tuple[str, tuple[str, Any]]:
        picture = str(row["image_id"])
        return f"{picture}/{row.get('id', f'row {place}')}", (picture, row["caption"])

    rows = annotated(
        given,
        what,
        lambda: [one(place, row) for place, row in enumerate(section(given.truth, "annotations", what), 1)],
        flaw=lambda pair: "" if isinstance(pair[1], str) else "whose caption is no text",
    )
    found: defaultdict[str, list[str]] = defaultdict(list)
    for picture, caption in rows.values():
        found[picture].append(caption)
    return found


def write_captions(samples: Iterable[Sample], folder: Path, name: str) -> Written:
    """One caption for every picture, and the annotations as COCO has them."""
    predictions, annotations = places(folder, name, ".json")
    said, pictures = [], []
    true: list[dict[str, Any]] = []
    for sample in samples:
        picture = number(sample.fact["image_id"])
        said.append({"image_id": picture, "caption": sample.said})
        pictures.append({"id": picture})
        true += [
            {"image_id": picture, "id": len(true) + i, "caption": text} for i, text in enumerate(_captions(sample))
        ]
    tree = {"images": pictures, "annotations": true}
    return written(predictions, said, annotations, tree, answered=bool(true))


def _captions(sample: Sample) -> list[str]:
    return sample.record.answers or [sample.record.caption]
