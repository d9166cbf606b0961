"""The figures of ``python -m ray_jobs.evaluate`` in this process alone: without Ray and files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ray_jobs.evaluation import setokim, tokenizer
from ray_jobs.evaluation.preflight import works_of
from ray_jobs.evaluation.replicas import block_of
from ray_jobs.evaluation.setokim_replica import SetokimReplica
from ray_jobs.evaluation.tokenizer_replica import TokenizerReplica
from setok.config import EvaluateConfig
from setok.metrics import scoring


def measure_here(config: EvaluateConfig, *, num_threads: int = 1) -> dict[str, Any]:
    """Figures of a checkpoint on an ingested set: what ``metrics.json`` would hold of the tasks without official format.

    Args:
        config: of one checkpoint; ``num_replicas`` has no part in this. Of the references, there are those of words and masks,
            for the mean picture is counted on Ray.
        num_threads: of torch, on a CPU.

    Raises:
        ConfigError, CheckpointError, DataError: there is no such checkpoint or set, or the set has nothing to ask it.
    """
    (work,) = works_of(config).values()
    if work.trained.stage == "tokenizer":
        read, replica = (
            tokenizer.read_of(work),
            TokenizerReplica(replace(tokenizer.task_of(work, None), num_threads=num_threads)),
        )
        rows = [row for batch in tokenizer.batches(work) for row in replica(read(block_of(batch)))]
        return scoring.summarise(tokenizer.image_rows(rows))
    batches, unasked = setokim.batches(work)
    asked = SetokimReplica(replace(setokim.task_of(work, None), num_threads=num_threads))
    rows = unasked + [row for batch in batches for row in asked(block_of(batch))]
    return setokim.figures_of(work, setokim.in_order(rows))


def flat(figures: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """The numbers among some figures, by names with ``/`` between their levels."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}/{name}")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}/{name}", float(value)
