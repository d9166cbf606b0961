"""Cases of an evaluation of Setokim to look at: the best, the worst, and some drawn from the others."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ray_jobs.evaluation.files import BEST, RANDOM, WORST
from ray_jobs.evaluation.journal import Row
from ray_jobs.evaluation.pictures import lit, png
from ray_jobs.evaluation.work import Work
from setok.data.images import decode_and_resize, mask_map
from setok.data.schema import Mask, Record
from setok.data.shards import ShardReader
from setok.metrics.running import INDEX
from setok.predictor.exercises import MODES, Question, right_answers, samples_of

Key = tuple[int, int, str]
Case = dict[str, Any]


def choose(rows: Sequence[Row], num: int, *, seed: int) -> list[tuple[str, Row]]:
    """Of every kind of task a third best, a third worst, and the rest at random, in that order: best, random, worst.

    Rows that are equally good come in an order drawn by ``seed``, so that a set's beginning is not preferred.
    """
    chosen: list[tuple[str, Row]] = []
    for task in MODES:
        own = [row for row in rows if row["task"] == task and (value := goodness(row)) is not None and value == value]
        order = np.random.default_rng(seed).permutation(len(own)).tolist()
        drawn = [own[i] for i in order]
        ranked = sorted(drawn, key=lambda row: -_known(row))
        third = min(num // 3, len(own) // 3)
        best, worst = ranked[:third], ranked[len(ranked) - third :][::-1]
        taken = {id(row) for row in (*best, *worst)}
        other = [row for row in drawn if id(row) not in taken][: num - 2 * third]
        chosen += [(kind, row) for kind, group in ((BEST, best), (RANDOM, other), (WORST, worst)) for row in group]
    return chosen


def goodness(row: Row) -> float | None:
    """How good an answer is, by the figure that its task's table leads with; ``None`` where nobody knows."""
    if row["task"] == "segment":
        both, either = row["overlap"]
        return both / either if either else 1.0
    name = {"vqa": "accuracy", "caption": "f1"}.get(row["task"], "psnr")
    value: float | None = row.get(name)
    return value


def _known(row: Row) -> float:
    value = goodness(row)
    return -math.inf if value is None else value


def examples(work: Work, rows: Sequence[Row], stored: Iterable[Row]) -> list[Case]:
    """The chosen cases with their pictures, as ``examples.jsonl`` holds them.

    Args:
        rows: in the order of the set.
        stored: the rows with what was drawn and marked.
    """
    chosen = choose(rows, work.config.num_pictures, seed=work.config.seed)
    keys = Counter(_key(row) for _, row in chosen)
    whole = {_key(row): row for row in stored if _key(row) in keys}
    reader = ShardReader(work.config.data)
    return [_case(work, kind, whole[_key(row)], reader) for kind, row in chosen]


def _key(row: Row) -> Key:
    return row[INDEX], row["number"], row["task"]


def _case(work: Work, kind: str, row: Row, reader: ShardReader) -> Case:
    record = Record.from_row(reader.take(np.array([row[INDEX]])).to_pylist()[0])
    own, question = samples_of(record, row["task"], work.trained.sequence)[row["number"]]
    size = work.trained.model.image_size
    images = {"given": _picture(own, question.images[-1], size)} if question.images else {}
    said, truth, asked = row["said"], "", question.text
    if row["task"] == "vqa":
        truth = Counter(right_answers(own)).most_common(1)[0][0]
        truth = own.answers[0] if own.choices else truth
    elif row["task"] == "caption":
        truth, asked = own.caption, ""
    elif row["task"] == "segment":
        images |= _masks(own, question, row, images["given"])
        said = ""
    else:
        images |= {"drawn": _of_png(row["drawn"]), "truth": _picture(own, question.target or 0, size)}
        said = ""
    return {
        "task": row["task"],
        "kind": kind,
        "id": row["id"],
        "asked": asked,
        "said": said,
        "truth": truth,
        "goodness": goodness(row),
        "images": {name: png(pixels) for name, pixels in images.items()},
    }


def _picture(record: Record, number: int, size: int) -> np.ndarray:
    return decode_and_resize(record.images[number].data, size).transpose(1, 2, 0)


def _masks(record: Record, question: Question, row: Row, given: np.ndarray) -> dict[str, np.ndarray]:
    assert question.mask is not None
    both = {"mask": Mask(**row["mask"]), "true mask": record.masks[question.mask]}
    return {name: lit(given, mask_map(mask, len(given))) for name, mask in both.items()}


def _of_png(text: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        return np.asarray(image)
