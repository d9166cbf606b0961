"""The detokenizer: learnable mask tokens, one per square of pixels, query the semantic tokens and paint their square."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from setok.batch import real_cells
from setok.config import DetokenizerConfig
from setok.errors import DataError
from setok.models.flow import FlowHead
from setok.models.layers import CrossBlock, sincos_positions


@dataclass(frozen=True, kw_only=True)
class Painting:
    """Pixels and what the last layer painted them from (the adaptive adversarial weight needs both)."""

    pixels: Float[Tensor, "batch 3 height width"]
    squares: Float[Tensor, "batch squares values"]
    hidden: Float[Tensor, "batch squares channels"]


class Detokenizer(nn.Module):
    """[cross-attention, feed-forward, self-attention, feed-forward] × depth, then a linear layer to pixels.

    With ``kind: flow`` it also holds the flow decoder that goes on from its picture.
    """

    def __init__(self, config: DetokenizerConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.width = config.width
        self.query = nn.Parameter(torch.randn(config.width) * 0.02)
        self.blocks = nn.ModuleList(
            CrossBlock(config.width, config.num_heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        self.to_pixels = nn.Linear(config.width, 3 * config.patch_size**2)
        self.flow = FlowHead(config) if config.kind == "flow" else None

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens channels"],
        mask: Bool[Tensor, "batch tokens"],
        size: tuple[int, int],
        sizes: Int[Tensor, "batch 2"] | None = None,
    ) -> Painting:
        """Paint pictures of ``size`` (height, width) pixels; padding tokens (mask False) are not looked at.

        Args:
            tokens: of every picture.
            mask: True for real tokens.
            size: of the canvas.
            sizes: height and width of every picture in the upper left of it; what is painted beside it carries no meaning.

        Raises:
            DataError: ``size`` is no multiple of the squares that are painted.
        """
        if min(size) < self.patch_size or size[0] % self.patch_size or size[1] % self.patch_size:
            raise DataError(
                f"a picture of {size[0]} × {size[1]} pixels cannot be painted in squares of {self.patch_size}",
                f"ask for multiples of detokenizer.patch_size={self.patch_size}, at least one",
            )
        rows, columns = size[0] // self.patch_size, size[1] // self.patch_size
        x = (self.query + sincos_positions((rows, columns), self.width).to(self.query)).expand(len(tokens), -1, -1)
        tokens = tokens.to(self.query.dtype)
        own = None if sizes is None else real_cells(sizes, (rows, columns), self.patch_size).unsqueeze(1)
        for block in self.blocks:
            x = block(x, tokens, mask.unsqueeze(1), own)
        hidden = self.norm(x)
        squares = self.to_pixels(hidden).float() + 0.5
        p = self.patch_size
        pixels = rearrange(squares, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, c=3, p=p, q=p)
        return Painting(pixels=pixels, squares=squares, hidden=hidden)
