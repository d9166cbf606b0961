"""Pointing: the hidden state at ``[Seg]`` becomes a mask, after SAM's light decoder (Kirillov et al. 2023).

The query and the picture's semantic tokens look at the patches and the patches look back, a few times over. The encoder's own
features and the raw pixels beside them draw the border where clusters are too coarse. The mask is the product of the query
with every place of the upsampled map, plus the product of the query with the token of the cluster that the place is in: which
of the tokens is meant needs no border, and is learnt long before one can be drawn.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from setok.batch import VisualTokens
from setok.config import MaskDecoderConfig
from setok.models.layers import Attention, CheckpointedModule, feed_forward, sincos_positions


class TwoWayBlock(CheckpointedModule):
    """Queries talk to each other and read the patches; then the patches read the queries."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.self_norm, self.self_attention = nn.LayerNorm(width), Attention(width, num_heads)
        self.query_norm, self.patch_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_patches = Attention(width, num_heads)
        self.feed_forward = feed_forward(width, mlp_ratio)
        self.query_norm_back, self.patch_norm_back = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_queries = Attention(width, num_heads)

    def forward(
        self,
        queries: Float[Tensor, "masks queries width"],
        patches: Float[Tensor, "masks patches width"],
        mask: Bool[Tensor, "masks 1 queries"],
    ) -> tuple[Float[Tensor, "masks queries width"], Float[Tensor, "masks patches width"]]:
        """``mask`` is False for queries that are padding."""
        y = self.self_norm(queries)
        queries = queries + self.self_attention(y, y, mask)
        queries = queries + self.to_patches(self.query_norm(queries), self.patch_norm(patches))
        queries = queries + self.feed_forward(queries)
        back = self.to_queries(self.patch_norm_back(patches), self.query_norm_back(queries), mask)
        return queries, patches + back


class MaskDecoder(nn.Module):
    """One mask for every query.

    Args:
        token_width: of the tokenizer's tokens, and of the query.
        patch_width: of the encoder's features.
        feature_width: of the features that were clustered.
    """

    def __init__(self, config: MaskDecoderConfig, token_width: int, patch_width: int, feature_width: int) -> None:
        super().__init__()
        width = config.width
        self.width, self.stride = width, config.stride
        self.patch_norm = nn.LayerNorm(patch_width)
        self.from_patches = nn.Linear(patch_width + feature_width + token_width, width)
        self.from_tokens = nn.Linear(token_width, width)
        self.from_query = nn.Linear(token_width, width)
        self.point_from, self.point_at = nn.Linear(token_width, width), nn.Linear(token_width, width)
        self.blocks = nn.ModuleList(TwoWayBlock(width, config.num_heads, config.mlp_ratio) for _ in range(config.depth))
        fine = max(8, width // 2)
        self.from_pixels = nn.Sequential(
            nn.Conv2d(3 * config.stride**2, fine, 3, padding=1), nn.GELU(), nn.Conv2d(fine, fine, 3, padding=1)
        )
        self.upsample = nn.Conv2d(width, fine, 1)
        self.mix = nn.Sequential(nn.GELU(), nn.Conv2d(fine, fine, 3, padding=1), nn.GELU(), nn.Conv2d(fine, fine, 1))
        self.query_norm = nn.LayerNorm(width)
        self.to_filter = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, fine + 1))

    def forward(
        self,
        query: Float[Tensor, "masks token_width"],
        visual: VisualTokens,
        patches: Float[Tensor, "masks patches patch_width"],
        pixel_values: UInt8[Tensor, "masks 3 height width"],
    ) -> Float[Tensor, "masks height width"]:
        """Logits of every pixel.

        Args:
            query: hidden state at ``[Seg]``, projected to the tokens' width.
            visual: tokens of the picture that each mask is in.
            patches: the encoder's features of these pictures.
            pixel_values: the pictures.
        """
        own = visual.tokens.gather(
            1, visual.assignment.long().clamp_min(0).unsqueeze(-1).expand(-1, -1, visual.tokens.shape[-1])
        )
        everything = torch.cat([self.patch_norm(patches.to(query.dtype)), visual.features.to(query), own.to(query)], -1)
        x = self.from_patches(everything) + sincos_positions(visual.grid, self.width).to(query)
        queries = torch.cat([self.from_query(query).unsqueeze(1), self.from_tokens(visual.tokens.to(query.dtype))], 1)
        real = F.pad(visual.mask, (1, 0), value=True).unsqueeze(1)
        for block in self.blocks:
            queries, x = block(queries, x, real)
        pointed = einsum(self.point_from(query), self.point_at(own.to(query)), "b d, b n d -> b n") / self.width**0.5
        pointed = rearrange(pointed.float(), "b (h w) -> b 1 h w", h=visual.grid[0])
        size = (pixel_values.shape[-2], pixel_values.shape[-1])
        fine = (size[0] // self.stride, size[1] // self.stride)
        whole = pixel_values[..., : fine[0] * self.stride, : fine[1] * self.stride].to(query) / 127.5 - 1
        raw = self.from_pixels(rearrange(whole, "b c (h p) (w q) -> b (c p q) h w", p=self.stride, q=self.stride))
        coarse = self.upsample(rearrange(x, "b (h w) d -> b d h w", h=visual.grid[0]))
        shown = F.interpolate(coarse.float(), fine, mode="bilinear", align_corners=False).to(raw.dtype)
        fine_map = self.mix(shown + raw)
        filters = self.to_filter(self.query_norm(queries[:, 0])).float()
        with torch.autocast(query.device.type, enabled=False):
            logits = torch.einsum("bd,bdhw->bhw", filters[:, :-1], fine_map.float()) + filters[:, -1, None, None]
            logits = logits + F.interpolate(pointed, fine, mode="nearest").squeeze(1)
            return F.interpolate(logits.unsqueeze(1), size, mode="bilinear", align_corners=False).squeeze(1)


def mask_losses(
    logits: Float[Tensor, "masks height width"], target: Bool[Tensor, "masks height width"], *, gamma: float
) -> tuple[Float[Tensor, " masks"], Float[Tensor, " masks"]]:
    """Cross-entropy (focal with ``gamma`` above 0, Lin et al. 2017) and Dice loss (Milletari et al. 2016) of every mask.

    Dice is 1 − (2·Σpg + 1) / (Σp + Σg + 1), so an empty mask has a gradient too.
    """
    wanted = target.float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
    if gamma:
        cross_entropy = cross_entropy * (1 - (-cross_entropy).exp()).pow(gamma)
    share = logits.float().sigmoid().flatten(1)
    both = (share * wanted.flatten(1)).sum(1)
    dice = 1 - (2 * both + 1) / (share.sum(1) + wanted.flatten(1).sum(1) + 1)
    return cross_entropy.flatten(1).mean(1), dice


def mask_iou(
    logits: Float[Tensor, "masks height width"], target: Bool[Tensor, "masks height width"]
) -> Float[Tensor, " masks"]:
    """Intersection over union of where the logits are positive; 1 where both are empty."""
    found = (logits > 0).flatten(1)
    wanted = target.flatten(1)
    union = (found | wanted).sum(1)
    return torch.where(
        union > 0, (found & wanted).sum(1) / union.clamp_min(1), torch.ones_like(union, dtype=torch.float)
    )
