"""Makes ``first_losses.json``: the first losses of a tiny tokenizer on generated scenes, for every clustering.

    .venv/bin/python tests/golden/first_losses.py

A change here means that training changed: read the diff, and say in the commit why.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from setok.batch import ImageTextBatch
from setok.config import TrainConfig, load_config
from setok.data.scenes import generate_scene
from setok.data.scenes.language import concepts
from setok.optim import learning_rate_factor
from setok.stages import build_stage

FILE = Path(__file__).with_suffix(".json")
STEPS = 3
CASES = {
    "stick_breaking_soft": ["model.clustering.assignment=soft"],
    "stick_breaking_hard": ["model.clustering.assignment=hard"],
    "dpc_knn": ["model.clustering.method=dpc_knn"],
    "adversarial": ["loss.adversarial=0.5", "loss.adversarial_start_step=2", "discriminator.width=8"],
    "adamw": ["optim.kind=adamw"],
}
SMALL = ["scaling.num_workers=0", "train.precision=fp32", "train.steps=20", "train.global_batch_size=8"]


def scenes(start: int, count: int) -> ImageTextBatch:
    """A batch of generated scenes."""
    drawn = [generate_scene(index, seed=0, family="plain") for index in range(start, start + count)]
    return ImageTextBatch(
        pixel_values=torch.stack([torch.from_numpy(scene.image.copy()).permute(2, 0, 1) for scene in drawn]),
        valid=torch.ones(count, dtype=torch.bool),
        concepts=tuple(concepts(scene) for scene in drawn),
        ids=tuple(str(scene.index) for scene in drawn),
    )


def first_losses(overrides: list[str]) -> list[float]:
    """Losses of the model's turns, before each update."""
    torch.manual_seed(0)
    config = load_config(TrainConfig, "tokenizer_demo", [*SMALL, *overrides])
    stage = build_stage(config)
    optimizers = {name: stage.optimizer(name) for name in stage.modules}
    losses = []
    for step in range(STEPS):
        batch = scenes(8 * step, 8)
        (context,) = stage.prepare([batch], step=step)
        for name, optimizer in optimizers.items():
            if not stage.is_active(name, step):
                continue
            output = stage.modules[name](batch, context)
            optimizer.zero_grad()
            output.loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * learning_rate_factor(step, config)
            optimizer.step()
            if name == "model":
                losses.append(round(output.loss.item(), 5))
    return losses


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: first_losses(overrides) for name, overrides in CASES.items()}, indent=2) + "\n")
