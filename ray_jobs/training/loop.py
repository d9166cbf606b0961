"""The training loop: what every worker does, on a cluster and in a single process alike.

The loop knows the machine (ranks, devices, checkpoints, logs); the stage knows the science.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import torch

from ray_jobs.training import memory
from ray_jobs.training.engine import Engine
from ray_jobs.training.engines import build_engine
from ray_jobs.training.features import check_encoder, load_weights
from ray_jobs.training.machine import WorkerContext, limit_collectives
from ray_jobs.training.pulse import Pulse
from ray_jobs.training.requests import Request, Requests
from ray_jobs.training.run_log import RunLog
from ray_jobs.training.sample_log import SampleLog
from ray_jobs.training.saving import Saver, is_due
from ray_jobs.training.skipping import Skips
from ray_jobs.training.start_times import StartTimes
from setok import checkpoint
from setok.batch import Batch, LossOutput, StepContext
from setok.checkpoint import OptimizerState, TrainerState
from setok.collectives import all_reduce_sum
from setok.config import TrainConfig
from setok.data.plan import rank_slots
from setok.ema import WeightAverage
from setok.errors import DataError
from setok.optim import learning_rate_factor
from setok.stages import Stage, build_stage


def train_loop(config: TrainConfig, worker: WorkerContext) -> None:
    """Train from the run's newest good checkpoint, if there is one, to the end or until a stop is asked for.

    Raises:
        NotFiniteError: a loss or gradient is not finite, and the config does not allow to leave the update out.
        TrainingError: memory is exhausted.
        DataError: the data ends early or too much of it is bad.
        CheckpointError: the checkpoint is of another model, or cannot be written.
    """
    times = StartTimes(config, worker)
    set_up_process(config, worker)
    with open_pulse(config, worker) as pulse, memory.explained(config, pulse, rank=worker.rank):
        train_steps(config, worker, pulse, times)


def open_pulse(config: TrainConfig, worker: WorkerContext) -> Pulse:
    """This rank's sign of life; stacks are left by those that could hang, well before the others give up on them."""
    stall = config.scaling.collective_timeout_s / 2 if worker.world_size > 1 else None
    return Pulse(
        config.run_dir, rank=worker.rank, world_size=worker.world_size, device=worker.device, stall_seconds=stall
    )


def train_steps(config: TrainConfig, worker: WorkerContext, pulse: Pulse, times: StartTimes) -> None:
    """Train from the newest checkpoint to the end, saying at every turn what is being done."""
    start = agree_on_start(config, worker)
    state = checkpoint.read_state(start) if start else TrainerState(step=0, samples=0, world_size=worker.world_size)
    batches = worker.batches(state.step)  # reads ahead while the model is built
    stage, engines = build(config, worker, start)
    average = build_average(config, worker, engines, start)
    fetch = iter(batches)
    skips = Skips.of(config, worker, state)
    times.mark("built")
    with (
        closing(batches),
        RunLog(config, worker, state, skips, pulse) as log,
        SampleLog(config, worker, state.step) as samples,
        Saver(config, worker) as saver,
    ):
        requests = Requests(config, worker, state.step)
        request = requests.after(state.step)
        for step in range(first := state.step, config.train.steps):
            if request is Request.STOP:
                break
            pulse.enter("waiting for data", step)
            micro_batches = [batch.to(worker.device) for batch in next(fetch, [])]
            times.mark("data")
            check_number(micro_batches, config, step)
            pulse.enter("preparing", step)
            with engines["model"].whole(stage.prepares_with):
                contexts = stage.prepare(micro_batches, step=step)
            seeds = seeds_of(config, step, worker.rank)
            factor = learning_rate_factor(step, config)
            outputs: dict[str, list[LossOutput]] = {}
            norms: dict[str, float] = {}
            with skips.guard(step, engines, micro_batches, outputs):
                for name, engine in engines.items():
                    if stage.is_active(name, step):
                        outputs[name] = take_turn(engine, micro_batches, contexts, seeds, pulse)
                        pulse.enter("update", step)
                        norms[name] = engine.step(factor, step=step)
            if average is not None and "model" in norms:
                average.update(step)
            if step == first:
                limit_collectives(config.scaling.collective_timeout_s)
            done = step + 1
            times.mark("step", done)
            pulse.enter("logging", done)
            log.step(done, engines, outputs, norms, factor, batches)
            samples.step(done, micro_batches, engines["model"].loss)
            if done == 1 or done % config.train.image_every == 0 or done == config.train.steps:
                log.picture(done, micro_batches, outputs)
            request = requests.after(done)
            if is_due(config, done) or request is not Request.GO_ON:
                pulse.enter("saving", done)
                log.phase("saving", done)
                log.flush()
                samples.flush()
                state = TrainerState(
                    step=done,
                    samples=done * config.train.global_batch_size,
                    world_size=worker.world_size,
                    counters=log.counters(batches),
                    metrics=log.metrics,
                )
                saver.save(engines, state, average)
                log.note(saver.seconds)
                if worker.validate is not None and config.validates(done):
                    pulse.enter("evaluating", done)
                    log.phase("evaluating", done)
                    saver.wait()
                    worker.validate(done)


def take_turn(
    engine: Engine,
    micro_batches: Sequence[Batch],
    contexts: Sequence[StepContext],
    seeds: Sequence[int],
    pulse: Pulse,
) -> list[LossOutput]:
    """Forward and backward over all micro-batches of a step; each with the random numbers of its seed."""
    outputs = []
    for batch, context, seed in zip(micro_batches, contexts, seeds, strict=True):
        torch.manual_seed(seed)
        pulse.enter("forward", pulse.step)
        output = engine(batch, context)
        pulse.enter("backward", pulse.step)
        engine.backward(output.loss)
        outputs.append(output)
    return outputs


# ---------------------------------------------------------------- start


def set_up_process(config: TrainConfig, worker: WorkerContext) -> None:
    """Threads, determinism and seed of this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(config.train.threads_per_worker or max(1, cores // worker.local_world_size))
    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_deterministic_debug_mode("error")  # the other way to say it imports torch.compile
    torch.manual_seed(config.seed)  # the same on all ranks: they must start from the same weights


def seeds_of(config: TrainConfig, step: int, rank: int) -> list[int]:
    """A seed for each of a rank's micro-batches in a step.

    It follows from the run's seed, the step and the micro-batch's place in the global batch, which do not depend on the
    number of workers: a step repeats itself, dropout included, after a resume with fewer or more of them.
    """
    size = config.train.micro_batch_size
    slots = rank_slots(
        rank,
        num_workers=config.num_ranks,
        global_batch_size=config.train.global_batch_size,
        micro_batch_size=size,
    )
    base = (config.seed * 1_000_003 + step) * 65_537
    return [base + max(0, int(slot)) // size for slot in slots[::size]]  # padding has slot -1, and draws for nothing


def agree_on_start(config: TrainConfig, worker: WorkerContext) -> Path | None:
    """The checkpoint to go on from, found by rank 0 for all."""
    home = checkpoint.home_of(config)
    found = checkpoint.newest_good(home) if worker.is_main else None
    step = int(all_reduce_sum(torch.tensor(checkpoint.step_of(found) if found else 0, device=worker.device)))
    if not step:
        return None
    return found or checkpoint.locate(home, step)


def build(config: TrainConfig, worker: WorkerContext, start: Path | None) -> tuple[Stage, dict[str, Engine]]:
    """The stage and an engine for each of its modules, with weights and optimizer state of ``start``."""
    stage = build_stage(config)
    load_weights(stage, config, start)
    check_encoder(config, stage)
    engines = {}
    for module in stage.modules.values():
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
