"""Train one stage: on Ray with any number of workers, or in this process.

    python -m ray_jobs.train --config tokenizer --set train.steps=1000

The run's folder is ``output_dir/name``. The same command again goes on from the newest good checkpoint in it.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_jobs import launch
from ray_jobs.launch import Stopped, console
from ray_jobs.progress import ProgressView
from ray_jobs.training import failure, history, preflight, signs
from ray_jobs.training.stopping import forget_request, stop_on_signal
from ray_jobs.training.verifying import verify_run
from setok import checkpoint
from setok.config import TrainConfig, differences, dump_config
from setok.data.schema import Manifest
from setok.errors import CheckpointError, ConfigError, SetokError

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
        ConfigError: the cluster can never give what the run asks for, or the folder cannot be used on all nodes.
        CheckpointError: the folder holds a run of another model.
        SetokError: training failed; the summary is in the run's ``failure.txt`` too.
        Stopped: the run was asked to stop, and has saved.
    """
    config = with_absolute_paths(config)
    run_dir = config.run_dir
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
        with stop_on_signal(run_dir), ProgressView(run_dir, console()):
            if config.scaling.num_workers:
                from ray_jobs.training.validating import Validator

                with Validator(config):
                    train_on_ray(config, callbacks)
            else:
                evaluate_what_is_left(config)
                train_here(config)
    except Stopped:
        if not is_finished(config):
            raise
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
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from ray_jobs.training.worker import NoteFailures, StopForGood, TrainingData, TrainingDataConfig, run_worker

    everyone: list[Any] = [NoteFailures(config), StopForGood(), *callbacks]

    class Trainer(TorchTrainer):
        """One that leaves Ctrl-C to ``stop_on_signal``: Ray's answer would be to abort without saving."""

        def _register_sigint_handler(self, controller: Any) -> None: ...

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
    trainer.fit()


# ---------------------------------------------------------------- before it starts


def find_start(config: TrainConfig) -> Path | None:
    """The checkpoint that a run goes on from, told to whoever started it; ``None`` for a new run.

    Raises:
        CheckpointError: there are checkpoints and none is good, or they are of another model.
    """
    home = checkpoint.home_of(config)
    store, start = checkpoint.Store.of_run(home), checkpoint.newest_good(home)
    if start is None and store.steps():
        raise CheckpointError(
            f"none of the checkpoints in {store.storage.name} can be used; what is wrong with each is said above",
            f"to start over, delete them or give the run another name (--set name={config.name}-2)",
        )
    if start is not None:
        check_same_run(config, start)
        if checkpoint.step_of(start) < config.train.steps:
            console().print(f"Going on from {store.shown(checkpoint.step_of(start))}.")
    return start


def check_before_start(config: TrainConfig, start: Path | None) -> None:
    """Refuse what cannot work before anything heavy is started: stores, sets, weights, the cluster, the run's folder."""
    checkpoint.Store.of_run(checkpoint.home_of(config)).probe()
    if config.validation is not None:
        Manifest.load(config.validation.data)
    if start is None:
        check_beginning(config)
    if config.scaling.num_workers:
        check_cluster(config)
    preflight.check_folder(config.run_dir)
    if config.scaling.num_workers:
        preflight.check_nodes(config)


def check_same_run(config: TrainConfig, start: Path) -> None:
    """Refuse to go on with another model or optimizer; warn where the order of the data changes."""
    old = checkpoint.read_config(start)
    changed = {
        key: values
        for section in ("stage", "model", "concepts", "discriminator", "setokim")
        for key, values in differences(getattr(old, section), getattr(config, section), section).items()
    } | differences(old.optim.kind, config.optim.kind, "optim.kind")
    if changed:
        listed = ", ".join(f"{key} {before!r} → {after!r}" for key, (before, after) in sorted(changed.items()))
        raise CheckpointError(
            f"{config.run_dir} holds a run of another model: {listed}",
            f"give this run another name (--set name={config.name}-2), or delete {config.run_dir}",
        )
    order = differences(old.data.train, config.data.train, "data.train") | differences(old.seed, config.seed, "seed")
    if old.train.global_batch_size != config.train.global_batch_size:
        order["train.global_batch_size"] = (old.train.global_batch_size, config.train.global_batch_size)
    for key, (before, after) in order.items():
        logger.warning("%s was %r and is %r: from here on, samples come in another order", key, before, after)


def check_beginning(config: TrainConfig) -> None:
    """Refuse a new run whose ``checkpoint.init_from`` is missing, or is of another model."""
    if config.checkpoint.init_from is None:
        return
    source = checkpoint.resolve(config.checkpoint.init_from)
    if config.stage != "tokenizer":
        from setok.stages.setokim import check_source  # brings in torch

        check_source(source, config)


def check_cluster(config: TrainConfig) -> None:
    """Refuse what the cluster can never give; Ray itself would wait for ever."""
    import ray

    scaling, data = config.scaling, config.data
    now = ray.cluster_resources()
    largest = ray._private.state.state.get_max_resources_from_cluster_config() or {}  # what the autoscaler may add
    available = {kind: max(now.get(kind, 0.0), largest.get(kind, 0.0)) for kind in ("CPU", "GPU")}

    def missing(num_workers: int) -> tuple[str, str] | None:
        """What so many workers lack, and what to lower."""
        cpus = num_workers * scaling.cpus_per_worker + data.decode_workers * data.decode_cpus
        parts = f"{num_workers} workers × {scaling.cpus_per_worker:g} + {data.decode_workers} decoders × {data.decode_cpus:g}"
        if cpus > available["CPU"] + 1e-6:
            lower = "lower scaling.num_workers, scaling.cpus_per_worker or data.decode_workers"
            return f"{cpus:g} CPUs ({parts}), and the cluster has {available['CPU']:g}", lower
        if scaling.use_gpu and num_workers > available["GPU"]:
            lower = "lower scaling.num_workers, or set scaling.use_gpu=false"
            return f"{num_workers} GPUs ({num_workers} workers × 1), and the cluster has {available['GPU']:g}", lower
        return None

    if (lack := missing(scaling.min_workers)) is not None:
        fewest = " at least" if scaling.is_elastic else ""
        raise ConfigError(f"the run needs{fewest} {lack[0]}", f"{lack[1]}, or add nodes")
    if (lack := missing(scaling.max_workers)) is not None:
        logger.warning(
            "scaling.num_workers of %d need %s: the run starts with fewer, and takes more when nodes come",
            scaling.max_workers,
            lack[0],
        )


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """The same run with paths that mean the same in Ray's processes, whose working directory is another."""

    def absolute(path: str) -> str:
        return path if "://" in path else str(Path(path).absolute())

    setokim = config.setokim and config.setokim.model_copy(
        update={
            "text_tokenizer": _existing(config.setokim.text_tokenizer),
            "language_model": config.setokim.language_model.model_copy(
                update={"path": _existing(config.setokim.language_model.path)}
            ),
        }
    )
    init_from, store = config.checkpoint.init_from, config.checkpoint.store
    perceptual = config.loss.perceptual_path
    validation = config.validation and config.validation.model_copy(update={"data": absolute(config.validation.data)})
    entries = tuple(entry.model_copy(update={"path": absolute(entry.path)}) for entry in config.data.train)
    return config.model_copy(
        update={
            "output_dir": absolute(config.output_dir),
            "data": config.data.model_copy(update={"train": entries}),
            "loss": config.loss.model_copy(update={"perceptual_path": perceptual and absolute(perceptual)}),
            "setokim": setokim,
            "validation": validation,
            "checkpoint": config.checkpoint.model_copy(
                update={"init_from": init_from and absolute(init_from), "store": store and absolute(store)}
            ),
        }
    )


def _existing(path: str | None) -> str | None:
    """A local folder's absolute path; a hub id stays what it is."""
    return str(Path(path).absolute()) if path and Path(path).exists() else path


# ---------------------------------------------------------------- command


def dry_run(config: TrainConfig) -> None:
    """Show what the run would train, on how many samples, and how much memory a worker needs for it.

    Raises:
        CheckpointError: what the run is to start from is missing, or is of another model.
    """
    from rich.table import Table

    from setok.summary import describe, estimate_memory

    if checkpoint.newest_good(checkpoint.home_of(config)) is None:
        check_beginning(config)
    parts = describe(config)
    table = Table("part", "parameters", "trainable", title=f"{config.name}: stage {config.stage}")
    for part in parts:
        table.add_row(part.name, f"{part.parameters:,}", f"{part.trainable:,}")
    total, trainable = sum(part.parameters for part in parts), sum(part.trainable for part in parts)
    table.add_section()
    table.add_row("all", f"{total:,}", f"{trainable:,}")
    console().print(table)
    samples = config.train.steps * config.train.global_batch_size
    what = "images" if config.stage == "tokenizer" else f"rows of up to {config.sequence.max_length} tokens"
    for size in _sizes(config):
        console().print(_arithmetic(config.with_workers(size), what))
    console().print(f"{config.train.steps} steps = {samples:,} {what}.")
    for entry in config.data.train:
        share = entry.weight / sum(e.weight for e in config.data.train)
        # How many samples a row holds is known once the sets' lengths are counted, which a dry run does not do.
        console().print(_epochs(entry.path, share * samples if config.stage == "tokenizer" else None))
    if config.validation is not None:
        console().print("Evaluated beside it: " + _epochs(config.validation.data, None))
    fewest = config.with_workers(_sizes(config)[0])  # the fewer they are, the more of the optimizer each holds
    memory = estimate_memory(fewest, parts)
    sizes = [f"{value / 2**20:,.1f} MiB {what}" for what, value in vars(memory).items()]
    console().print(f"A worker holds {memory.total / 2**20:,.1f} MiB besides activations: {', '.join(sizes)}.")


def _sizes(config: TrainConfig) -> list[int]:
    """The numbers of workers that a run may have; of a wide range some, the ends among them."""
    fewest, most = max(1, config.scaling.min_workers), max(1, config.scaling.max_workers)
    return sorted({*range(fewest, min(most, fewest + 8)), most})


def _arithmetic(config: TrainConfig, what: str) -> str:
    """How a global batch is shared, and how much of the work is padding."""
    batch, micro, steps = (
        config.train.global_batch_size,
        config.train.micro_batch_size,
        config.gradient_accumulation_steps,
    )
    places = config.num_ranks * micro * steps
    wasted = f", of which {places - batch} ({(places - batch) / places:.0%}) are padding" if places > batch else ""
    return f"Global batch {batch} = {config.num_ranks} worker(s) × {micro} {what} × {steps} micro-batch(es)" + (
        f" = {places} places{wasted}." if wasted else "."
    )


def _epochs(path: str, samples: float | None) -> str:
    """How large one data set is, and how often a run goes through it where that is known."""
    from setok.data.schema import Manifest

    try:
        rows = Manifest.load(path).num_rows
    except SetokError as error:
        return f"Data {path}: {error.problem}"
    return f"Data {path}: {rows:,} records" + (f", {samples / rows:.2f} epochs." if samples is not None else ".")


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
