"""Which engine a run trains with."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import nn

from ray_jobs.training.engine import Engine
from ray_jobs.training.engine_torch import TorchEngine
from setok.config import TrainConfig


def build_engine(
    name: str, module: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, device: torch.device
) -> Engine:
    """The engine that ``config.scaling`` asks for; plain torch where there is no process group.

    The module must hold its weights already, and be on ``device`` together with what the optimizer refers to.
    """
    if dist.is_available() and dist.is_initialized() and config.scaling.engine == "deepspeed":
        if device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        from ray_jobs.training.engine_deepspeed import DeepSpeedEngine  # brings in DeepSpeed

        # The other modules are small, and the model's turn goes through them (adversarial loss, twice where it is adaptive),
        # outside of their own engine: their weights stay whole.
        stage = config.deepspeed.zero_stage if name == "model" else min(2, config.deepspeed.zero_stage)
        return DeepSpeedEngine(name, module, optimizer, config=config, zero_stage=stage)
    return TorchEngine(name, module, optimizer, max_grad_norm=config.optim.max_grad_norm)
