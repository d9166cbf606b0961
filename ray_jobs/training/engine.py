"""One interface over plain torch and DeepSpeed: forward, backward, update, and state that survives another layout.

A module's loss is a *share*: summed over all micro-batches and ranks it is the global mean. Engines therefore sum gradients
over micro-batches and ranks, whatever their library does by default.

What is checked before an update, on every rank at the same step: the loss summed over micro-batches and ranks, and the norm
of the summed gradient. A ``NotFiniteError`` about either means that no parameter and no optimizer state has changed, and
that the engine has forgotten the step's gradient: the next step may follow.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from setok.batch import Batch, LossOutput, StepContext
from setok.collectives import all_reduce_sum
from setok.errors import CheckpointError, NotFiniteError

BUCKET_ELEMENTS = 25_000_000
"""Gradients travel in messages of at most about this many numbers."""
COUNTER = "step"
"""The one optimizer state that is not a tensor of its parameter's shape."""


class Engine(ABC):
    """Trains one module with one optimizer."""

    def __init__(self, name: str, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.name = name
        self.module = module
        self.trainable = {key: p for key, p in module.named_parameters() if p.requires_grad}
        """Parameters that learn, by name, in an order that all ranks and layouts share."""
        self.loss = math.nan
        """Global mean loss of the last step."""
        self._optimizer: Any = optimizer
        self._losses: list[Tensor] = []

    def __call__(self, batch: Batch, context: StepContext) -> LossOutput:
        """Forward pass of one micro-batch."""
        output = self._forward(batch, context)
        self._losses.append(output.loss.detach())
        return output

    def step(self, learning_rate_factor: float, *, step: int) -> float:
        """Update the parameters from the micro-batches since the last step; a collective over all ranks.

        Args:
            learning_rate_factor: multiplies every group's ``initial_lr``.
            step: index of the optimizer step, for messages.

        Returns:
            The norm of the global gradient, before clipping.

        Raises:
            NotFiniteError: the loss or the gradient is not finite; nothing has changed, and the gradient is forgotten.
        """
        self.loss = all_reduce_sum(torch.stack(self._losses).double().sum()).item()
        self._losses.clear()
        if not math.isfinite(self.loss):
            self._drop()
            raise _not_finite(f"the loss of the {self.name} is {self.loss}", step)
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * learning_rate_factor
        norm = self._update()
        if norm is None or not math.isfinite(norm):
            raise _not_finite(f"the gradient norm of the {self.name} is not finite (its loss is {self.loss:.6g})", step)
        return norm

    def whole(self, part: nn.Module | None) -> AbstractContextManager[None]:
        """A context in which all weights of a part of the module are there to be used outside of the engine's forward pass.

        A collective over all ranks.
        """
        return nullcontext()

    def copy_buffers(self) -> list[Tensor]:
        """What the forward pass itself changes, such as running statistics, for ``restore_buffers``."""
        return [buffer.clone() for buffer in self.module.buffers()]

    def restore_buffers(self, buffers: Sequence[Tensor]) -> None:
        """Take back what forward passes did to the buffers since ``copy_buffers``."""
        for buffer, kept in zip(self.module.buffers(), buffers, strict=True):
            buffer.copy_(kept)

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradient."""

    @abstractmethod
    def named_state(self, rank: int, world: int) -> dict[str, Tensor]:
        """This rank's share of the optimizer state; a collective over all ranks.

        Returns:
            ``parameter/state`` → whole fp32 tensor on the CPU, for every ``world``-th parameter from number ``rank``.
        """

    @abstractmethod
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set the optimizer state from ``parameter/state`` → whole tensor, whatever layout wrote it; before any step.

        Raises:
            CheckpointError: the state is of other parameters.
        """

    @abstractmethod
    def full_weights(self) -> dict[str, Tensor]:
        """CPU copies of all parameters and buffers on rank 0, nothing on the others; a collective over all ranks."""

    @abstractmethod
    def _forward(self, batch: Batch, context: StepContext) -> LossOutput: ...

    @abstractmethod
    def _update(self) -> float | None:
        """Update, forget the gradient and return its norm; if that is not finite or ``None``, without an update."""

    @abstractmethod
    def _drop(self) -> None:
        """Forget the gradient of the micro-batches since the last step; a collective over all ranks."""

    def _by_parameter(self, state: Mapping[str, Tensor]) -> dict[str, list[str]]:
        """State names of every trainable parameter that ``state`` has something of, checked against the module."""
        found: dict[str, list[str]] = {}
        for key in state:
            parameter, _, what = key.rpartition("/")
            found.setdefault(parameter, []).append(what)
        unknown = sorted(set(found) - set(self.trainable))
        if unknown:
            raise CheckpointError(
                f"the checkpoint has optimizer state of {len(unknown)} parameter(s) that do not learn in this run's "
                f"{self.name}, such as {unknown[0]}",
                "keep the parts that learn as they were, or start a new run from its weights with checkpoint.init_from",
            )
        return found


def clip_gradients(parameters: Any, max_norm: float) -> float:
    """Scale gradients to at most ``max_norm`` and return their norm before; one that is not finite changes nothing."""
    parameters = [p for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
    value = norm.item()
    if math.isfinite(value):
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return value


def plain_state(engine: Engine, optimizer: torch.optim.Optimizer, rank: int, world: int) -> dict[str, Tensor]:
    """``Engine.named_state`` of an optimizer that holds every parameter whole."""
    return {
        f"{name}/{key}": torch.as_tensor(value).detach().to("cpu", copy=True)
        for index, (name, parameter) in enumerate(engine.trainable.items())
        if index % world == rank
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_plain_state(engine: Engine, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """``Engine.load_state`` into an optimizer that holds every parameter whole."""
    for name, keys in engine._by_parameter(state).items():
        parameter = engine.trainable[name]
        # The counter stays on the CPU, where torch keeps it.
        optimizer.state[parameter] = {
            key: value if key == COUNTER else value.to(parameter.device)
            for key in keys
            for value in [state[f"{name}/{key}"]]
        }


def this_rank() -> int:
    """Number of this process among the workers; 0 where there is only one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _not_finite(what: str, step: int) -> NotFiniteError:
    return NotFiniteError(
        f"step {step}: {what}; the weights were not changed by it",
        "lower optim.learning_rate or optim.max_grad_norm, or train in fp32; if single samples are to blame (see"
        " skipped.jsonl in the run's folder), set train.on_non_finite=skip; the run resumes from its newest checkpoint",
    )
