"""How likely a model finds it to say something: for choices that are given, and for perplexity."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from setok.batch import SequenceBatch
from setok.models.language_model import summed_cross_entropy
from setok.models.setokim import Setokim
from setok.models.splice import IGNORED


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Of one answer, the token that ends it included."""

    log_probability: float
    """Natural logarithm of the probability that exactly this is said."""
    num_tokens: int
    is_greedy: bool
    """Whether it is what the model says when it always takes the most likely token."""


@torch.no_grad()
def likelihoods(model: Setokim, batch: SequenceBatch) -> list[Likelihood]:
    """Likelihood of what is labelled in every row, given what stands before it.

    Args:
        batch: one sample a row, of ``PromptMaker.answered``.
    """
    images = model.encode_images(batch.pixel_values)
    rows = model.splice(batch, images)
    labels = model.targets(batch, rows, images).labels
    hidden = model.language_model(model.embed(rows, images), rows.segment_ids, rows.position_ids)
    chosen = labels != IGNORED
    loss, right = summed_cross_entropy(model.language_model, hidden[chosen], labels[chosen])
    found = []
    for losses, correct in zip(
        loss.double().split(chosen.sum(1).tolist()), right.split(chosen.sum(1).tolist()), strict=True
    ):
        found.append(
            Likelihood(log_probability=-float(losses.sum()), num_tokens=len(losses), is_greedy=bool(correct.all()))
        )
    return found
