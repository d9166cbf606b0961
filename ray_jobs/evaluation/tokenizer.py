"""The evaluation of a tokenizer: every picture is tokenized and painted back."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ray_jobs.evaluation import tokenizer_files
from ray_jobs.evaluation.batches import Batch, Item, batches_of
from ray_jobs.evaluation.clustering import changed
from ray_jobs.evaluation.journal import Row
from ray_jobs.evaluation.pictures import drawn_sample
from ray_jobs.evaluation.references import concepts_of
from ray_jobs.evaluation.tokenizer_replica import TOKENS, Read, ReplicaTask
from ray_jobs.evaluation.work import Work
from ray_jobs.scoring.samples import Sample
from setok.metrics import scoring
from setok.metrics.running import INDEX, ImageRows

_BLOBS = (tokenizer_files.PICTURE, "drawn", "truth")
_NO_FIGURES = ("number", "task", *_BLOBS)
_TEXTS = (tokenizer_files.ID, tokenizer_files.CAPTION)


def batches(work: Work) -> list[Batch]:
    """Pictures in the order of the set; a picture's patches are its tokens."""
    model, config = work.trained.model, work.config
    length = (model.image_size // model.encoder.patch_size) ** 2
    items = (Item(index=index, asks=TOKENS, length=length) for index in range(work.num_rows))
    return batches_of(items, batch_size=config.batch_size, max_tokens=config.max_batch_tokens)


def read_of(work: Work) -> Read:
    """How rows are read and decoded."""
    model = work.trained.model
    return Read(work.config.data, model.image_size, model.fit_multiple)


def task_of(work: Work, mean_image: np.ndarray | None) -> ReplicaTask:
    """What every replica must know."""
    config = work.config
    return ReplicaTask(
        path=work.trained.place,
        device="cuda" if config.use_gpu else "cpu",
        weights=config.weights,
        sampling_steps=config.sampling_steps,
        clustering=changed(work.trained.model.clustering, config.clustering) if config.clustering else None,
        mean_image=mean_image,
        vocabulary=concepts_of(config.data, work.num_rows),
        drawn=frozenset(drawn_rows(work)),
        num_extremes=work.num_extremes,
        num_threads=config.num_threads,
        keep_pictures="reconstruction" in work.tasks,
    )


def drawn_rows(work: Work) -> list[int]:
    """Pictures that may be shown whatever comes out, drawn before anything is measured; some are best or worst as well."""
    drawn = np.random.default_rng(work.config.seed).permutation(work.num_rows)[: 3 * work.config.num_pictures]
    return [int(row) for row in drawn]


def image_rows(rows: Iterable[Row]) -> ImageRows:
    """Rows of replicas as columns."""
    found = ImageRows()
    several: list[Row] = [{n: v for n, v in row.items() if n not in _NO_FIGURES} for row in rows]
    if several:
        found.update({name: _column(name, [row[name] for row in several]) for name in several[0]})
    return found


def _column(name: str, values: Sequence[Any]) -> np.ndarray:
    if name in _TEXTS:
        return np.array(values, dtype=object)
    if name == INDEX:
        return np.array(values, np.int64)
    if name == scoring.VALID:
        return np.array(values, bool)
    return np.array([np.nan if value is None else value for value in values], np.float64)


def packed_pictures(rows: Iterable[Row], wanted: Collection[int]) -> dict[int, bytes]:
    """The pictures of some row numbers."""
    return {row[INDEX]: base64.b64decode(row[tokenizer_files.PICTURE]) for row in rows if row[INDEX] in wanted}


def samples(rows: Iterable[Row]) -> Iterator[Sample]:
    """What was painted, as benchmarks take it."""
    for row in rows:
        if "drawn" in row:
            yield drawn_sample(row)
