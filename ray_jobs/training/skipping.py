"""Updates that are left out because their loss or gradient is not finite: how many may be, and which samples were in them."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from ray_jobs.training.engine import Engine
from ray_jobs.training.machine import WorkerContext
from ray_jobs.training.tracking import cut_lines
from setok.batch import Batch, LossOutput
from setok.checkpoint import TrainerState
from setok.collectives import world_size
from setok.config import TrainConfig
from setok.errors import NotFiniteError

logger = logging.getLogger(__name__)

SKIPPED = "skipped.jsonl"


@dataclass
class Skips:
    """Counts the updates that a run leaves out, over restarts; the same on all ranks.

    A step whose model has no update still counts as a step: the schedule goes on, the samples are not seen again, and no
    other module is updated. If only the discriminator's update fails, the model's stays.
    """

    config: TrainConfig
    worker: WorkerContext
    total: int = 0
    in_a_row: int = 0

    @classmethod
    def of(cls, config: TrainConfig, worker: WorkerContext, state: TrainerState) -> Skips:
        """As ``state`` says; on rank 0, ``skipped.jsonl`` is cut back to it."""
        if worker.is_main:
            cut_lines(config.run_dir / SKIPPED, last_step=state.step)
        total, in_a_row = (int(state.counters.get(name, 0)) for name in ("skipped", "skipped_in_a_row"))
        return cls(config, worker, total, in_a_row)

    @property
    def counters(self) -> dict[str, float]:
        """What a checkpoint keeps of this."""
        return {"skipped": float(self.total), "skipped_in_a_row": float(self.in_a_row)}

    @contextmanager
    def guard(
        self,
        step: int,
        engines: Mapping[str, Engine],
        micro_batches: Sequence[Batch],
        outputs: Mapping[str, Sequence[LossOutput]],
    ) -> Iterator[None]:
        """The updates of one step; one that is not finite ends the block, and is passed over where the config allows it.

        Args:
            step: index of the optimizer step.
            engines: of all modules.
            micro_batches: of this rank.
            outputs: by module, filled within the block; the last one is that of the update that fails.

        Raises:
            NotFiniteError: the run must not go on; no parameter was changed by that update.
        """
        skips = self.config.train.on_non_finite == "skip"
        buffers = {name: engine.copy_buffers() for name, engine in engines.items()} if skips else {}
        try:
            yield
        except NotFiniteError as error:
            self.total, self.in_a_row = self.total + 1, self.in_a_row + 1
            self._write(error, step, micro_batches, list(outputs.values())[-1])
            self._check(error)
            for name in buffers.keys() - set(list(outputs)[:-1]):  # those before the last have had their update
                engines[name].restore_buffers(buffers[name])
            if self.worker.is_main:
                logger.warning("%s; left out (%d of this run so far)", error.problem, self.total)
        else:
            self.in_a_row = 0

    def _check(self, error: NotFiniteError) -> None:
        train = self.config.train
        if train.on_non_finite == "stop":
            raise error
        for name, count in (("max_skipped", self.total), ("max_skipped_in_a_row", self.in_a_row)):
            allowed = getattr(train, name)
            if count > allowed:
                raise NotFiniteError(
                    f"{error.problem}; that is one more than train.{name}={allowed} allows to be left out",
                    f"look at the samples in {self.config.run_dir / SKIPPED}; {error.remedy}",
                ) from error

    def _write(
        self, error: NotFiniteError, step: int, micro_batches: Sequence[Batch], outputs: Sequence[LossOutput]
    ) -> None:
        """One line with the samples of all ranks' micro-batches, those with an impossible loss first."""
        mine = [
            {"rank": self.worker.rank, "loss": _number(output), "ids": batch.ids}
            for batch, output in zip(micro_batches, outputs, strict=True)
        ]
        gathered: list[list[dict[str, Any]]] = [mine]
        if world_size() > 1:
            gathered = [mine] * world_size()
            dist.all_gather_object(gathered, mine)
        if not self.worker.is_main:
            return
        samples = sorted((entry for part in gathered for entry in part), key=lambda entry: entry["loss"] is not None)
        # The step's number as people and the other logs count it: of the steps that are done.
        line = {"step": step + 1, "time": round(time.time(), 3), "what": error.problem, "micro_batches": samples}
        with (self.config.run_dir / SKIPPED).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _number(output: LossOutput) -> float | None:
    """A micro-batch's share of the loss; ``None`` where JSON has no word for it."""
    value = output.loss.item()
    return value if math.isfinite(value) else None
