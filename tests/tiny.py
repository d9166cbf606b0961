"""A tiny tokenizer, and pictures of squares for it."""

from __future__ import annotations

import torch

from setok.batch import ImageTextBatch
from setok.config import TrainConfig, build


def pictures(batch: int = 3, size: int = 32, seed: int = 0) -> torch.Tensor:
    """Flat squares of colour on a flat ground."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(batch, 3, size, size, dtype=torch.uint8)
    for image in images:
        image[:] = torch.randint(0, 256, (3, 1, 1), generator=generator)
        for _ in range(3):
            y, x = torch.randint(0, size - 12, (2,), generator=generator).tolist()
            image[:, y : y + 12, x : x + 12] = torch.randint(0, 256, (3, 1, 1), generator=generator)
    return images


def batch_of(images: torch.Tensor, concepts: tuple[tuple[str, ...], ...] | None = None) -> ImageTextBatch:
    n = len(images)
    return ImageTextBatch(
        pixel_values=images,
        valid=torch.ones(n, dtype=torch.bool),
        concepts=concepts or tuple((f"thing {i}", "a wall") for i in range(n)),
        ids=tuple(str(i) for i in range(n)),
    )


def tiny(**changes: object) -> TrainConfig:
    return build(
        TrainConfig,
        {
            "name": "tiny",
            "model": {
                "image_size": 32,
                "encoder": {"width": 48},
                "clustering": {"feature_dim": 16, "sharpness": 4.0},
                "detokenizer": {"width": 48},
            },
            "data": {"train": [{"path": "unused"}]},
            "train": {"global_batch_size": 4, "micro_batch_size": 4},
            "scaling": {"num_workers": 0},
        }
        | changes,
    )
