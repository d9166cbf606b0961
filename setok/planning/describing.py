"""The parts of a run's modules and their sizes."""

from __future__ import annotations

from dataclasses import dataclass

from setok.config import TrainConfig
from setok.planning.parts import build_modules
from setok.planning.pretend import Pretend


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a module."""

    name: str
    parameters: int
    trainable: int


def describe(config: TrainConfig) -> list[Part]:
    """Parameters of every part of the run's modules; built without memory for weights.

    Raises:
        CheckpointError: a pretrained part is not here, and its architecture is not known.
    """
    parts: dict[str, list[int]] = {}
    for module_name, module in build_modules(config, Pretend()).items():
        for name, parameter in module.named_parameters():
            # tokenizer.encoder.… → encoder, contrast.… → contrast, setokim.tokenizer.encoder.… → encoder
            words = [word for word in name.split(".") if word not in ("tokenizer", "setokim")]
            part = words[0] if module_name == "model" else module_name
            counts = parts.setdefault(part, [0, 0])
            counts[0] += parameter.numel()
            counts[1] += parameter.numel() if parameter.requires_grad else 0
    return [Part(name=name, parameters=counts[0], trainable=counts[1]) for name, counts in parts.items()]
