"""Vision encoders: pixels to a grid of patch features."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Protocol

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from setok.config import EncoderConfig
from setok.errors import CheckpointError
from setok.models.layers import Block, sincos_positions


class VisionEncoder(Protocol):
    """What the tokenizer needs of an encoder."""

    width: int

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of a picture of this size, in pixels."""

    def __call__(self, pixel_values: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch patches dim"]:
        """Patch features, row by row."""


class ScratchEncoder(nn.Module):
    """A small vision transformer on a convolutional stem, to be trained from scratch (Xiao et al. 2021)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.width = config.width
        self.patch_size = config.patch_size
        self.layer = config.layer
        self.stem = _stem(config.patch_size, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.num_heads, 3.0) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches."""
        return height // self.patch_size, width // self.patch_size

    def forward(self, pixel_values: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch patches dim"]:
        x = rearrange(self.stem(pixel_values.float() / 255 - 0.5), "b d h w -> b (h w) d").float()
        depth = len(self.blocks)
        last = depth if self.layer == -1 else self.layer
        if last > 0:
            x = x + sincos_positions(self.grid(*pixel_values.shape[-2:]), self.width).to(x)
        for block in self.blocks[:last]:
            x = block(x)
        return self.norm(x)


def _stem(patch_size: int, width: int) -> nn.Sequential:
    """Strided 3×3 convolutions down to one pixel per patch; what is no power of two is one strided convolution."""
    steps = int(math.log2(patch_size & -patch_size))
    rest = patch_size >> steps
    layers: list[nn.Module] = []
    channels = 3
    for step in range(steps):
        out = max(8, width // 2 ** (steps - 1 - step))
        layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.GELU()]
        channels = out
    layers.append(nn.Conv2d(channels, width, rest, stride=rest))
    return nn.Sequential(*layers)


class HuggingFaceEncoder(nn.Module):
    """Any vision tower that transformers loads: SigLIP, CLIP, DINOv2, ...

    Tokens in front of the patches (class token, registers) are told from the patches by their number and dropped.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel  # slow to import, and not needed for encoders from scratch

        assert config.path is not None  # by config validation
        try:
            full = AutoConfig.from_pretrained(config.path)
            self.tower = AutoModel.from_pretrained(config.path, config=getattr(full, "vision_config", full))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"encoder.path={config.path!r} holds no vision tower that transformers can load: {error}",
                "point it to a folder with config.json and model.safetensors, for example of google/siglip-so400m-patch14-384",
            ) from error
        vision = self.tower.config
        if not hasattr(vision, "patch_size"):
            raise CheckpointError(
                f"encoder.path={config.path!r} is a {vision.model_type!r} model, which has no patches",
                "use a vision transformer",
            )
        self.width: int = vision.hidden_size
        self.patch_size: int = vision.patch_size
        self.native_size: int = vision.image_size
        self.layer = config.layer
        self._interpolates = "interpolate_pos_encoding" in inspect.signature(self.tower.forward).parameters
        mean, std = _normalisation(config.path)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches."""
        return height // self.patch_size, width // self.patch_size

    def forward(self, pixel_values: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch patches dim"]:
        height, width = pixel_values.shape[-2:]
        pixels = (pixel_values.float() / 255 - self.mean) / self.std
        resized = {"interpolate_pos_encoding": True} if self._interpolates and height != self.native_size else {}
        output = self.tower(pixel_values=pixels, output_hidden_states=self.layer != -1, **resized)
        hidden = output.last_hidden_state if self.layer == -1 else output.hidden_states[self.layer]
        rows, columns = self.grid(height, width)
        return hidden[:, hidden.shape[1] - rows * columns :]


def _normalisation(path: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation that the tower was trained with; SigLIP's 0.5 where the folder does not say."""
    file = Path(path) / "preprocessor_config.json"
    settings = json.loads(file.read_text()) if file.is_file() else {}
    return settings.get("image_mean", [0.5] * 3), settings.get("image_std", [0.5] * 3)


def build_encoder(config: EncoderConfig) -> ScratchEncoder | HuggingFaceEncoder:
    """The encoder that ``config`` describes."""
    return ScratchEncoder(config) if config.kind == "vit" else HuggingFaceEncoder(config)
