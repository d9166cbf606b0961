"""What stands beside a model's figures and needs no model: taken from a training set, before anything is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from ray_jobs.evaluation.replicas import REPLICA_CPUS
from setok.config import TokenizerConfig
from setok.data.collate import decode_rows, rows_to_batch
from setok.data.images import mask_map
from setok.data.schema import Manifest, Record
from setok.data.shards import ShardReader
from setok.metrics.mask_references import best_constant_mask
from setok.metrics.running import MeanImage

MEAN_IMAGE_ROWS = 4096
"""The mean training image is taken over at most this many rows, evenly spaced."""
REFERENCE_MASKS = 2000
"""Masks of the training set, evenly spaced, that the constant mask is made of."""
_ROWS_AT_ONCE = 1024
_TEXT_COLUMNS = ("id", "task", "conversation", "answers", "choices", "provenance")


def evenly(num_rows: int, most: int) -> np.ndarray:
    """Row numbers, at most so many, evenly spaced over a set."""
    return np.unique(np.linspace(0, num_rows - 1, min(num_rows, most)).round().astype(np.int64))


def parts_of(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Row numbers a block at a time."""
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        yield rows[start : start + _ROWS_AT_ONCE]


# ---------------------------------------------------------------- pictures


def mean_image(folder: str, model: TokenizerConfig) -> np.ndarray:
    """Mean picture of a set, in [0, 1], over at most ``MEAN_IMAGE_ROWS`` of its rows; Ray must be running."""
    import ray

    rows = evenly(Manifest.load(folder).num_rows, MEAN_IMAGE_ROWS)
    task = ray.remote(mean_of_rows).options(num_cpus=REPLICA_CPUS)
    geometry = (model.image_size, model.fit_multiple)
    parts = [task.remote(folder, part, *geometry) for part in np.array_split(rows, 8) if len(part)]
    total = MeanImage()
    for part in ray.get(parts):
        total.merge(part)
    return total.compute()


def mean_of_rows(folder: str, rows: np.ndarray, image_size: int, fit_multiple: int | None) -> MeanImage:
    """The pictures of some rows, added up."""
    mean, reader = MeanImage(), ShardReader(folder)
    for part in parts_of(rows):
        columns = decode_rows(reader.take(part), image_size=image_size, with_segments=False, fit_multiple=fit_multiple)
        batch = rows_to_batch(columns)
        real = batch.pixel_mask
        mean.update(batch.pixel_values[batch.valid].numpy(), None if real is None else real[batch.valid].numpy())
    return mean


def constant_mask(folder: str, image_size: int) -> np.ndarray | None:
    """The best one mask for all, of the training set's; ``None`` where it has none."""
    reader = ShardReader(folder, columns=("masks",))
    masks = []
    for part in parts_of(evenly(reader.num_rows, REFERENCE_MASKS)):
        for row in reader.take(part).to_pylist():
            record = Record.from_row(Record(id="", source="").to_row() | row)
            masks += [mask_map(mask, image_size) for mask in record.masks[:1]]
    return best_constant_mask(masks) if masks else None


# ---------------------------------------------------------------- words


def concepts_of(folder: str, num_rows: int) -> list[str]:
    """The distinct concepts of a set's first rows, sorted: what each image's concepts are looked for among."""
    reader = ShardReader(folder, columns=("concepts",))
    phrases: set[str] = set()
    for part in parts_of(np.arange(num_rows)):
        phrases.update(phrase for row in reader.take(part).column("concepts").to_pylist() for phrase in row or [])
    return sorted(phrases)


def things_of(folder: str, num_rows: int) -> tuple[str, ...]:
    """What the things on a set's pictures are called: the concepts, without those of backgrounds where segments tell them."""
    reader = ShardReader(folder, columns=("concepts", "segments"))
    concepts, stuff = set[str](), set[str]()
    for part in parts_of(np.arange(num_rows)):
        for row in reader.take(part).to_pylist():
            concepts.update(row["concepts"] or ())
            stuff.update(segment["category"] for segment in row["segments"] or () if not segment["is_thing"])
    return tuple(sorted(concepts - stuff))


def answers_of(folder: str) -> Iterator[tuple[str, str, str]]:
    """Type, question and answer of everything that a training set asks."""
    reader = ShardReader(folder, columns=_TEXT_COLUMNS)
    for part in parts_of(np.arange(reader.num_rows)):
        for row in reader.take(part).to_pylist():
            if row["task"] == "vqa":
                yield from questions_in(row)


def questions_in(row: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The questions of a stored record, be it one or a conversation of several."""
    provenance = json.loads(row["provenance"] or "{}")
    several = json.loads(provenance["questions"]) if "questions" in provenance else []
    turns = row["conversation"] or []
    asked = [turn["text"].replace("<image>", "").strip() for turn in turns if turn["role"] == "user"]
    said = [turn["text"].strip() for turn in turns if turn["role"] == "assistant"]
    for number, (question, answer) in enumerate(zip(asked, said, strict=False)):
        facts = several[number] if number < len(several) else provenance
        yield str(facts.get("question_type", "all")), question, answer
