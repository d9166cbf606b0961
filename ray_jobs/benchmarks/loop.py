"""The reference of the benchmark: the tokenizer's clustering and merging written in the plainest way.

One image after the other, one cluster after the other; stick-breaking with soft pooling, as the presets have it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from setok.config import ClusteringConfig
from setok.errors import ConfigError
from setok.models.layers import sincos_positions
from setok.models.merger import TokenMerger
from setok.models.tokenizer import ClusteringHead


def tokens_by_loops(
    head: ClusteringHead, merger: TokenMerger, features: Float[Tensor, "batch patches width"], grid: tuple[int, int]
) -> list[Float[Tensor, "tokens token_width"]]:
    """Tokens of every image.

    Raises:
        ConfigError: the setting is not soft stick-breaking.
    """
    config = head.config
    if config.method != "stick_breaking" or config.assignment != "soft" or config.min_tokens != 1:
        raise ConfigError(
            f"the loop knows soft stick_breaking from one token on, not {config.assignment} {config.method}",
            "time it without the loop: --parts encoder,tokenizer",
        )
    tokens = []
    for image in features:
        with torch.autocast(features.device.type, enabled=False):
            masks = _masks(torch.nn.functional.normalize(head.project(image.float()), dim=-1), config)
        tokens.append(_merge(merger, image, masks, grid))
    return tokens


def _masks(x: Float[Tensor, "patches width"], config: ClusteringConfig) -> Float[Tensor, "clusters patches"]:
    """Stick-breaking of one image; see ``setok.models.clustering.stick_breaking``."""
    square = x.pow(2).sum(-1)
    distances = (square[:, None] + square[None] - 2 * x @ x.T).clamp_min(0).fill_diagonal_(0)
    nearest = distances.topk(config.num_neighbors + 1, largest=False).values[:, 1:]
    density = torch.exp(-nearest.mean(-1))
    denser = (density[None] > density[:, None]) | (
        (density[None] == density[:, None]) & torch.ones_like(distances, dtype=torch.bool).tril(-1)
    )
    to_denser = distances.masked_fill(~denser, torch.inf).amin(-1)
    scores = density * torch.where(torch.isinf(to_denser), distances.amax(-1), to_denser).sqrt()
    masks: list[Tensor] = []
    scope, free = torch.ones_like(scores), torch.ones_like(scores, dtype=torch.bool)
    while True:
        seed = int((scores * scope).masked_fill(~free, -1.0).argmax())
        free[seed] = False
        share = scope * torch.exp2(-distances[seed] * (config.sharpness or config.max_tokens))
        stop = bool(share.sum() <= config.stop_mass) or bool(scope.mean() <= config.stop_scope)
        if stop or len(masks) == config.max_tokens - 1:
            return torch.stack([*masks, scope])
        masks.append(share)
        scope = scope - share


def _merge(
    merger: TokenMerger,
    image: Float[Tensor, "patches width"],
    masks: Float[Tensor, "clusters patches"],
    grid: tuple[int, int],
) -> Float[Tensor, "tokens token_width"]:
    """Attention inside every cluster, one at a time; their weighted means; attention between them."""
    owner = masks.argmax(0)
    x = merger.enter(image)
    x = x + sincos_positions(grid, merger.width).to(x)
    inside = torch.empty_like(x, dtype=torch.float32)
    clusters = owner.unique().tolist()
    for number in clusters:
        here = owner == number
        y = x[here].unsqueeze(0)
        for block in merger.intra:
            y = block(y)
        inside[here] = y[0].float()
    tokens = []
    for number in clusters:
        weights = masks[number] / masks[number].sum()
        tokens.append((weights.unsqueeze(1) * inside).sum(0))
    z = torch.stack(tokens).unsqueeze(0)
    for block in merger.inter:
        z = block(z)
    return merger.norm(z.float())[0]
