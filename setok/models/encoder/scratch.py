"""A small vision transformer to be trained from scratch."""

from __future__ import annotations

import math
from pathlib import Path

from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from setok.config import EncoderConfig
from setok.models.encoder.base import absolute_layer, patch_grid
from setok.models.layers import Block, enable_checkpointing, sincos_positions


class ScratchEncoder(nn.Module):
    """A small vision transformer on a convolutional stem, to be trained from scratch (Xiao et al. 2021).

    With an even side and a stride of two, the stem sees zeros past the upper and left edge only: padding below and to the
    right of a picture does not reach its patches.
    """

    takes_mask = True

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.width = config.width
        self.patch_size = config.patch_size
        self.layer = absolute_layer(config, config.depth)
        self.stem = _stem(config.patch_size, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.num_heads, 3.0) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches."""
        return patch_grid(height, width, self.patch_size)

    def gradient_checkpointing_enable(self) -> None:
        """Recompute the blocks' activations in the backward pass."""
        enable_checkpointing(self)

    def save_architecture(self, folder: Path) -> None:
        """Nothing: the tokenizer's own config says it all."""

    def forward(
        self,
        pixel_values: UInt8[Tensor, "batch 3 height width"],
        patch_mask: Bool[Tensor, "batch patches"] | None = None,
    ) -> Float[Tensor, "batch patches dim"]:
        grid = self.grid(*pixel_values.shape[-2:])
        dtype = self.norm.weight.dtype  # fp32 also under autocast: the residual stream stays exact
        x = rearrange(self.stem((pixel_values.float() / 255 - 0.5).to(dtype)), "b d h w -> b (h w) d").to(dtype)
        depth = len(self.blocks)
        last = depth if self.layer is None else self.layer
        if last > 0:
            x = x + sincos_positions(grid, self.width).to(x)
        keys = None if patch_mask is None else patch_mask.unsqueeze(1)
        for block in self.blocks[:last]:
            x = block(x, keys)
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
