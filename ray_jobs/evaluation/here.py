"""The figures of ``python -m ray_jobs.evaluate`` in this process alone: without Ray, references and files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ray_jobs.evaluation import files, setokim
from ray_jobs.evaluation.replica import Read, Replica, ReplicaTask, concept_vocabulary
from ray_jobs.evaluation.setokim_replica import ROW, SetokimReplica
from setok import checkpoint
from setok.config import EvaluateConfig
from setok.data.schema import Manifest
from setok.metrics import scoring
from setok.metrics import setokim as setokim_metrics
from setok.metrics.running import INDEX, ImageRows


def measure_here(config: EvaluateConfig, *, num_threads: int = 1) -> dict[str, Any]:
    """Figures of a checkpoint on an ingested set: what ``metrics.json`` would hold of them.

    Args:
        config: without references; ``num_replicas`` has no part in this.
        num_threads: of torch, on a CPU.

    Raises:
        CheckpointError, DataError: there is no such checkpoint or set.
    """
    path = checkpoint.resolve(config.checkpoint)
    trained = checkpoint.read_config(path)
    stored = Manifest.load(config.data).num_rows
    num_rows = min(stored, config.limit or stored)
    numbers = np.arange(num_rows)
    batches = [numbers[start : start + config.batch_size] for start in range(0, num_rows, config.batch_size)]
    if trained.stage != "tokenizer":
        image_size = trained.model.image_size
        task = setokim.task_of(config, path=path, image_size=image_size, num_rows=num_rows, mean_image=None)
        replica = SetokimReplica(replace(task, num_threads=num_threads))
        rows = [json.loads(text) for batch in batches for text in replica({INDEX: batch})[ROW]]
        return setokim_metrics.summarise(sorted(rows, key=lambda row: (row[INDEX], row["task"])))
    model = trained.model
    read = Read(config.data, model.image_size, model.fit_multiple)
    tokenizer = Replica(
        ReplicaTask(
            path=str(path),
            device="cuda" if config.use_gpu else "cpu",
            weights=config.weights,
            sampling_steps=config.sampling_steps,
            mean_image=None,
            vocabulary=concept_vocabulary(config.data, num_rows),
            drawn=frozenset(),
            num_extremes=0,
            num_threads=num_threads,
        )
    )
    found = ImageRows()
    for batch in batches:
        made = tokenizer(read({INDEX: batch}))
        del made[files.PICTURE]
        found.update(made)
    return scoring.summarise(found)


def flat(figures: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """The numbers among some figures, by names with ``/`` between their levels."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}/{name}")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}/{name}", float(value)
