"""Masks of referring expressions: RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ray_jobs.scoring.files import Complaints, Given, Row, annotated, by_id, compare_ids, read_list, read_rows, section
from ray_jobs.scoring.samples import Sample, Written, number, places, write_json_lines
from setok.data import plain_pickle, rle
from setok.data.polygons import annotation_counts
from setok.data.schema import Mask
from setok.errors import ConfigError, DataError
from setok.metrics.referring import ReferringScores

MASKS = "JSON lines {sent_id or ref_id, size: [height, width], counts: COCO run lengths}"
_WHAT = "REFER's folder with refs(…).p and instances.json, or JSON lines like the predictions"


def score_referring(given: Given) -> dict[str, Any]:
    """cIoU, gIoU, mIoU and P@k; an expression's mask is known by its sent_id, or by the ref_id where there is none."""
    complaints = Complaints(given.predictions, given, MASKS)
    rows = read_rows(given.predictions, complaints)
    key = "sent_id" if rows and "sent_id" in rows[0] else "ref_id"
    found = by_id(rows, key, [], complaints)
    complaints.settle()
    truth = _of_refer(given, key) if given.truth.is_dir() else _of_lines(given, key)
    compare_ids(found, truth, complaints)
    broken = {}
    scores = ReferringScores()
    for sample in (sample for sample in truth if sample in found):
        try:
            scores.update(sample, mask_of(found[sample]), mask_of(truth[sample]))
        except (DataError, KeyError, TypeError, ValueError) as error:
            broken[sample] = error.problem if isinstance(error, DataError) else repr(error)
    if broken:
        complaints.add(
            f"{len(broken)} mask(s) that cannot be read, the first: {next(iter(broken.values()))}", list(broken)
        )
    complaints.settle()
    return scores.compute()


def mask_of(row: Mapping[str, Any]) -> np.ndarray:
    """The mask of a row with ``size`` and ``counts``, which may lie under ``segmentation``."""
    coded = row.get("segmentation", row)
    height, width = coded["size"]
    return rle.decode(rle.counts_of(coded), int(height), int(width))


def _of_lines(given: Given, key: str) -> Mapping[str, Row]:
    if given.split is not None:
        raise ConfigError(
            f"--split {given.split} goes with REFER's folder, and {given.truth} is a file, which has no splits",
            "leave --split out, or give the folder",
        )
    return annotated(given, _WHAT, lambda: [(str(row[key]), row) for row in read_list(given.truth)])


def _of_refer(given: Given, key: str) -> Mapping[str, Row]:
    """The masks of a split, in REFER's layout."""
    files = sorted(given.truth.glob("refs(*).p"))
    if len(files) != 1:
        raise DataError(f"{given.truth} has {len(files)} files refs(…).p", f"give {_WHAT}")
    refs = plain_pickle.load(files[0])
    splits = sorted({str(ref["split"]) for ref in refs})
    if given.split not in splits:
        raise DataError(f"{files[0]} has no split {given.split!r}", f"--split with one of: {', '.join(splits)}")
    pairs = lambda: _masks(given.truth / "instances.json", refs, str(given.split), key)  # noqa: E731
    return annotated(given, _WHAT, pairs, path=files[0])


def _masks(instances: Path, refs: list[Row], split: str, key: str) -> Iterator[tuple[str, Row]]:
    objects = {row["id"]: row for row in section(instances, "annotations", _WHAT)}
    sizes = {row["id"]: (int(row["height"]), int(row["width"])) for row in section(instances, "images", _WHAT)}
    for ref in refs:
        if ref["split"] == split:
            size = sizes[ref["image_id"]]
            row = {"size": size, "counts": annotation_counts(objects[ref["ann_id"]]["segmentation"], *size)}
            names = [ref["ref_id"]] if key == "ref_id" else [sentence["sent_id"] for sentence in ref["sentences"]]
            yield from ((str(name), row) for name in names)


# ---------------------------------------------------------------- writing


def write_referring(samples: Iterable[Sample], folder: Path, name: str) -> Written:
    """The mask of every expression, in the size of its picture."""
    predictions, annotations = places(folder, name, ".jsonl")
    said, true = [], []
    for sample in samples:
        assert sample.mask is not None, "a region was asked for"
        expression = number(sample.fact["sent_id"])
        said.append({"sent_id": expression, **_row(sample.mask)})
        true.append({"sent_id": expression, **_row(sample.record.masks[0])})
    write_json_lines(predictions, said)
    write_json_lines(annotations, true)
    return Written(predictions=predictions, annotations=annotations)


def _row(mask: Mask) -> Row:
    return {"size": [mask.height, mask.width], "counts": mask.counts}
