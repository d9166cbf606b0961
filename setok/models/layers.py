"""Blocks that all networks here are built from: attention with a boolean mask, pre-norm blocks, 2-D positions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from setok.models.attention import attend
from setok.models.device import device_kind
from setok.models.packing import Packing, attend_inside

ROWS_AT_ONCE = 2048
"""Without gradients the feed-forward layers of packed patches take this many rows at a time."""


def sincos_positions(grid: tuple[int, int], width: int) -> Float[Tensor, "patches width"]:
    """Fixed 2-D sine-cosine positions of a grid of patches, in rows (Vaswani et al. 2017, one half per axis).

    Args:
        grid: rows and columns.
        width: a multiple of 4.
    """
    quarter = width // 4
    frequency = 1.0 / 100.0 ** (torch.arange(quarter) / quarter)
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequency for axis in (columns, rows)]
    encoding = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    return F.pad(encoding, (0, width - 4 * quarter))


class Attention(nn.Module):
    """Multi-head attention of ``x`` to ``y`` under a boolean mask.

    On CPU the attention itself runs in fp32 even under autocast: its bf16 backward is slower there.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "batch queries width"],
        y: Float[Tensor, "batch keys width"],
        mask: Bool[Tensor, "batch #queries keys"] | Packing | None = None,
    ) -> Float[Tensor, "batch queries width"]:
        """A ``Packing`` keeps attention inside clusters; ``x`` is then ``y``, sorted by cluster."""
        if isinstance(mask, Packing):
            qkv = torch.cat([self.query(x), self.key_value(y)], dim=-1)
            qkv = rearrange(qkv, "b n (three h d) -> b n three h d", three=3, h=self.num_heads)
            attended = attend_inside(qkv.float() if device_kind(x) == "cpu" else qkv, mask)
            return self.output(rearrange(attended, "b n h d -> b n (h d)").to(x.dtype))
        q = rearrange(self.query(x), "b n (h d) -> b h n d", h=self.num_heads)
        k, v = rearrange(self.key_value(y), "b n (two h d) -> two b h n d", two=2, h=self.num_heads)
        attended = attend(q, k, v, None if mask is None else mask.unsqueeze(1))
        return self.output(rearrange(attended, "b h n d -> b n (h d)").to(x.dtype))


def feed_forward(width: int, ratio: float) -> nn.Sequential:
    """Normalise, widen by ``ratio``, GELU, narrow."""
    hidden = round(width * ratio)
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class CheckpointedModule(nn.Module):
    """A module that can forget its activations and compute them again in the backward pass; takes positional arguments."""

    gradient_checkpointing = False

    def __call__(self, *args: Any) -> Any:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(super().__call__, *args, use_reentrant=False)
        return super().__call__(*args)


def enable_checkpointing(module: nn.Module) -> None:
    """Switch recomputation on in every block inside ``module``."""
    for child in module.modules():
        if isinstance(child, CheckpointedModule):
            child.gradient_checkpointing = True


class Block(CheckpointedModule):
    """Pre-norm transformer block: self-attention, feed-forward."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.feed_forward = feed_forward(width, mlp_ratio)

    def forward(
        self, x: Float[Tensor, "batch n width"], mask: Bool[Tensor, "batch #n n"] | Packing | None = None
    ) -> Float[Tensor, "batch n width"]:
        y = self.norm(x)
        x = x + self.attention(y, y, mask)
        if torch.is_grad_enabled() or not isinstance(mask, Packing):
            return x + self.feed_forward(x)
        rows = x.flatten(0, 1).split(ROWS_AT_ONCE)  # keeps the widened rows in the cache, and never holds them all
        return x + torch.cat([self.feed_forward(part) for part in rows]).view_as(x)


class CrossBlock(CheckpointedModule):
    """Cross-attention to tokens, feed-forward, then a self-attention block: one layer of the detokenizer."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.token_norm = nn.LayerNorm(width)
        self.cross = Attention(width, num_heads)
        self.feed_forward = feed_forward(width, mlp_ratio)
        self.self_block = Block(width, num_heads, mlp_ratio)

    def forward(
        self,
        x: Float[Tensor, "batch n width"],
        tokens: Float[Tensor, "batch tokens width"],
        mask: Bool[Tensor, "batch 1 tokens"],
        own_mask: Bool[Tensor, "batch 1 n"] | None = None,
    ) -> Float[Tensor, "batch n width"]:
        """``own_mask`` is False for rows of ``x`` that no other looks at."""
        x = x + self.cross(self.norm(x), self.token_norm(tokens), mask)
        return self.self_block(x + self.feed_forward(x), own_mask)
