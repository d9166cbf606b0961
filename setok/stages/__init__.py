"""A stage knows the science of one training run: which modules learn, what a batch must know of the others, and the loss.

The loop (ray_jobs/training/loop.py) knows the machine: it calls ``prepare`` on all micro-batches of a step, then gives
each active module its turn over them.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from setok.checkpoint import load_model
from setok.config import TrainConfig
from setok.stages.base import Stage, block_matrices
from setok.stages.setokim import SequenceContext, SetokimStage, SetokimTask, load_initial_setokim
from setok.stages.tokenizer import DiscriminatorTask, TokenizerStage, TokenizerTask

__all__ = [
    "DiscriminatorTask",
    "SequenceContext",
    "SetokimStage",
    "SetokimTask",
    "Stage",
    "TokenizerStage",
    "TokenizerTask",
    "block_matrices",
    "build_stage",
    "load_initial_weights",
]

TEACHER = "teacher."
"""Names of the weights of the frozen copy that distillation keeps to."""


def build_stage(config: TrainConfig) -> Stage:
    """The stage that ``config`` describes, with freshly initialised (or pretrained) modules."""
    return TokenizerStage(config) if config.stage == "tokenizer" else SetokimStage(config)


def load_initial_weights(source: Path, module: nn.Module, name: str) -> None:
    """A new run's weights from another run's checkpoint; the copy that distillation keeps to is one of these weights.

    Raises:
        CheckpointError: the checkpoint is of another model.
    """
    if isinstance(module, SetokimTask):
        load_initial_setokim(source, module)
        return
    # From the running average, where there is one: it is the better model.
    load_model(source, module, name, skip=TEACHER, average=True)
    if isinstance(module, TokenizerTask) and module.loss.distillation:
        module.teacher.follow(module.tokenizer.encoder)
