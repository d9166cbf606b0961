"""A set with records of many benchmarks, and evaluations without Ray: what replicas do, done in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_jobs import evaluate as command
from ray_jobs.evaluation import measure, references
from ray_jobs.evaluation.batches import Batch
from ray_jobs.evaluation.journal import Journal
from ray_jobs.evaluation.replicas import Replica, block_of
from setok.config import EvaluateConfig, TokenizerConfig
from setok.data.schema import EncodedImage, Manifest, Record, Turn
from setok.data.shards import write_shard
from tests.squares import records

OFFICIAL = {"caption": "coco", "vqa": "vqav2", "segment": "refcoco", "edit": "magicbrush"}


def official_records() -> list[Record]:
    """The squares as if readers of benchmarks had read them; one picture is damaged, one question has no answer."""
    made = []
    for number, record in enumerate(records()):
        facts = {
            "image_id": str(number),
            "question_id": str(number),
            "sent_id": str(number),
            "question_type": "where is",
        }
        answers = [record.conversation[-1].text] * 10 if record.task == "vqa" else []
        made.append(replace(record, source=OFFICIAL[record.task], answers=answers, provenance=facts))
    pope = [Turn(role="user", text="<image>\nis it red?")]
    for kind in ("random", "popular"):
        for n in range(2):
            facts = {"image_id": "7", "question_id": f"{kind}/{n}", "category": kind}
            label = ["yes", "no"][n]
            made.append(
                Record(
                    id=f"pope/{kind}/{n}",
                    source="pope",
                    task="vqa",
                    images=made[0].images,
                    conversation=pope,
                    answers=[label],
                    provenance=facts,
                )
            )
    broken = made[1]
    made.append(replace(broken, id="broken", images=[EncodedImage(data=b"no picture")]))
    made.append(replace(broken, id="nobody knows", source="s", answers=[], conversation=broken.conversation[:1]))
    return made


def write_official_set(folder: Path) -> Path:
    """The records as an ingested set."""
    shard = write_shard(folder / "shard.parquet", made := official_records())
    assert shard is not None
    Manifest(shards=[shard], records_by_source={"s": len(made)}, quarantined_by_reason={}).save(folder)
    return folder


class Here:
    """Stands for ``ask_all``; ``asked`` says which batches were asked. It dies before the batch number ``dies_at``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, dies_at: int | None = None) -> None:
        self.asked: list[int] = []
        self.dies_at = dies_at
        monkeypatch.setattr(measure, "ask_all", self)
        monkeypatch.setattr(measure, "mean_image", _mean_image)
        monkeypatch.setattr(command.launch, "start_ray", lambda: None)
        monkeypatch.setattr(command, "check_resources", lambda config: None)

    def __call__(
        self,
        config: EvaluateConfig,
        kind: Callable[[Any], Any],
        task: Any,
        batches: Sequence[Batch],
        journal: Journal,
        *,
        read: Callable[[Any], Any] | None = None,
    ) -> None:
        finished = journal.finished()
        replica = Replica(kind, task, journal.folder)
        for batch in batches:
            if batch.number in finished:
                continue
            if batch.number == self.dies_at:
                raise KeyboardInterrupt
            block = block_of(batch)
            replica(read(block) if read is not None else block)
            self.asked.append(batch.number)


def _mean_image(folder: str, model: TokenizerConfig) -> np.ndarray:
    rows = references.evenly(Manifest.load(folder).num_rows, references.MEAN_IMAGE_ROWS)
    return references.mean_of_rows(folder, rows, model.image_size, model.fit_multiple).compute()
