"""Do tokens stand for things? Figures of semantic tokens, beside the grouping of ``setok.metrics.grouping``.

Which nouns a picture's tokens point to, and whether a picture that has more in it gets more tokens. Means over pictures are taken
by ``running.ImageRows``, so every function gives one value per picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from setok.metrics.running import correlation_of, mean_of

PerImage = Float[Tensor, " batch"]
PerPicture = Shaped[np.ndarray, " images"]


# ---------------------------------------------------------------- tokens and nouns


def noun_recall(
    similarity: Float[Tensor, "batch tokens nouns"],
    mask: Bool[Tensor, "batch tokens"],
    present: Bool[Tensor, "batch nouns"],
    k: int,
) -> PerImage:
    """Share of a picture's nouns that some token has among its ``k`` nearest of the vocabulary.

    Equal similarities are ranked by index. NaN for a picture without nouns or without tokens.

    Args:
        similarity: of every token with every noun of the vocabulary.
        mask: which tokens are there.
        present: which nouns are true of the picture.
    """
    near = _nearest(similarity, k) & mask.unsqueeze(-1)
    found = (near.any(1) & present).sum(-1).double()
    nouns = present.sum(-1)
    return torch.where((nouns > 0) & mask.any(-1), found / nouns.clamp_min(1), torch.nan)


def token_precision(
    similarity: Float[Tensor, "batch tokens nouns"],
    mask: Bool[Tensor, "batch tokens"],
    present: Bool[Tensor, "batch nouns"],
) -> PerImage:
    """Share of a picture's tokens whose nearest noun is true of it; NaN for a picture without nouns or without tokens.

    Chance is the share of the vocabulary that is true of the picture.
    """
    right = (_nearest(similarity, 1) & present.unsqueeze(1)).any(-1) & mask
    tokens = mask.sum(-1)
    return torch.where(present.any(-1) & (tokens > 0), right.sum(-1).double() / tokens.clamp_min(1), torch.nan)


def _nearest(similarity: Float[Tensor, "batch tokens nouns"], k: int) -> Bool[Tensor, "batch tokens nouns"]:
    order = similarity.argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1) < k


# ---------------------------------------------------------------- token counts and complexity


def edge_density(pixels: Float[Tensor, "batch 3 height width"]) -> PerImage:
    """How much a picture changes from pixel to pixel: mean absolute difference of grey between neighbours, in [0, 1].

    Grey is luma as ITU-R BT.601 weighs the colours. 0 for a plain picture; a measure of complexity that needs no labels.
    """
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64, device=pixels.device)
    grey = torch.einsum("bchw,c->bhw", pixels.double(), weights)
    steps = [grey.diff(dim=1).abs().flatten(1), grey.diff(dim=2).abs().flatten(1)]
    return torch.cat(steps, 1).mean(1)


def rank_correlation(x: PerPicture, y: PerPicture) -> float | None:
    """Spearman's correlation over the pictures that have both figures, equal values sharing their mean rank.

    ``None`` for fewer than two pictures, 0 where either does not vary.
    """
    both = ~(np.isnan(x) | np.isnan(y))
    return correlation_of(_ranks(x[both]), _ranks(y[both]))


def _ranks(values: PerPicture) -> PerPicture:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle: np.ndarray = (last - counts + last - 1) / 2
    return middle[place]


def counts_by_complexity(
    tokens: PerPicture, complexity: PerPicture, *, parts: int = 4
) -> dict[str, float | Sequence[float | None] | None]:
    """How token counts follow a measure of complexity (objects, ``edge_density``).

    Args:
        tokens: token count of each picture, NaN where unknown.
        complexity: the measure, NaN where unknown.
        parts: the pictures are cut into so many equal parts from the simplest on; ties are cut by index.

    Returns:
        ``pearson`` and ``spearman``, and ``mean_tokens`` of each part (``None`` for an empty one).
    """
    both = ~(np.isnan(tokens) | np.isnan(complexity))
    tokens, complexity = tokens[both].astype(np.float64), complexity[both].astype(np.float64)
    order = np.argsort(complexity, kind="stable")
    return {
        "pearson": correlation_of(complexity, tokens),
        "spearman": rank_correlation(complexity, tokens),
        "mean_tokens": [mean_of(tokens[part]) for part in np.array_split(order, parts)],
    }
