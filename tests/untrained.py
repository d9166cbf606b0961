"""Tokenizers that nobody has trained, and batches of scenes for them."""

from __future__ import annotations

import numpy as np
import torch

from setok.batch import ImageTextBatch
from setok.config import TokenizerConfig, TrainConfig, build
from setok.models.concepts import build_concept_encoder
from setok.predictor import TokenizerPredictor
from setok.stages import TokenizerTask


def predictor_of(model: TokenizerConfig, precision: str = "fp32") -> TokenizerPredictor:
    """With the weights that the seed gives."""
    tree = {
        "name": "x",
        "model": model.model_dump(),
        "data": {"train": [{"path": "d"}]},
        "train": {"precision": precision},
    }
    config = build(TrainConfig, tree)
    torch.manual_seed(0)
    encoder = build_concept_encoder(config.concepts)
    task = TokenizerTask(config, encoder.dim)
    return TokenizerPredictor.of_task(config, task, encoder, torch.device("cpu"))


def scenes_batch(count: int, *, size: int, padded: bool = False) -> ImageTextBatch:
    """Pictures of a few rectangles, with their segments; one cannot be read, and with ``padded`` shapes differ."""
    rng = np.random.default_rng(0)
    pixels = np.zeros((count, 3, size, size), np.uint8)
    segments = np.zeros((count, size, size), np.int64)
    for image in range(count):
        pixels[image] = rng.integers(0, 256, 3)[:, None, None]
        for number in range(1, 2 + image % 3 + 1):
            top, left = rng.integers(0, size // 2, 2)
            place = (slice(top, top + size // 3), slice(left, left + size // 3))
            pixels[(image, slice(None), *place)] = rng.integers(0, 256, 3)[:, None, None]
            segments[(image, *place)] = number
    sizes = torch.tensor([[size, size - 8 * (image % 3)] for image in range(count)])
    if padded:
        for image, (_, width) in enumerate(sizes.tolist()):
            pixels[image, :, :, width:] = 0
            segments[image, :, width:] = -1
    return ImageTextBatch(
        pixel_values=torch.from_numpy(pixels),
        valid=torch.tensor([image != 1 for image in range(count)]),
        concepts=((),) * count,
        ids=tuple(map(str, range(count))),
        segments=torch.from_numpy(segments),
        is_thing=tuple((False, *([True] * 4)) for _ in range(count)),
        sizes=sizes if padded else None,
    )
