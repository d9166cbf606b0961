"""When and how a run's checkpoints are written: all ranks together, each its part."""

from __future__ import annotations

from collections.abc import Mapping

from ray_jobs.training.engine import Engine
from ray_jobs.training.machine import WorkerContext, barrier
from setok import checkpoint
from setok.checkpoint import TrainerState
from setok.config import TrainConfig
from setok.ema import WeightAverage
from setok.errors import CheckpointError


def is_due(config: TrainConfig, done: int) -> bool:
    """Whether the schedule asks for a checkpoint after ``done`` steps."""
    return done % config.checkpoint.every == 0 or done == config.train.steps


def save(
    config: TrainConfig,
    worker: WorkerContext,
    engines: Mapping[str, Engine],
    state: TrainerState,
    average: WeightAverage | None,
) -> None:
    """Write a checkpoint, all ranks together, and delete the oldest ones."""
    weights = {name: engine.full_weights() for name, engine in engines.items()}
    if average is not None:
        weights[f"{checkpoint.AVERAGE}.model"] = average.state()
    optimizer = {name: engine.named_state(worker.rank, worker.world_size) for name, engine in engines.items()}
    try:
        if worker.is_main:
            checkpoint.begin(config.run_dir, state.step)
        barrier()
        folder = checkpoint.temporary_folder(config.run_dir, state.step)
        checkpoint.write_rank_part(folder, optimizer, rank=worker.rank, world_size=worker.world_size)
        barrier()
        if worker.is_main:
            written = checkpoint.finish(folder, config, weights, state)
            checkpoint.prune(config.run_dir, config.checkpoint.keep, verified=written)
    except OSError as error:
        raise CheckpointError(
            f"the checkpoint of step {state.step} cannot be written: {error}",
            f"free space in {config.run_dir} (checkpoint.keep={config.checkpoint.keep}), or give the run another output_dir",
        ) from error
