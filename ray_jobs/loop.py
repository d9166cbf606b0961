"""The training loop: what every worker does, on a cluster and in a single process alike.

The loop knows the machine (ranks, devices, checkpoints, logs); the stage knows the science.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from ray_jobs.engine import Engine, build_engine
from ray_jobs.progress import Progress, write_progress
from ray_jobs.tracking import Tracker, open_trackers, picture_of
from setok import checkpoint
from setok.batch import Batch, LossOutput, StepContext
from setok.checkpoint import OptimizerState, TrainerState
from setok.collectives import all_reduce_sum
from setok.config import TrainConfig
from setok.ema import WeightAverage
from setok.errors import CheckpointError, DataError, TrainingError
from setok.optim import learning_rate_factor
from setok.stages import Stage, build_stage, load_initial_weights

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.5
LOG_LINE_SECONDS = 60.0


class Batches(Iterable[Sequence[Batch]], Protocol):
    """One rank's data: for every optimizer step a list of micro-batches."""

    wait_seconds: float
    """Time that the reader of this has spent waiting so far."""
    num_bad: int
    """Samples so far that could not be decoded and were masked."""


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """The machine as one rank sees it."""

    rank: int
    world_size: int
    local_world_size: int
    """Ranks on this node."""
    device: torch.device
    batches: Callable[[int], Batches]
    """The data from an optimizer step on."""
    report: Callable[[dict[str, float]], None]
    """Tell Ray about the metrics; called on all ranks at the same steps."""

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes what is written once."""
        return self.rank == 0


def train_loop(config: TrainConfig, worker: WorkerContext) -> None:
    """Train from the run's newest good checkpoint, if there is one, to the end.

    Raises:
        TrainingError: loss or gradient is not finite, or memory is exhausted.
        DataError: the data ends early or too much of it is bad.
        CheckpointError: the checkpoint is of another model, or cannot be written.
    """
    set_up_process(config, worker)
    start = agree_on_start(config, worker)
    state = checkpoint.read_state(start) if start else TrainerState(step=0, samples=0, world_size=worker.world_size)
    stage, engines = build(config, worker, start)
    average = build_average(config, worker, engines, start)
    batches = worker.batches(state.step)
    fetch = iter(batches)
    with RunLog(config, worker, state) as log:
        for step in range(state.step, config.train.steps):
            seed_step(config.seed, step, worker.rank)
            micro_batches = [batch.to(worker.device) for batch in next(fetch, [])]
            check_number(micro_batches, config, step)
            with engines["model"].whole(stage.prepares_with):
                contexts = stage.prepare(micro_batches, step=step)
            factor = learning_rate_factor(step, config)
            outputs: dict[str, list[LossOutput]] = {}
            norms: dict[str, float] = {}
            for name, engine in engines.items():
                if stage.is_active(name, step):
                    outputs[name] = take_turn(engine, micro_batches, contexts)
                    norms[name] = engine.step(factor, step=step)
            if average is not None:
                average.update(step)
            done = step + 1
            state = TrainerState(
                step=done,
                samples=done * config.train.global_batch_size,
                world_size=worker.world_size,
                counters={"train_seconds": log.train_seconds},
            )
            log.step(done, engines, outputs, norms, factor, batches)
            if done == 1 or done % config.train.image_every == 0 or done == config.train.steps:
                log.picture(done, micro_batches, outputs)
            if done % config.checkpoint.every == 0 or done == config.train.steps:
                log.phase("saving", done)
                save(config, worker, engines, state, average)


def take_turn(engine: Engine, micro_batches: Sequence[Batch], contexts: Sequence[StepContext]) -> list[LossOutput]:
    """Forward and backward over all micro-batches of a step."""
    outputs = []
    try:
        for batch, context in zip(micro_batches, contexts, strict=True):
            output = engine(batch, context)
            engine.backward(output.loss)
            outputs.append(output)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"the device has not enough memory for a micro-batch of {len(micro_batches[0])} images: {error}",
            "lower train.micro_batch_size, raise deepspeed.zero_stage, or set train.precision=bf16",
        ) from error
    return outputs


# ---------------------------------------------------------------- start


def set_up_process(config: TrainConfig, worker: WorkerContext) -> None:
    """Threads, determinism and seed of this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(config.train.threads_per_worker or max(1, cores // worker.local_world_size))
    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.manual_seed(config.seed)  # the same on all ranks: they must start from the same weights


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make whatever is random in a step a function of seed, step and rank, so that a resumed step repeats itself."""
    torch.manual_seed((seed * 1_000_003 + step) * 65_537 + rank)


def agree_on_start(config: TrainConfig, worker: WorkerContext) -> Path | None:
    """The checkpoint to go on from, found by rank 0 for all."""
    found = checkpoint.newest_good(config.run_dir) if worker.is_main else None
    step = int(all_reduce_sum(torch.tensor(checkpoint.step_of(found) if found else 0, device=worker.device)))
    if not step:
        return None
    path = checkpoint.folder_of(config.run_dir, step)
    if not path.is_dir():
        raise CheckpointError(
            f"rank {worker.rank} does not see {path}, which rank 0 found",
            "set output_dir to storage that all nodes share",
        )
    return path


def build(config: TrainConfig, worker: WorkerContext, start: Path | None) -> tuple[Stage, dict[str, Engine]]:
    """The stage and an engine for each of its modules, with weights and optimizer state of ``start``."""
    stage = build_stage(config)
    source = start or (checkpoint.resolve(config.checkpoint.init_from) if config.checkpoint.init_from else None)
    engines = {}
    for name, module in stage.modules.items():
        if source is not None and (start or checkpoint.holds(source, name)):
            load = checkpoint.load_model if start else load_initial_weights
            load(source, module, name)
        module.to(worker.device).train()
    for name, module in stage.modules.items():
        engines[name] = build_engine(name, module, stage.optimizer(name), config, worker.device)
        if start is not None:
            engines[name].load_state(OptimizerState(start, name))
    return stage, engines


def build_average(
    config: TrainConfig, worker: WorkerContext, engines: Mapping[str, Engine], start: Path | None
) -> WeightAverage | None:
    """The running average of the model's weights as of ``start``, on the rank that writes it."""
    if not (config.train.ema_decay and worker.is_main):
        return None
    average = WeightAverage(engines["model"].trainable, config.train.ema_decay)
    if start is not None and (state := checkpoint.read_average(start, "model")):
        average.load(state)
    return average


def check_number(micro_batches: Sequence[Batch], config: TrainConfig, step: int) -> None:
    """Refuse a step that has not the number of micro-batches that all ranks count on."""
    if len(micro_batches) != config.gradient_accumulation_steps:
        raise DataError(
            f"the data gave {len(micro_batches)} instead of {config.gradient_accumulation_steps} micro-batches for step "
            f"{step} of {config.train.steps}",
            "the plan covers the whole run, so this is a fault of the data pipeline: see the logs of its workers",
        )


# ---------------------------------------------------------------- checkpoints


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


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


# ---------------------------------------------------------------- logs


class RunLog:
    """Numbers, pictures and progress of a run. All ranks call it, since sums go over ranks; rank 0 writes."""

    def __init__(self, config: TrainConfig, worker: WorkerContext, state: TrainerState) -> None:
        self._config, self._worker = config, worker
        self._start = state.step
        self._trackers: list[Tracker] = []
        self._before = state.counters.get("train_seconds", 0.0)
        self._began = self._window_began = time.perf_counter()
        self._window_step, self._window_wait = state.step, 0.0
        self._shown = self._said = 0.0
        self._latest: dict[str, float] = {}

    def __enter__(self) -> RunLog:
        if self._worker.is_main:
            self._trackers = open_trackers(self._config, self._config.run_dir, self._start)
            self.phase("starting", self._start)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for tracker in self._trackers:
            tracker.close()
        if kind is None:
            self.phase("done", self._config.train.steps)

    @property
    def train_seconds(self) -> float:
        """Time spent in the loop, over restarts."""
        return self._before + time.perf_counter() - self._began

    def step(
        self,
        done: int,
        engines: Mapping[str, Engine],
        outputs: Mapping[str, list[LossOutput]],
        norms: Mapping[str, float],
        factor: float,
        batches: Batches,
    ) -> None:
        """Take note of a finished step, and log it if it is its turn."""
        self._latest["loss"] = engines["model"].loss
        if done % self._config.train.log_every == 0 or done == self._config.train.steps:
            metrics = self._timings(done, batches) | {"train/learning_rate": self._config.optim.learning_rate * factor}
            for name in outputs:
                suffix = "" if name == "model" else f"{name}_"
                metrics |= {f"train/{suffix}loss": engines[name].loss, f"train/{suffix}grad_norm": norms[name]}
                metrics |= {f"train/{part}": value for part, value in _global_parts(outputs[name]).items()}
            bad = torch.tensor(float(batches.num_bad), device=self._worker.device)
            metrics["data/bad_samples"] = float(all_reduce_sum(bad))
            for tracker in self._trackers:
                tracker.scalars(metrics, done)
            self._latest |= {name.partition("/")[2]: value for name, value in metrics.items()}
            self._worker.report({"step": done, **metrics})
        if time.perf_counter() - self._shown > PROGRESS_SECONDS:
            self.phase("training", done)

    def picture(self, done: int, micro_batches: Sequence[Batch], outputs: Mapping[str, list[LossOutput]]) -> None:
        """Log originals, token maps and reconstructions of the step's last micro-batch."""
        if not self._trackers:
            return
        picture = picture_of(micro_batches[-1], outputs["model"][-1])
        if picture is not None:
            for tracker in self._trackers:
                tracker.image("train/images", picture, done)

    def phase(self, phase: str, done: int) -> None:
        """Tell people where the run stands."""
        if not self._worker.is_main:
            return
        steps, rate = self._config.train.steps, self._latest.get("images_per_second")
        progress = Progress(
            step=done,
            steps=steps,
            phase=phase,
            time=time.time(),
            resumed_from=self._start,
            loss=self._latest.get("loss"),
            psnr=self._latest.get("psnr"),
            images_per_second=rate,
            seconds_left=(steps - done) * self._config.train.global_batch_size / rate if rate else None,
            wait_fraction=self._latest.get("data_wait_fraction"),
        )
        write_progress(self._config.run_dir, progress)
        self._shown = time.perf_counter()
        if self._shown - self._said > LOG_LINE_SECONDS and self._worker.world_size > 1:
            # For a driver that does not see the folder: Ray brings it the workers' log.
            self._said = self._shown
            logger.info(progress.line())

    def _timings(self, done: int, batches: Batches) -> dict[str, float]:
        now = time.perf_counter()
        seconds = max(now - self._window_began, 1e-9)
        steps, waited = done - self._window_step, batches.wait_seconds - self._window_wait
        self._window_began, self._window_step, self._window_wait = now, done, batches.wait_seconds
        return {
            "perf/images_per_second": steps * self._config.train.global_batch_size / seconds,
            "perf/step_seconds": seconds / steps,
            "perf/data_wait_fraction": min(1.0, waited / seconds),
            "perf/train_seconds": self.train_seconds,
        }


def _global_parts(outputs: Sequence[LossOutput]) -> dict[str, float]:
    """The parts of a loss, summed over micro-batches and ranks."""
    names = sorted(outputs[0].parts)
    if not names:
        return {}
    shares: list[Tensor] = [torch.stack([output.parts[name].double() for name in names]) for output in outputs]
    return dict(zip(names, all_reduce_sum(torch.stack(shares).sum(0)).tolist(), strict=True))
