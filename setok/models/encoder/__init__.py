"""Vision encoders: pixels to a grid of patch features."""

from __future__ import annotations

import torch

from setok.config import EncoderConfig
from setok.models.encoder.base import VisionEncoder
from setok.models.encoder.huggingface import HuggingFaceEncoder
from setok.models.encoder.scratch import ScratchEncoder
from setok.models.encoder.timm import TimmEncoder

__all__ = ["HuggingFaceEncoder", "ScratchEncoder", "TimmEncoder", "VisionEncoder", "build_encoder"]


def build_encoder(
    config: EncoderConfig, *, pretrained: bool = True
) -> ScratchEncoder | HuggingFaceEncoder | TimmEncoder:
    """The encoder that ``config`` describes.

    Args:
        pretrained: read the tower's weights; without, ``config.path`` needs to hold its architecture only. On the meta
            device, where a model is only counted, they are not read.

    Raises:
        CheckpointError: there is no such tower.
        ConfigError: it has no such layer, or timm is needed and missing.
    """
    pretrained = pretrained and torch.get_default_device().type != "meta"
    if config.kind == "vit":
        return ScratchEncoder(config)
    if config.kind == "huggingface":
        return HuggingFaceEncoder(config, pretrained=pretrained)
    return TimmEncoder(config, pretrained=pretrained)
