"""Optimizers and the learning-rate schedule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from setok.config import OptimConfig, TrainConfig


class _Eager(torch.optim.Optimizer):
    """What torch's optimizers do without asking ``torch.compile`` to look away.

    They do so before every step, and for that it has to be imported: 1.7 s of every start of a worker, which compiles nothing.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


class AdamW(_Eager, torch.optim.AdamW):
    """torch's, eager."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class Muon(_Eager, torch.optim.Muon):
    """torch's, eager."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Muon.step))


class MuonWithAdamW(_Eager):
    """Muon (Jordan et al. 2024) for groups with ``kind: muon``, AdamW for the others, as one optimizer.

    Muon moves a whole matrix along the orthogonalised momentum of its gradient: about 1 dB of PSNR at equal time on the
    demo's tokenizer. It needs unsplit matrices.
    """

    def __init__(self, groups: list[dict[str, Any]], config: OptimConfig) -> None:
        super().__init__(groups, {"lr": config.learning_rate})
        adam = [group for group in self.param_groups if group["kind"] == "adamw"]
        muon = [group for group in self.param_groups if group["kind"] == "muon"]
        self._parts: list[torch.optim.Optimizer] = []
        if adam:
            self._parts.append(AdamW(adam, lr=config.learning_rate, betas=config.betas, foreach=True))
        if muon:
            self._parts.append(Muon(muon, lr=config.muon_learning_rate, momentum=0.9, ns_steps=4))
        self.param_groups = [group for part in self._parts for group in part.param_groups]
        for part in self._parts:
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for part in self._parts:
            part.step()


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    config: OptimConfig,
    *,
    learning_rate: float | None = None,
    matrices: frozenset[str] = frozenset(),
) -> torch.optim.Optimizer:
    """An optimizer over the trainable parameters.

    Args:
        named_parameters: frozen ones are left out.
        learning_rate: replaces ``config.learning_rate``.
        matrices: names of the parameters that Muon may take (those inside transformer blocks).

    Vectors (norms, biases, queries) get no weight decay. Each group keeps its base rate as ``initial_lr``; parts named in
    ``config.learning_rate_scale`` have it scaled.
    """
    base = learning_rate or config.learning_rate
    groups: dict[tuple[str, float, float], dict[str, Any]] = {}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        scale = next((s for part, s in config.learning_rate_scale.items() if part in name.split(".")), 1.0)
        kind = "muon" if config.kind == "muon" and name in matrices else "adamw"
        rate = scale * (config.muon_learning_rate if kind == "muon" else base)
        decay = config.weight_decay if parameter.ndim > 1 and kind == "adamw" else 0.0
        group = groups.setdefault(
            (kind, rate, decay), {"params": [], "kind": kind, "lr": rate, "initial_lr": rate, "weight_decay": decay}
        )
        group["params"].append(parameter)
    if config.kind == "muon":
        return MuonWithAdamW(list(groups.values()), config)
    return AdamW(list(groups.values()), lr=base, betas=config.betas)


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Factor on every group's base rate at ``step``: linear warm-up, then cosine or constant."""
    warmup, total, low = config.warmup_steps, config.train.steps, config.optim.min_learning_rate_ratio
    if step < warmup:
        return (step + 1) / warmup
    if config.optim.schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, total - warmup)
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
