"""Learned queries that pool patches: the usual way to a fixed number of tokens."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from setok.models.clustering.clusters import Clusters


class Resampler(nn.Module):
    """Cross-attention of learned queries to patches (Q-Former, Li et al. 2023; Perceiver, Jaegle et al. 2021).

    A query is a token, whatever it wins: pooling weights are its attention over the patches, the masks share every patch
    between the queries (softmax of the same logits over queries), and a patch belongs to the query that takes most of it.
    """

    def __init__(self, num_queries: int, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_queries, width) * width**-0.5)
        self.key = nn.Linear(width, width)
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def forward(
        self,
        features: Float[Tensor, "batch patches width"],
        num_tokens: int,
        patch_mask: Bool[Tensor, "batch patches"] | None = None,
    ) -> Clusters:
        """Clusters of the first ``num_tokens`` queries.

        Args:
            features: of unit length.
            num_tokens: not more than there are queries.
            patch_mask: True for real patches.
        """
        exact = features.dtype  # whatever the weights are in
        queries = nn.functional.normalize(self.queries[:num_tokens].to(exact), dim=-1)
        keys = nn.functional.linear(features, self.key.weight.to(exact), self.key.bias.to(exact))
        logits = self.log_scale.to(exact).exp() * queries @ nn.functional.normalize(keys, dim=-1).transpose(1, 2)
        masks = logits.softmax(1)
        assignment = logits.detach().argmax(1)
        scores = masks.detach().amax(1)
        if patch_mask is not None:
            logits = logits.masked_fill(~patch_mask.unsqueeze(1), torch.finfo(logits.dtype).min)
            masks = masks * patch_mask.unsqueeze(1)
            assignment = assignment.masked_fill(~patch_mask, -1)
            scores = scores * patch_mask
        return Clusters(
            assignment=assignment,
            masks=masks,
            mask=torch.ones(masks.shape[:2], dtype=torch.bool, device=masks.device),
            scores=scores,
            weights=logits.softmax(-1),
        )
