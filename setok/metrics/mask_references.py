"""What marks a region without understanding the words: one mask for all, and the largest of the tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

Mask = Bool[np.ndarray, "height width"]


def best_constant_mask(masks: Sequence[Mask], *, thresholds: int = 20) -> Mask:
    """The one mask with the highest mean overlap with those of training, among the level sets of their mean."""
    if not masks:
        raise ValueError("no masks to take the mean of")
    truths = np.stack(masks)
    mean: Float[np.ndarray, "height width"] = truths.mean(0)
    best, best_score = mean >= mean.max(), -1.0
    for level in np.linspace(0, mean.max(), thresholds, endpoint=False):
        candidate = mean > level
        both = (truths & candidate).sum((1, 2))
        either = (truths | candidate).sum((1, 2))
        score = float((both / np.maximum(either, 1)).mean())
        if score > best_score:
            best, best_score = candidate, score
    return best


def cluster_mask(assignment: Int[np.ndarray, "rows columns"], size: tuple[int, int], *, rank: int = 0) -> Mask:
    """Pixels of a picture's largest cluster (``rank`` 0), of its second largest (1), …; empty where there are not as many."""
    labels, counts = np.unique(assignment[assignment >= 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    if rank >= len(order):
        return np.zeros(size, bool)
    rows = np.arange(size[0]) * assignment.shape[0] // size[0]
    columns = np.arange(size[1]) * assignment.shape[1] // size[1]
    chosen: Mask = assignment[np.ix_(rows, columns)] == labels[order[rank]]
    return chosen
