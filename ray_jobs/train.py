"""Train one stage: on Ray with any number of workers, or in this process.

    python -m ray_jobs.train --config tokenizer --set train.steps=1000

The run's folder is ``output_dir/name``. The same command again goes on from the newest good checkpoint in it.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_jobs import launch
from ray_jobs.launch import Stopped, console
from ray_jobs.progress import ProgressView
from ray_jobs.training import failure, history, signs
from ray_jobs.training.alone import check_alone
from ray_jobs.training.before_start import check_before_start, find_start, with_absolute_paths
from ray_jobs.training.dry_run import dry_run
from ray_jobs.training.messages import Messages
from ray_jobs.training.stopping import forget_request, is_asked_to_stop, stop_on_signal
from ray_jobs.training.verifying import verify_run
from setok import checkpoint
from setok.config import TrainConfig, dump_config
from setok.errors import ConfigError, SetokError

if TYPE_CHECKING:
    from ray.train import UserCallback

logger = logging.getLogger(__name__)

# Workers that are slow to start (image pull, scaling up) are given time; a killed worker is noticed before the others have
# gone far.
RAY_TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
}
ELASTIC_START_TIMEOUT_S = "20"
"""Right after a node is lost Ray still counts it, and asks for as many workers as before; only when they have not found room
in this time does it count again."""


def train(config: TrainConfig, *, callbacks: Sequence[UserCallback] = ()) -> Path:
    """Train until ``train.steps``, from the newest good checkpoint of the run if there is one.

    Ray must be running (``launch.start_ray``) unless ``scaling.num_workers`` is 0.

    Args:
        callbacks: Ray Train callbacks, such as Tune's ``TuneReportCallback``.

    Returns:
        The run's folder.

    Raises:
        ConfigError: the run is going on already, the cluster can never give what it asks for, or the folder cannot be used on
            all nodes.
        CheckpointError: the folder holds a run of another model.
        SetokError: training failed; the summary is in the run's ``failure.txt`` too.
        Stopped: the run was asked to stop, and has saved.
    """
    config = with_absolute_paths(config)
    run_dir = config.run_dir
    check_alone(run_dir)
    start = find_start(config)
    if start is not None and checkpoint.step_of(start) >= config.train.steps:
        console().print(f"{run_dir} is finished: {checkpoint.step_of(start)} steps. Raise train.steps to go on.")
        evaluate_what_is_left(config)
        return run_dir
    check_before_start(config, start)
    failure.clear(run_dir)
    history.note_sudden_end(run_dir)
    signs.clear(run_dir)
    began = time.time()
    forget_request(run_dir)
    (run_dir / checkpoint.CONFIG).write_text(dump_config(config), encoding="utf-8")
    try:
        with stop_on_signal(run_dir):
            if config.data.features is not None:
                from ray_jobs.training.features import prepare_features  # brings in torch

                prepare_features(config, start)
            if not is_asked_to_stop(run_dir):
                run_stage(config, callbacks)
    except Stopped as stopped:
        if not is_finished(config):
            saved = bool(checkpoint.Store.of_run(checkpoint.home_of(config)).steps())
            raise Stopped(run_dir, stopped.number, saved=saved) from None
    except Exception as error:
        summary = failure.explain(run_dir, error)
        history.note_end(run_dir, failure.find_cause(run_dir, error, failure.failures_of(error)), since=began)
        logger.info("the whole failure is in %s", run_dir / failure.FAILURE)
        if isinstance(error, SetokError) or config.scaling.num_workers:
            raise summary from None
        raise
    if (survived := history.summary(run_dir)) is not None:
        console().print(f"The run survived {survived}; see {run_dir / history.HISTORY}.")
    return run_dir


def run_stage(config: TrainConfig, callbacks: Sequence[UserCallback]) -> None:
    """The training itself, with its progress on the console."""
    with ProgressView(config.run_dir, console(), messages=messages_of(config)):
        if config.scaling.num_workers:
            from ray_jobs.training.validating import Validator

            with Validator(config):
                train_on_ray(config, callbacks)
        else:
            evaluate_what_is_left(config)
            train_here(config)


def messages_of(config: TrainConfig) -> Callable[[], list[str]]:
    """Gives the ranks' warnings where nobody else shows them."""
    if launch.shows_logs() or not config.scaling.num_workers:
        return list
    return Messages(config.run_dir).new


def is_finished(config: TrainConfig) -> bool:
    """Whether the run has a checkpoint of its last step."""
    steps = checkpoint.Store.of_run(checkpoint.home_of(config)).steps()
    return bool(steps) and max(steps) >= config.train.steps


def train_here(config: TrainConfig) -> None:
    """The loop in this process, without Ray."""
    import torch

    from ray_jobs.training.batches import local_batches, packed_local_batches
    from ray_jobs.training.loop import train_loop
    from ray_jobs.training.machine import Batches, WorkerContext
    from ray_jobs.training.sequences import collate_of, packing_of
    from ray_jobs.training.validating import validate_here

    if config.scaling.use_gpu and not torch.cuda.is_available():
        raise ConfigError(
            "scaling.use_gpu is on, and torch sees no GPU here", "--set scaling.use_gpu=false, or use a GPU node"
        )

    def batches(start_step: int) -> Batches:
        packing = packing_of(config)
        if packing is None:
            return local_batches(config, start_step=start_step)
        return packed_local_batches(config, packing, collate_of(config), start_step=start_step)

    worker = WorkerContext(
        rank=0,
        world_size=1,
        local_world_size=1,
        device=torch.device("cuda" if config.scaling.use_gpu else "cpu"),
        batches=batches,
        report=lambda metrics: None,
        validate=partial(validate_here, config),
    )
    train_loop(config, worker)


def evaluate_what_is_left(config: TrainConfig) -> None:
    """Evaluate the checkpoints whose turn it was when the run was stopped."""
    from ray_jobs.training.tracking import log_evaluations
    from ray_jobs.training.validating import Validator, unfinished, validate_here

    if config.validation is None or not unfinished(config):
        return
    if config.scaling.num_workers:
        with Validator(config):
            pass
        return
    for step in sorted(unfinished(config)):
        validate_here(config, step)
    log_evaluations(config)


def train_on_ray(config: TrainConfig, callbacks: Sequence[UserCallback]) -> None:
    """The loop in Ray Train workers, which start again by themselves after a failure."""
    if config.scaling.is_elastic:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", ELASTIC_START_TIMEOUT_S)
    for name, value in RAY_TRAIN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    scaling = config.scaling
    patience = max(scaling.start_timeout_s, scaling.collective_timeout_s)
    # A rank that never comes would else be waited for for ever; the first call of this kind is part of the start.
    os.environ["RAY_TRAIN_COLLECTIVE_TIMEOUT_S"] = f"{patience:g}"
    from ray.exceptions import RayActorError
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from ray_jobs.training.waiting import Watch, cluster_of
    from ray_jobs.training.worker import NoteFailures, StopForGood, TrainingData, TrainingDataConfig, run_worker

    everyone: list[Any] = [NoteFailures(config), StopForGood(), *callbacks]

    class Trainer(TorchTrainer):
        """One that leaves Ctrl-C to ``stop_on_signal``: Ray's answer would be to abort without saving."""

        controller: Any = None

        def _register_sigint_handler(self, controller: Any) -> None:
            self.controller = controller

    trainer = Trainer(
        run_worker,
        train_loop_config={"config": config},
        torch_config=TorchConfig(backend="nccl" if scaling.use_gpu else "gloo", timeout_s=math.ceil(patience)),
        scaling_config=ScalingConfig(
            num_workers=scaling.num_workers,
            elastic_resize_monitor_interval_s=scaling.resize_seconds,
            use_gpu=scaling.use_gpu,
            resources_per_worker={"CPU": scaling.cpus_per_worker} | ({"GPU": 1} if scaling.use_gpu else {}),
        ),
        # A new name every time: what Ray keeps under it would be a second opinion on where the run stands.
        run_config=RunConfig(
            name=time.strftime("%Y%m%d-%H%M%S"),
            storage_path=str(config.run_dir / "ray"),
            failure_config=FailureConfig(
                max_failures=scaling.max_failures,
                max_preemption_failures=-1 if scaling.max_preemptions is None else scaling.max_preemptions,
            ),
            callbacks=everyone,
        ),
        datasets={"train": TrainingData(config)},
        dataset_config=TrainingDataConfig(config.data),
    )
    with Watch(config, cluster_of(lambda: trainer.controller)) as watch:
        try:
            trainer.fit()
        except RayActorError:
            if not watch.has_ended_it:
                raise
    watch.settle()


def main(argv: Sequence[str] | None = None) -> Path:
    """The command."""
    verify = launch.Action(
        flag="--verify",
        metavar="RUN",
        help="check all files of a run's checkpoints, say which one would be resumed, and stop; needs no --config;"
        " exit code 0: the newest, 1: an older one, 2: none is good",
        run=lambda config, run: verify_run(run, console()),
        needs_config=False,
    )
    config = launch.parse(TrainConfig, __doc__ or "", argv, dry_run=dry_run, actions=[verify])
    if config.scaling.num_workers:
        launch.start_ray()
    run_dir = train(config)
    console().print(f"The run is in {run_dir}.")
    return run_dir


if __name__ == "__main__":
    launch.run(main)
