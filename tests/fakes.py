"""A stage small enough for tests of what surrounds it: two layers that learn the mean colour of a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ray_jobs.training.machine import WorkerContext
from setok.batch import ImageTextBatch, LossOutput, StepContext
from setok.collectives import all_reduce_sum
from setok.config import TrainConfig, build
from setok.data.plan import positions_of, rank_slots
from setok.optim import build_optimizer

SIZE = 8


def train_config(**changes: Any) -> TrainConfig:
    """A config for the fake stage; ``changes`` are dotted keys with ``__`` for the dot."""
    tree: dict[str, Any] = {
        "job": "train",
        "name": "fake",
        "model": {"image_size": SIZE},
        "data": {"train": [{"path": "nowhere"}]},
        "optim": {"learning_rate": 0.01, "weight_decay": 0.1, "warmup_fraction": 0.0},
        "train": {"steps": 8, "global_batch_size": 8, "micro_batch_size": 2, "log_every": 1, "image_every": 4},
        "scaling": {"num_workers": 0},
        "checkpoint": {"every": 2},
        "logging": {"tensorboard": False},
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return build(TrainConfig, tree)


class TwoLayers(nn.Module):
    """Pixels → hidden → pixels, with a frozen scale, a buffer, and a bias that half of the steps do not use."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.encoder = nn.Linear(3 * SIZE * SIZE, width)
        self.decoder = nn.Linear(width, 3 * SIZE * SIZE)
        self.scale = nn.Parameter(torch.tensor([0.5]), requires_grad=False)
        self.register_buffer("shift", torch.full((1,), 0.25))

    def forward(self, batch: ImageTextBatch, context: StepContext) -> LossOutput:
        pixels = batch.pixel_values.float() / 255
        hidden = torch.tanh(self.encoder(pixels.flatten(1)))
        painted = (self.decoder(hidden) * self.scale + self.shift).view_as(pixels)
        error = (painted - pixels).pow(2).mean((1, 2, 3))
        loss = (error * batch.valid).sum() / max(context.num_images, 1.0)
        detached = painted.detach().clamp(0, 1)
        context.reconstruction = detached
        assignment = pixels.mean(1).flatten(1).mul(3).long()
        parts = {"l2": loss.detach(), "psnr": loss.detach() * -10}
        return LossOutput(loss=loss, parts=parts, reconstruction=detached, assignment=assignment, grid=(SIZE, SIZE))


class FakeStage:
    """Follows ``setok.stages.Stage``."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.modules: Mapping[str, nn.Module] = {"model": TwoLayers()}
        if config.loss.adversarial:
            self.modules = {**self.modules, "discriminator": TwoLayers(3)}

    prepares_with = None

    def prepare(self, micro_batches: Sequence[ImageTextBatch], *, step: int) -> list[StepContext]:
        count = sum(float(batch.valid.sum()) for batch in micro_batches)
        total = float(all_reduce_sum(torch.tensor(count, dtype=torch.float64)))
        return [StepContext(step=step, num_images=total, num_concepts=0.0) for _ in micro_batches]

    def is_active(self, name: str, step: int) -> bool:
        return name == "model" or step >= self.config.loss.adversarial_start_step

    def optimizer(self, name: str) -> torch.optim.Optimizer:
        return build_optimizer(self.modules[name].named_parameters(), self.config.optim)


def build_stage(config: TrainConfig) -> FakeStage:
    return FakeStage(config)


def picture(index: int) -> Tensor:
    """Sample number ``index``: uint8 ``[3, SIZE, SIZE]``, the same wherever it is made."""
    generator = torch.Generator().manual_seed(1000 + max(0, index))
    return torch.randint(0, 256, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8)


def batch_of(indices: Sequence[int]) -> ImageTextBatch:
    """Samples of these numbers; those below 0 are padding."""
    return ImageTextBatch(
        pixel_values=torch.stack([picture(i) * (i >= 0) for i in indices]),
        valid=torch.tensor([i >= 0 and i % 7 != 3 for i in indices]),
        concepts=tuple(() for _ in indices),
        ids=tuple(str(i) for i in indices),
    )


class FakeBatches:
    """What ``ray_jobs.training.batches.local_batches`` and ``worker_batches`` give: the plan is 0, 1, 2, …"""

    def __init__(self, config: TrainConfig, *, rank: int, start_step: int) -> None:
        self.config, self.rank, self.step = config, rank, start_step
        self.wait_seconds = 0.0
        self.num_bad = 0

    def close(self) -> None: ...

    def __iter__(self) -> Iterator[list[ImageTextBatch]]:
        train, accumulation = self.config.train, self.config.gradient_accumulation_steps
        slots = rank_slots(
            self.rank,
            num_workers=self.config.num_ranks,
            global_batch_size=train.global_batch_size,
            micro_batch_size=train.micro_batch_size,
        )
        for step in range(self.step, train.steps):
            positions = positions_of(np.array([step]), slots, global_batch_size=train.global_batch_size)
            yield [batch_of(part) for part in positions.reshape(accumulation, -1).tolist()]


def worker_of(config: TrainConfig, *, rank: int = 0, world_size: int = 1, **changes: Any) -> WorkerContext:
    """One rank of a run on the fake stage; ``changes`` are other fields of its context."""
    given: dict[str, Any] = {
        "rank": rank,
        "world_size": world_size,
        "local_world_size": 1,
        "device": torch.device("cpu"),
        "batches": lambda start: FakeBatches(config, rank=rank, start_step=start),
        "report": lambda metrics: None,
    }
    return WorkerContext(**given | changes)


def train_steps(stage: FakeStage, engines: Mapping[str, Any], first: int, last: int, *, rank: int) -> list[float]:
    """The model's turn of steps ``first`` to ``last`` (exclusive); the global losses."""
    losses = []
    engine = engines["model"]
    for step, batches in enumerate(FakeBatches(stage.config, rank=rank, start_step=first), start=first):
        if step == last:
            break
        for batch, context in zip(batches, stage.prepare(batches, step=step), strict=True):
            engine.backward(engine(batch, context).loss)
        engine.step(1.0, step=step)
        losses.append(engine.loss)
    return losses
