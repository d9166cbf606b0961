"""Figures of a trained tokenizer under many clustering settings, from one pass over a set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int

from ray_jobs.evaluation.tokenizer_replica import score_reconstruction
from setok.batch import ImageTextBatch
from setok.config import ClusteringConfig
from setok.data.collate import rows_to_batch
from setok.metrics import scoring
from setok.metrics.running import INDEX, Columns, ImageRows
from setok.predictor import TokenizerPredictor, reconstruct_many

SETTINGS = "settings"
"""Column with the settings that an outcome stands for, packed."""


@dataclass(frozen=True, kw_only=True)
class ScoredOutcomes:
    """Figures of every different outcome of a batch."""

    columns: Columns
    """One row for every outcome."""
    image: Int[np.ndarray, " outcomes"]
    outcome: Int[np.ndarray, "settings batch"]
    """The row of every setting for every picture."""


def score_many(
    predictor: TokenizerPredictor,
    batch: ImageTextBatch,
    settings: Sequence[ClusteringConfig],
    *,
    sampling_steps: int | None = None,
) -> ScoredOutcomes:
    """What ``scoring.score_images`` says of every picture under every setting, each different outcome measured once."""
    outcome, several = reconstruct_many(predictor, batch, settings, sampling_steps=sampling_steps)
    columns, images = [], []
    for one in several:
        on_cpu = one.batch.to(torch.device("cpu"))
        columns.append(score_reconstruction(on_cpu, one.reconstruction) | {scoring.VALID: on_cpu.valid.numpy()})
        images.append(one.image.cpu().numpy())
    return ScoredOutcomes(columns=scoring.stack(columns), image=np.concatenate(images), outcome=outcome.cpu().numpy())


@dataclass(frozen=True, kw_only=True)
class ThresholdTask:
    """What every replica must know."""

    path: str
    device: str
    weights: Literal["ema", "raw"]
    sampling_steps: int | None
    settings: tuple[ClusteringConfig, ...]
    num_threads: int


class ThresholdReplica:
    """One copy of the model: decoded rows to rows of outcomes, each with the settings that it stands for."""

    def __init__(self, task: ThresholdTask) -> None:
        torch.set_num_threads(task.num_threads)
        self.task = task
        self.predictor = TokenizerPredictor.from_checkpoint(task.path, device=task.device, weights=task.weights)

    @torch.inference_mode()
    def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        index = np.asarray(rows[INDEX])
        batch = rows_to_batch({name: values for name, values in rows.items() if name != INDEX})
        scored = score_many(self.predictor, batch, self.task.settings, sampling_steps=self.task.sampling_steps)
        stands_for = [
            np.flatnonzero((scored.outcome == number).any(1)).astype(np.int32).tobytes()
            for number in range(len(scored.image))
        ]
        return {INDEX: index[scored.image], SETTINGS: np.array(stands_for, dtype=object), **scored.columns}


class ThresholdRows:
    """Gathers rows of outcomes, and gives the figures of every setting."""

    def __init__(self, num_settings: int) -> None:
        self._parts: list[list[dict[str, np.ndarray]]] = [[] for _ in range(num_settings)]

    def update(self, rows: Mapping[str, Any]) -> None:
        """Add what ``ThresholdReplica`` gave."""
        columns = {name: np.asarray(values) for name, values in rows.items() if name != SETTINGS}
        stands_for = [np.frombuffer(packed, dtype=np.int32) for packed in rows[SETTINGS]]
        outcomes = np.repeat(np.arange(len(stands_for)), [len(one) for one in stands_for])
        settings = np.concatenate(stands_for) if stands_for else np.zeros(0, dtype=np.int32)
        for setting, parts in enumerate(self._parts):
            chosen = outcomes[settings == setting]
            parts.append({name: values[chosen] for name, values in columns.items()})

    def summarise(self, setting: int) -> dict[str, Any]:
        """A setting's figures, as ``python -m ray_jobs.evaluate`` has them without references."""
        found = ImageRows()
        for part in self._parts[setting]:
            found.update(part)
        return scoring.summarise(found)
