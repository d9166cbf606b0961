"""Builders of packs that data workers of a test can import."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from ray_jobs.training.packs import PlannedSample
from setok.data.decode import Columns


@dataclass(frozen=True)
class Identity:
    """Builds packs that hold the samples' ids and nothing else."""

    row_bytes: int = 1000
    columns: tuple[str, ...] = ("id", "caption")

    def open(self) -> Identity:
        return self

    def build(self, packs: Sequence[Sequence[PlannedSample]]) -> Columns:
        return {
            "id": [json.dumps([sample.record.id for sample in pack]) for pack in packs],
            "error": [json.dumps(["too long" if sample.too_long else "" for sample in pack]) for pack in packs],
            "epochs": [json.dumps([sample.epoch for sample in pack]) for pack in packs],
            "payload": ["".join(sample.record.caption for sample in pack).encode() for pack in packs],
        }


@dataclass(frozen=True)
class Fat(Identity):
    """Rows of very different sizes, together more than Ray's usual block."""

    def build(self, packs: Sequence[Sequence[PlannedSample]]) -> Columns:
        columns = super().build(packs)
        columns["payload"] = [bytes(2**20 * (1 + 6 * (i % 3))) for i in range(len(packs))]
        return columns
