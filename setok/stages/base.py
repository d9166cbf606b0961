"""What the loop needs of a stage, and what stages share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from setok.batch import StepContext
from setok.config import TrainConfig
from setok.models.layers import Block, CrossBlock


class Stage(Protocol):
    """What the loop needs of a stage."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Learning modules in the order of their turns; ``modules[name](batch, context)`` gives a ``LossOutput``."""

    @property
    def prepares_with(self) -> nn.Module | None:
        """The part of a module that ``prepare`` runs: the loop sees to it that its weights are whole then (ZeRO-3)."""

    def prepare(self, micro_batches: Sequence[Any], *, step: int) -> Sequence[StepContext]:
        """What each micro-batch must know of the whole step; a collective over all ranks."""

    def is_active(self, name: str, step: int) -> bool:
        """Whether a module takes its turn at this step."""

    def optimizer(self, name: str) -> torch.optim.Optimizer:
        """A new optimizer of a module's trainable parameters."""


def block_matrices(module: nn.Module) -> frozenset[str]:
    """Names of the weight matrices inside transformer blocks: what Muon is meant for."""
    names = set()
    for prefix, child in module.named_modules():
        if isinstance(child, (Block, CrossBlock)):
            names |= {f"{prefix}.{name}" for name, p in child.named_parameters() if p.ndim == 2}
    return frozenset(names)


def freeze(module: nn.Module, config: TrainConfig) -> None:
    """Parts whose learning-rate scale is 0 are frozen and never reach the optimizer."""
    frozen = {part for part, scale in config.optim.learning_rate_scale.items() if scale == 0}
    for name, parameter in module.named_parameters():
        if frozen & set(name.split(".")):
            parameter.requires_grad_(False)
