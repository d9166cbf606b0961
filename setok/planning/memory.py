"""Memory of a worker, of a node, and of a disk, by what is traced and how DeepSpeed splits it.

ZeRO (Rajbhandari et al. 2020) splits the optimizer's state over the workers in stage 1, gradients too in 2, weights too in 3,
and keeps an fp32 copy of its share of the weights that learn, which counts as the optimizer's here.
"""

from __future__ import annotations

from dataclasses import dataclass

from setok.config import TrainConfig
from setok.planning.trace import Trace, Turn

FP32 = 4
BUCKET_BYTES = FP32 * 25_000_000
"""Largest message in which gradients travel (``BUCKET_ELEMENTS`` of the engines)."""
PREFETCH_BYTES = FP32 * 50_000_000
"""Weights that ZeRO-3 gathers ahead (DeepSpeed's default)."""
LIVE_PARAMETERS = 1_000_000_000
"""Most weights that ZeRO-3 leaves gathered (DeepSpeed's default)."""


@dataclass(frozen=True, kw_only=True)
class WorkerMemory:
    """Bytes of one worker, on its GPU or, where it computes on CPUs, in its host's memory."""

    weights: int
    gradients: int
    optimizer: int
    batches: int
    """Micro-batches of a step, what is prepared from them, and what stays of them until its end."""
    activations: int
    """What comes on top of all others at the worst moment: of the forward and backward pass, or of the update."""
    buffers: int
    """Messages of gradients; weights that ZeRO-3 gathers."""
    offloaded: int
    """In host memory in place of the GPU; not part of the total."""
    worst: str
    """When most is needed: ``preparing``, ``forward and backward`` or ``update``."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.batches + self.activations + self.buffers


def zero_stage_of(config: TrainConfig, turn: str = "model") -> int:
    """How far a module is split; the discriminator's weights stay whole."""
    splits = config.scaling.max_workers > 0 and config.scaling.engine == "deepspeed"
    stage = config.deepspeed.zero_stage if splits else 0
    return stage if turn == "model" else min(2, stage)


def worker_memory(config: TrainConfig, trace: Trace) -> WorkerMemory:
    """What the worker that needs most holds; ``config`` with its number of workers (``with_workers``)."""
    model, steps = trace.turns[0], config.gradient_accumulation_steps
    weights = sum(_share(turn.weights, config, turn, 3) for turn in trace.turns)
    if config.train.ema_decay:
        weights += FP32 * model.trainable  # on the first worker
    gradients = [_share(turn.gradients, config, turn, 2) for turn in trace.turns]
    optimizers = sum(_optimizer(config, turn) for turn in trace.turns)
    offloads = config.deepspeed.offload_optimizer and zero_stage_of(config) > 0
    # ZeRO keeps its share of a gradient until the update; without it, and with one micro-batch, it grows as others shrink.
    passes = []
    for turn, gradient in zip(trace.turns, gradients, strict=True):
        whole = zero_stage_of(config, turn.name) < 2
        passes.append(turn.with_gradients if whole and steps == 1 else turn.activations + gradient)
    batches = steps * trace.batch + (steps - 1) * sum(turn.kept for turn in trace.turns)
    buffers = _buffers(config, trace)
    updates = [
        gradient + _share(turn.update, config, turn, 1) for turn, gradient in zip(trace.turns, gradients, strict=True)
    ]
    moments = {
        "preparing": trace.prepare,
        "forward and backward": max(passes) + buffers,
        "update": max(updates) + model.kept,
    }
    worst = max(moments, key=lambda name: moments[name])
    gathered = buffers if worst == "forward and backward" else 0
    on_top = moments[worst] - gathered
    held = min(gradients[0], on_top) if worst != "preparing" else 0
    return WorkerMemory(
        weights=weights,
        gradients=held,
        optimizer=0 if offloads else optimizers,
        batches=batches,
        activations=on_top - held,
        buffers=gathered,
        offloaded=optimizers + gradients[0] if offloads else 0,
        worst=worst,
    )


def _share(size: int, config: TrainConfig, turn: Turn, from_stage: int) -> int:
    """A worker's part of something that is split from a stage of ZeRO on."""
    return -(-size // config.num_ranks) if zero_stage_of(config, turn.name) >= from_stage else size


def _optimizer(config: TrainConfig, turn: Turn) -> int:
    copy = FP32 * turn.trainable if zero_stage_of(config, turn.name) else 0
    return _share(turn.optimizer + copy, config, turn, 1)


def _buffers(config: TrainConfig, trace: Trace) -> int:
    """Of collectives."""
    if config.num_ranks == 1:
        return 0
    model, stage = trace.turns[0], zero_stage_of(config)
    messages = min(BUCKET_BYTES, model.gradients)
    if stage < 3:
        return messages
    live = min(LIVE_PARAMETERS, model.parameters) / max(1, model.parameters)
    return messages + min(model.weights, int(model.weights * live) + PREFETCH_BYTES)


def checkpoint_bytes(config: TrainConfig, trace: Trace) -> int:
    """Of one checkpoint in the store: weights, their average, and the optimizer's state."""
    average = FP32 * trace.turns[0].trainable if config.train.ema_decay else 0
    return sum(turn.weights + turn.optimizer for turn in trace.turns) + average


def snapshot_bytes(config: TrainConfig, trace: Trace, workers_here: int) -> int:
    """Host memory that a checkpoint's copy takes on the first worker's node, until it is written."""
    average = FP32 * trace.turns[0].trainable if config.train.ema_decay else 0
    weights = sum(turn.weights for turn in trace.turns) + average
    optimizer = sum(turn.optimizer for turn in trace.turns)
    return weights + optimizer * workers_here // config.num_ranks


def block_bytes(config: TrainConfig, trace: Trace) -> int:
    """Of one block of data on its way to a worker: pixels in uint8, and places of rows."""
    image = 3 * config.model.image_size**2
    places = 7 * 8 * trace.tokens  # seven columns of int64
    return config.data.steps_per_block * config.gradient_accumulation_steps * (trace.images * image + places)
