"""Feature distillation: an encoder that is trained stays near what it was at the start.

Tuning an encoder on pixels alone destroys what it understands (UniLIP, Tang et al. 2025); a frozen copy of it gives targets.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn


class FeatureTeacher(nn.Module):
    """A frozen copy of an encoder, always in evaluation mode."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FeatureTeacher:
        """Stay in evaluation mode: the targets are the same in every step."""
        return super().train(mode=False)

    @torch.no_grad()
    def follow(self, encoder: nn.Module) -> None:
        """Become a copy of ``encoder`` as it is now."""
        self.encoder.load_state_dict(encoder.state_dict())

    def forward(
        self,
        pixel_values: UInt8[Tensor, "batch 3 height width"],
        features: Float[Tensor, "batch patches dim"],
        patch_mask: Bool[Tensor, "batch patches"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """1 − cosine between ``features`` and the copy's, averaged over the patches of every image; in [0, 2]."""
        with torch.no_grad():
            target = self.encoder(pixel_values, patch_mask)
        with torch.autocast(features.device.type, enabled=False):
            strayed = 1 - F.cosine_similarity(features.float(), target.float(), dim=-1)
        if patch_mask is None:
            return strayed.mean(-1)
        return strayed.masked_fill(~patch_mask, 0.0).sum(-1) / patch_mask.sum(-1)
