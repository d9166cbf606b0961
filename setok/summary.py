"""What a training run amounts to, before anything is started: parameters, batches, memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from setok.config import TrainConfig
from setok.stages import build_stage

FP32 = 4
ADAM_STATES = 2


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a module."""

    name: str
    parameters: int
    trainable: int


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that one worker holds besides activations, which depend on the model's layers and are not estimated."""

    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer


def describe(config: TrainConfig) -> list[Part]:
    """Parameters of every part of the run's modules; built without memory for weights."""
    with torch.device("meta"):
        modules = build_stage(config).modules
    parts: dict[str, list[int]] = {}
    for module_name, module in modules.items():
        for name, parameter in module.named_parameters():
            # tokenizer.encoder.… → encoder, contrast.… → contrast, setokim.tokenizer.encoder.… → encoder
            words = [word for word in name.split(".") if word not in ("tokenizer", "setokim")]
            part = words[0] if module_name == "model" else module_name
            counts = parts.setdefault(part, [0, 0])
            counts[0] += parameter.numel()
            counts[1] += parameter.numel() if parameter.requires_grad else 0
    return [Part(name=name, parameters=counts[0], trainable=counts[1]) for name, counts in parts.items()]


def estimate_memory(config: TrainConfig, parts: list[Part]) -> Memory:
    """Memory of one worker by ZeRO stage (Rajbhandari et al. 2020): 1 splits the optimizer, 2 gradients too, 3 weights too.

    ZeRO also keeps an fp32 copy of the worker's share of the weights, which counts as the optimizer's.
    """
    sharded = config.scaling.max_workers > 0 and config.scaling.engine == "deepspeed"
    stage = config.deepspeed.zero_stage if sharded else 0
    workers = config.num_ranks
    total = sum(part.parameters for part in parts)
    trainable = sum(part.trainable for part in parts)
    copies = ADAM_STATES + (1 if stage else 0)
    average = FP32 * trainable if config.train.ema_decay else 0  # on the first worker, which needs the most
    return Memory(
        weights=FP32 * total // (workers if stage == 3 else 1) + average,
        gradients=FP32 * trainable // (workers if stage >= 2 else 1),
        optimizer=copies * FP32 * trainable // (workers if stage else 1),
    )
