"""The tokenizer's loss terms. Each returns one value per item, unreduced, so that means can be taken over the global batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def pixel_loss(
    reconstruction: Float[Tensor, "batch *shape"],
    target: Float[Tensor, "batch *shape"],
    power: int,
    real: Bool[Tensor, "batch *#shape"] | None = None,
) -> Float[Tensor, " batch"]:
    """Mean absolute (power 1) or squared (power 2) error of every image, over what is ``real``."""
    return mean_over((reconstruction - target).abs().pow(power), real)


def mean_over(
    values: Float[Tensor, "batch *shape"], real: Bool[Tensor, "batch *#shape"] | None
) -> Float[Tensor, " batch"]:
    """Mean of every image's values; those that are not ``real`` (padding) do not count. ``None``: all are."""
    if real is None:
        return values.flatten(1).mean(1)
    real = real.expand_as(values)
    return values.masked_fill(~real, 0.0).flatten(1).sum(1) / real.flatten(1).sum(1)


def concept_contrast(
    tokens: Float[Tensor, "batch tokens dim"],
    mask: Bool[Tensor, "batch tokens"],
    concepts: Float[Tensor, "concepts dim"],
    present: Bool[Tensor, "batch concepts"],
    temperature: float,
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch concepts"]]:
    """InfoNCE of every concept of an image against the concepts of the other images of the global batch.

    A concept is matched to the image by similarity-weighted pooling of its tokens; the pooled vector must be nearer to its own
    concept than the poolings for the other images' concepts are to theirs. Concepts the image has itself are no negatives.

    Returns:
        The loss of every image, summed over its concepts; and the similarity of every image with every concept, in [-1, 1].
    """
    similarity = torch.einsum("cd,bkd->bck", concepts, tokens)
    attention = similarity.masked_fill(~mask.unsqueeze(1), -torch.inf).softmax(-1)
    pooled = F.normalize(attention @ tokens, dim=-1)
    match = torch.einsum("bcd,cd->bc", pooled, concepts)
    logits = match / temperature
    # -1e4 and not -inf: an image that has every concept of the batch has no negatives, and its loss must be 0, not NaN.
    negatives = logits.masked_fill(present, -1e4).logsumexp(-1, keepdim=True)
    loss = torch.logaddexp(logits, negatives) - logits
    return (loss * present).sum(-1), match


def patch_statistics(
    patches: Float[Tensor, "batch patches 3 pixels"],
    grid: tuple[int, int],
    names: tuple[str, ...],
    real: Bool[Tensor, "batch patches"] | None = None,
) -> Float[Tensor, "batch patches statistics"]:
    """Simple statistics of every patch, the targets that shape features trained from scratch.

    Patches that are not ``real`` (padding) are no part of another's surroundings; their own statistics carry no meaning.

    ``mean``: mean colour; ``deviation``: its standard deviation inside the patch; ``edges``: mean absolute difference of
    neighbouring pixels, down and right; ``context``: mean and standard deviation of the colour over the 3×3 patches around.
    """
    batch = patches.shape[0]
    mean = patches.mean(-1)
    deviation = (patches.var(-1, unbiased=False) + 1e-8).sqrt()
    statistics = []
    for name in names:
        if name == "mean":
            statistics.append(mean)
        elif name == "deviation":
            statistics.append(deviation)
        elif name == "edges":
            side = int(patches.shape[-1] ** 0.5)
            square = patches.unflatten(-1, (side, side))
            statistics += [square.diff(dim=-1).abs().mean((-1, -2, -3), keepdim=False).unsqueeze(-1)]
            statistics += [square.diff(dim=-2).abs().mean((-1, -2, -3), keepdim=False).unsqueeze(-1)]
        else:
            around = torch.cat([mean, mean.pow(2) + deviation.pow(2)], -1)
            inside = around.new_ones(batch, patches.shape[1], 1) if real is None else real.unsqueeze(-1).to(around)
            maps = torch.cat([around * inside, inside], -1).transpose(1, 2).unflatten(-1, grid)
            wide = F.avg_pool2d(maps, 3, stride=1, padding=1).flatten(2).transpose(1, 2)
            wide = wide[..., :-1] / wide[..., -1:].clamp_min(1e-6)  # means over those of the nine that there are
            first, second = wide.chunk(2, dim=-1)
            statistics += [first, (second - first.pow(2)).clamp_min(1e-8).sqrt()]
    return torch.cat(statistics, dim=-1).reshape(batch, patches.shape[1], -1)


def hinge_discriminator(
    real: Float[Tensor, "batch *shape"],
    fake: Float[Tensor, "batch *shape"],
    inside: Bool[Tensor, "batch *#shape"] | None = None,
) -> Float[Tensor, " batch"]:
    """Hinge loss of the discriminator for every image (Lim & Ye 2017), over the places ``inside`` the picture."""
    return 0.5 * mean_over(F.relu(1 - real) + F.relu(1 + fake), inside)


def adaptive_adversarial_weight(
    reconstruction_gradient: Float[Tensor, "*shape"], adversarial_gradient: Float[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """‖∇L_rec‖ / (‖∇L_gan‖ + 1e-4) at the last layer, at most 1e4 (Esser et al. 2021, VQGAN eq. 7): balances the two losses."""
    ratio = reconstruction_gradient.norm() / (adversarial_gradient.norm() + 1e-4)
    return ratio.clamp(0.0, 1e4).detach()
