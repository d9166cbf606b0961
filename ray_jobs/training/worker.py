"""What runs in Ray's processes during training: the worker's function, and what the controller calls back.

In a module of its own, so that ``python -m ray_jobs.train`` hands Ray importable names and not copies of ``__main__``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray.train
import torch
from ray.data import DataIterator, ExecutionOptions
from ray.train import UserCallback

from ray_jobs.launch import setup_logging
from ray_jobs.training import failure, history
from ray_jobs.training.loop import train_loop
from ray_jobs.training.machine import Batches, WorkerContext
from ray_jobs.training.messages import warnings_kept
from setok import checkpoint
from setok.config import DataConfig as DataSettings
from setok.config import TrainConfig

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from ray_jobs.training.decoding import DataSpec

logger = logging.getLogger(__name__)


def run_worker(settings: dict[str, TrainConfig]) -> None:
    """Train as one rank of a Ray Train worker group; ``settings`` has the one key ``config``."""
    from ray.train.torch import get_device

    from ray_jobs.training.batches import packed_worker_batches, worker_batches
    from ray_jobs.training.sequences import collate_of

    setup_logging()
    context = ray.train.get_context()
    config = settings["config"].with_workers(context.get_world_size())
    rank = context.get_world_rank()

    def batches(start_step: int) -> Batches:
        shard = ThisShard()
        if config.stage == "tokenizer":
            return worker_batches(shard, config, rank=rank, start_step=start_step)
        return packed_worker_batches(shard, config, collate_of(config), rank=rank, start_step=start_step)

    worker = WorkerContext(
        rank=rank,
        world_size=context.get_world_size(),
        local_world_size=context.get_local_world_size(),
        device=get_device() if config.scaling.use_gpu else torch.device("cpu"),
        batches=batches,
        report=ray.train.report,
        nodes_to_go=nodes_to_go,
    )
    failure.clear_record(config.run_dir, rank=rank)
    try:
        with warnings_kept(config.run_dir, rank):
            train_loop(config, worker)
    except Exception as error:
        failure.record(config.run_dir, error, rank=rank)
        raise


class ThisShard:
    """This rank's share of the dataset, which Ray makes when somebody begins to read it: that takes a second or two."""

    def iter_batches(self, **settings: Any) -> Iterable[Mapping[str, Any]]:
        """As those of a ``ray.data.DataIterator``."""
        batches: Iterable[Mapping[str, Any]] = ray.train.get_dataset_shard("train").iter_batches(**settings)
        return batches


def nodes_to_go() -> frozenset[str]:
    """Ids of the workers' nodes that were announced to be taken away; a barrier over all workers."""
    info = ray.train.get_preemption_info()
    return frozenset() if info is None else frozenset(info.preempted_node_ids)


class TrainingData:
    """Plans the data from where the newest good checkpoint stands; Ray calls it whenever a worker group starts.

    Ray does not say here how many workers start, so this is no dataset yet: ``TrainingDataConfig`` makes it.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._config = config

    def __call__(self) -> DataSpec:
        """All that the dataset needs, but for the number of workers; what the data cannot give is refused.

        Raises:
            ConfigError: blocks would be too large, or the capped sets have too few samples for all steps.
            DataError: a set is missing.
        """
        from ray_jobs.training.dataset import check_block_size
        from ray_jobs.training.decoding import DataSpec
        from ray_jobs.training.sequences import packing_of

        found = checkpoint.newest_good(checkpoint.home_of(self._config))
        start_step = checkpoint.step_of(found) if found else 0
        fewest, packing = self._config.scaling.min_workers, packing_of(self._config)
        if packing is None:
            check_block_size(self._config, num_workers=fewest)
        return DataSpec.of(self._config, start_step=start_step, num_workers=fewest, packing=packing)


class TrainingDataConfig(ray.train.DataConfig):
    """Hands the dataset to the workers in order, made for as many of them as have started."""

    def __init__(self, config: DataSettings) -> None:
        super().__init__(execution_options=ExecutionOptions(preserve_order=True))
        self._config = config

    def configure(  # Ray hands through whatever TrainingData gave
        self,
        datasets: dict[str, DataSpec],
        world_size: int,
        worker_handles: list[ActorHandle] | None,
        worker_node_ids: list[str] | None,
        **later: Any,
    ) -> list[dict[str, DataIterator]]:
        """One shard of the dataset for every worker."""
        from ray_jobs.training.dataset import planned_dataset

        made = {
            name: planned_dataset(replace(spec, num_workers=world_size), self._config)
            for name, spec in datasets.items()
        }
        return super().configure(made, world_size, worker_handles, worker_node_ids, **later)


class NoteFailures(UserCallback):
    """Writes every break-down into the run's history, before Ray starts the workers anew."""

    def __init__(self, config: TrainConfig) -> None:
        self._run_dir = config.run_dir

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Find the first cause among what the workers raised."""
        # Before it starts anew, Ray asks every worker to take leave of the others; one that hangs would be given 30 s. The
        # controller reads this from its own environment, into which Ray does not carry it.
        os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", "5")
        error = next(iter(worker_exceptions.values()))
        history.note_failure(self._run_dir, failure.find_cause(self._run_dir, error, worker_exceptions))


class StopForGood(UserCallback):
    """Ends a run at once for an error that would only come again, where Ray would start the workers anew.

    Raising on the controller is the way to do so: Ray does not try again after a controller error.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the first ``SetokError`` among the workers' exceptions."""
        for exception in worker_exceptions.values():
            ours = failure.find_setok_error(exception)
            if ours is not None:
                raise ours
