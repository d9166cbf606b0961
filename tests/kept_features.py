"""Tiny runs on kept features of a frozen encoder, and the sets that they read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_jobs.training.tracking import read_metrics
from setok.config import TrainConfig, build
from setok.data.schema import Manifest
from setok.data.shards import write_shard
from setok.models.encoder.scratch import ScratchEncoder
from tests import squares

FROZEN = {"learning_rate_scale": {"encoder": 0.0}}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two sets; of the second one a picture cannot be read."""
    folder = tmp_path_factory.mktemp("sets")
    first = squares.write_set(folder / "one")
    made = squares.records()[:13]
    made[4] = replace(made[4], images=[replace(image, data=b"no picture") for image in made[4].images])
    (second := folder / "two").mkdir()
    shard = write_shard(second / "shard.parquet", made)
    assert shard is not None
    Manifest(shards=[shard], records_by_source={"s": 13}, quarantined_by_reason={}).save(second)
    return [str(first), str(second)]


def run_config(sets: list[str], output: Path, name: str = "run", *, kept: bool = True, **changes: Any) -> TrainConfig:
    tree: dict[str, Any] = {
        "name": name,
        "output_dir": str(output / "runs"),
        "model": {
            "image_size": 16,
            "encoder": {"width": 24},
            "clustering": {"feature_dim": 8, "sharpness": 4.0, "max_tokens": 4},
            "detokenizer": {"width": 24, "depth": 1},
        },
        "loss": {"feature_target": 1.0, "contrast": 0.3},
        "data": {"train": [{"path": path} for path in sets], "features": str(output / "features") if kept else None},
        "optim": FROZEN,
        "train": {
            "steps": 6,
            "global_batch_size": 6,
            "micro_batch_size": 3,
            "log_every": 1,
            "deterministic": True,
            "threads_per_worker": 1,
        },
        "scaling": {"num_workers": 0},
        "checkpoint": {"every": 3},
        "logging": {"tensorboard": False},
    }
    for key, value in changes.items():
        tree[key] = tree[key] | value if isinstance(tree.get(key), dict) else value
    return build(TrainConfig, tree)


def learned(run: Path) -> list[dict[str, float]]:
    """All that was logged of the training itself."""
    return [{k: v for k, v in row.items() if k.startswith("train/") or k == "step"} for row in read_metrics(run)]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of pictures that encoders are asked for."""
    asked: list[int] = []
    forward = ScratchEncoder.forward

    def counted(self: ScratchEncoder, pixel_values: torch.Tensor, patch_mask: torch.Tensor | None = None) -> Any:
        asked.append(len(pixel_values))
        return forward(self, pixel_values, patch_mask)

    monkeypatch.setattr(ScratchEncoder, "forward", counted)
    return asked
