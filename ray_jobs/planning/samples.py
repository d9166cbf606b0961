"""A micro-batch of the data that is here, which says more of it than any assumption."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from ray_jobs.training.batches import packed_local_batches
from ray_jobs.training.sequences import collate_of, packing_of
from setok.config import TrainConfig
from setok.data.schema import Manifest
from setok.errors import SetokError

MOST_RECORDS = 200_000
"""Larger sets take too long to be packed for a plan."""
STEPS = 2
"""Steps that are looked through for the fullest micro-batch."""


class RealBatches:
    """The fullest of a run's first micro-batches, for each size once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], Any] = {}

    def __call__(self, config: TrainConfig) -> Any:
        """A micro-batch of rows, or ``None`` where the stage has no rows or its sets are not here, or large."""
        key = (config.name, config.train.micro_batch_size)
        if key not in self._known:
            self._known[key] = _fullest(config) if _is_here(config) else None
        return self._known[key]


def _is_here(config: TrainConfig) -> bool:
    if config.stage == "tokenizer" or config.setokim is None:
        return False
    text = config.setokim.text_tokenizer or config.setokim.language_model.path
    if text is None or not Path(text).is_dir():
        return False
    try:
        return sum(Manifest.load(entry.path).num_rows for entry in config.data.train) <= MOST_RECORDS
    except SetokError:
        return False


def _fullest(config: TrainConfig) -> Any:
    """By the pictures that are encoded and the masks that are drawn, which differ most."""
    alone = config.model_copy(update={"scaling": config.scaling.model_copy(update={"num_workers": 0})})
    alone = alone.with_workers(1)
    batches = packed_local_batches(alone, packing_of(alone), collate_of(alone), start_step=0)  # type: ignore[arg-type]
    try:
        steps = list(itertools.islice(iter(batches), STEPS))
    finally:
        batches.close()
    return max(itertools.chain.from_iterable(steps), key=lambda batch: len(batch.pixel_values) + len(batch.masks))
