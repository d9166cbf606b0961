"""Plain torch behind the engines' interface."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ray_jobs.training.engine import (
    BUCKET_ELEMENTS,
    Engine,
    clip_gradients,
    load_plain_state,
    plain_state,
    this_rank,
)
from setok.batch import Batch, LossOutput, StepContext
from setok.checkpoint import copy_weights
from setok.collectives import all_reduce_sum, world_size


class TorchEngine(Engine):
    """Plain torch. With several ranks, gradients are summed in a few large messages before the update.

    Summing at the update, and not during the last backward as DistributedDataParallel does, stays correct for parameters
    that only some of the micro-batches use.
    """

    def __init__(self, name: str, module: nn.Module, optimizer: torch.optim.Optimizer, *, max_grad_norm: float) -> None:
        super().__init__(name, module, optimizer)
        self._max_grad_norm = max_grad_norm
        for tensor in module.state_dict().values():
            if world_size() > 1:
                dist.broadcast(tensor, src=0)

    def _forward(self, batch: Batch, context: StepContext) -> LossOutput:
        output: LossOutput = self.module(batch, context)
        return output

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def _update(self) -> float:
        self._sum_gradients()
        norm = clip_gradients(self.trainable.values(), self._max_grad_norm)
        if math.isfinite(norm):
            self._optimizer.step()
        self._drop()
        return norm

    def _drop(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def _sum_gradients(self) -> None:
        if world_size() == 1:
            return
        parameters = list(self.trainable.values())
        used = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        gradients = []
        for parameter, anywhere in zip(parameters, all_reduce_sum(used).tolist(), strict=True):
            if anywhere:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            for gradient, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def named_state(self, rank: int, world: int) -> dict[str, Tensor]:
        return plain_state(self, self._optimizer, rank, world)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        load_plain_state(self, self._optimizer, state)

    def full_weights(self) -> dict[str, Tensor]:
        return copy_weights(self.module) if this_rank() == 0 else {}


def _buckets(gradients: list[Tensor]) -> list[list[Tensor]]:
    buckets: list[list[Tensor]] = []
    size = BUCKET_ELEMENTS
    for gradient in gradients:
        if size + gradient.numel() > BUCKET_ELEMENTS or gradient.dtype != buckets[-1][0].dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(gradient)
        size += gradient.numel()
    return buckets
