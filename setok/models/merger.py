"""The token merger: the patches of every cluster become one token."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from setok.config import MergerConfig
from setok.models.clustering.clusters import one_hot
from setok.models.device import device_kind
from setok.models.geometry import RELATIVE, Frame, Outline
from setok.models.layers import Block, sincos_positions
from setok.models.packing import Packing, pack
from setok.models.parts import parts_of


class TokenMerger(nn.Module):
    """Patches of a cluster talk to each other, are averaged into one token, and tokens talk to each other."""

    def __init__(self, config: MergerConfig, width: int, token_width: int) -> None:
        super().__init__()
        self.position = config.position
        self.width = token_width
        self.enter = nn.Linear(width, token_width) if width != token_width else nn.Identity()
        heads, ratio = config.num_heads, config.mlp_ratio
        self.intra = nn.ModuleList(Block(token_width, heads, ratio) for _ in range(config.intra_layers))
        self.inter = nn.ModuleList(Block(token_width, heads, ratio) for _ in range(config.inter_layers))
        self.norm = nn.LayerNorm(token_width)
        self.relative = nn.Linear(RELATIVE, token_width) if config.relative_position else None
        self.outline = Outline(config.outline, token_width) if config.outline else None

    def forward(
        self,
        features: Float[Tensor, "batch patches width"],
        assignment: Int[Tensor, "batch patches"],
        weights: Float[Tensor, "batch clusters patches"] | None,
        mask: Bool[Tensor, "batch clusters"],
        grid: tuple[int, int],
    ) -> Float[Tensor, "batch clusters token_width"]:
        """One token per cluster; rows of padding clusters carry no meaning.

        Args:
            features: of the encoder.
            assignment: cluster of every patch; -1 for padded patches, which reach no token.
            weights: how patches are averaged into tokens; ``None`` takes the mean of every cluster's own patches.
            mask: True for real clusters.
            grid: rows and columns of patches.
        """
        if len(parts := parts_of(features)) > 1:
            own = (None if weights is None else weights[part] for part in parts)
            done = [self(features[p], assignment[p], w, mask[p], grid) for p, w in zip(parts, own, strict=True)]
            return torch.cat(done)
        x = self.enter(features)
        if self.position:
            x = x + sincos_positions(grid, self.width).to(x)
        if self.relative is not None or self.outline is not None:
            members = one_hot(assignment, mask.shape[1]) if weights is None else weights
            frame = Frame.of(one_hot(assignment, mask.shape[1]), grid, assignment >= 0)
        if self.relative is not None:
            x = x + self.relative(frame.relative(assignment).to(x.dtype)).to(x.dtype)
        packing = pack(assignment, mask.shape[1])
        x = x.gather(1, packing.order.unsqueeze(-1).expand_as(x))
        for block in self.intra:
            x = block(x, packing)
        with torch.autocast(x.device.type, enabled=False):
            if weights is None:
                tokens = segment_mean(x.float(), packing)
            else:
                tokens = weights.gather(2, packing.order.unsqueeze(1).expand_as(weights)) @ x.float()
            if self.outline is not None:
                tokens = tokens + self.outline(members, frame).float()
            tokens = tokens.to(self.norm.weight.dtype)
        for block in self.inter:
            tokens = block(tokens, mask.unsqueeze(1))
        return self.norm(tokens.to(self.norm.weight.dtype))


def segment_mean(x: Float[Tensor, "batch patches width"], packing: Packing) -> Float[Tensor, "batch clusters width"]:
    """Mean of every cluster's sorted rows; zero for empty clusters."""
    lengths = packing.offsets.diff()
    if device_kind(x) == "cpu":
        sums = x.new_zeros(len(lengths), x.shape[-1]).index_add(0, packing.segments, x.flatten(0, 1))
    else:  # there index_add sums in any order, and results would differ from run to run
        clusters = torch.arange(len(lengths), device=x.device).view(len(x), -1, 1)
        members = packing.segments.view(len(x), 1, -1) == clusters
        sums = (members.to(x.dtype) @ x).flatten(0, 1)
    return rearrange(sums / lengths.unsqueeze(1).clamp_min(1), "(b k) d -> b k d", b=len(x))[:, 1:]
