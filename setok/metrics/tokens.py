"""What the tokens themselves are like: how many, how different, and what can be read from them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

PerImage = Float[Tensor, " batch"]


def correlation(x: Shaped[np.ndarray, " images"], y: Shaped[np.ndarray, " images"]) -> float:
    """Pearson correlation of two figures over images; 0 where either does not vary, NaN for fewer than two images.

    With token counts and numbers of objects: does a busier picture get more tokens? A fixed count has 0 by definition.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(x) < 2:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x * x).sum() * (y * y).sum())
    return float(np.clip((x * y).sum() / scale, -1.0, 1.0)) if scale > 0 else 0.0


def mean_similarity(tokens: Float[Tensor, "batch tokens width"], mask: Bool[Tensor, "batch tokens"]) -> PerImage:
    """Mean cosine between the different tokens of an image; near 1 they all say the same. NaN for a single token."""
    unit = F.normalize(tokens.double(), dim=-1) * mask.unsqueeze(-1)
    count = mask.sum(-1).double()
    both = unit.sum(1).pow(2).sum(-1) - unit.pow(2).sum((1, 2))
    pairs = count * (count - 1)
    return torch.where(pairs > 0, both / pairs.clamp_min(1), torch.nan)


def concept_hit_rate(scores: Float[Tensor, "batch concepts"], present: Bool[Tensor, "batch concepts"]) -> PerImage:
    """Share of an image's true concepts among its top n by score, n being how many it truly has.

    Equal scores are ranked by index. Chance is the number of true concepts over the number to choose from. NaN for images
    without concepts.
    """
    rank = scores.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    wanted = present.sum(-1, keepdim=True)
    hits = (present & (rank < wanted)).sum(-1).double()
    total = wanted.squeeze(-1)
    return torch.where(total > 0, hits / total.clamp_min(1), torch.nan)
