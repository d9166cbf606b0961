"""One of two ranks that train on the fake stage until one of them sleeps; ``tests/jobs/test_hang.py`` runs it."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ray_jobs.training import failure, loop
from ray_jobs.training.engine_torch import TorchEngine
from ray_jobs.training.machine import WorkerContext
from tests import fakes


def oversleep() -> None:
    time.sleep(120)


def script(out: Path, where: str) -> None:
    """Train on the fake stage; rank 1 oversleeps in step 3."""
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=100)
    )
    settings = {"engine": "torch", "num_workers": 2, "collective_timeout_s": 4.0}
    config = fakes.train_config(output_dir=str(out), scaling=settings, checkpoint__commit_timeout=2.0)

    class Batches(fakes.FakeBatches):
        def __iter__(self) -> Any:
            for step, batches in enumerate(super().__iter__()):
                if where == "data" and rank == 1 and step == 3:
                    oversleep()
                yield batches

    update = TorchEngine._sum_gradients

    def sum_gradients(engine: TorchEngine) -> None:
        if where == "update" and rank == 1 and engine.module.steps == 3:
            oversleep()
        engine.module.steps += 1
        update(engine)

    TorchEngine._sum_gradients = sum_gradients
    fakes.TwoLayers.steps = 0
    loop.build_stage = fakes.build_stage
    worker = WorkerContext(
        rank=rank,
        world_size=2,
        local_world_size=2,
        device=torch.device("cpu"),
        batches=lambda start: Batches(config, rank=rank, start_step=start),
        report=lambda metrics: None,
    )
    try:
        loop.train_loop(config, worker)
    except RuntimeError as error:
        failure.record(config.run_dir, error, rank=rank)
        os._exit(3)


if __name__ == "__main__":
    script(Path(sys.argv[1]), sys.argv[2])
