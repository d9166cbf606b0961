"""Panoptic segmentation in COCO's format: a JSON file, and a folder of the same name with a PNG per picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ray_jobs.scoring.files import Complaints, Given, Row, annotated, by_id, compare_ids, section
from setok.data.images import decode_image
from setok.errors import DataError
from setok.metrics.panoptic import Ids, PanopticScores, unlisted

PANOPTIC = (
    "NAME.json {annotations: [{image_id, file_name, segments_info: [{id, category_id}]}]} beside a folder NAME of PNGs"
)


def score_panoptic(given: Given) -> dict[str, Any]:
    """PQ, SQ and RQ, of all categories, of things and of stuff."""
    what = "the official panoptic_*.json with its folder of PNGs"
    rows = section(given.truth, "annotations", what)
    truth = annotated(given, what, lambda: [(str(row["image_id"]), row) for row in rows], flaw=_flaw)
    kinds = section(given.truth, "categories", what)
    categories = annotated(given, what, lambda: [(str(int(row["id"])), bool(row.get("isthing"))) for row in kinds])
    things = {int(category) for category, is_thing in categories.items() if is_thing}
    complaints = Complaints(given.predictions, given, PANOPTIC)
    found = by_id(section(given.predictions, "annotations", PANOPTIC), "image_id", ["file_name"], complaints)
    compare_ids(found, truth, complaints)
    broken = [picture for picture, row in found.items() if _flaw(row)]
    if broken:
        complaints.add(f"{len(broken)} {_flaw(found[broken[0]])}", broken)
    else:
        numbers = set(map(int, categories))
        unknown = [picture for picture, row in found.items() if not set(_categories(row).values()) <= numbers]
        if unknown:
            complaints.add(f"{len(unknown)} picture(s) with a category that the annotations do not have", unknown)
    complaints.settle()
    maps = _Maps(given.truth, truth, Complaints(given.truth, given, what, of_truth=True))
    predicted = _Maps(given.predictions, found, complaints)
    scores = PanopticScores()
    for picture, row in truth.items():
        true, said = maps.segments(picture), predicted.segments(picture)
        if true is None or said is None:
            continue
        if said.shape != true.shape:
            predicted.note("whose PNG has another size than the annotation's", picture)
            continue
        crowds = {int(segment["id"]) for segment in row["segments_info"] if segment.get("iscrowd")}
        scores.update(picture, said, _categories(found[picture]), true, _categories(row), crowds)
    maps.settle()
    predicted.settle()
    return scores.compute(things)


def _flaw(row: Row) -> str:
    """Why a row is not in the format; empty where it is."""
    if not isinstance(row.get("file_name"), str):
        return "without a file_name"
    try:
        _categories(row)
    except (KeyError, TypeError, ValueError):
        return "whose segments_info is no list of {id, category_id}"
    return ""


def _categories(row: Row) -> dict[int, int]:
    return {int(segment["id"]): int(segment["category_id"]) for segment in row["segments_info"]}


class _Maps:
    """The pictures' segments by pixel, and what is wrong with them, gathered by its kind until the last was looked at.

    Args:
        path: the JSON file, beside whose folder it is.
        rows: of it, by picture.
        complaints: of the file.
    """

    def __init__(self, path: Path, rows: Mapping[str, Row], complaints: Complaints) -> None:
        self._folder = path.with_name(path.name.removesuffix(".gz").removesuffix(".json"))
        self._rows, self._complaints = rows, complaints
        self._wrong: defaultdict[str, list[str]] = defaultdict(list)

    def note(self, kind: str, picture: str) -> None:
        """Keep in mind that a picture cannot be scored."""
        self._wrong[kind].append(picture)

    def segments(self, picture: str) -> Ids | None:
        """Segment of every pixel: red + 256 · green + 65536 · blue; ``None`` where that was noted."""
        row = self._rows[picture]
        file = self._folder / Path(row["file_name"]).with_suffix(".png").name
        try:
            found = decode_image(file.read_bytes()).astype(np.int64) @ np.array([1, 256, 65536])
        except FileNotFoundError:
            self.note(f"without a PNG in {self._folder}", picture)
            return None
        except DataError as error:
            self.note(f"whose PNG cannot be read: {error.problem.partition(':')[0]}", picture)
            return None
        if unlike := unlisted(np.unique(found).tolist(), _categories(row)):
            self.note("whose PNG has other segments than segments_info", f"{picture} ({min(unlike)})")
            return None
        return found

    def settle(self) -> None:
        """Go on if nothing was noted.

        Raises:
            DataError: something was; all of it is listed.
        """
        for kind, pictures in self._wrong.items():
            self._complaints.add(f"{len(pictures)} {kind}", pictures)
        self._complaints.settle()
