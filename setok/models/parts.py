"""A batch in parts of a few images, where that saves memory and costs nothing."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from setok.models.device import device_kind

VALUES_AT_ONCE = 2**23
"""A part's features and its distances between patches hold at most about this many values (32 MiB in fp32) each."""


def parts_of(features: Float[Tensor, "batch patches width"]) -> list[slice]:
    """Images to work on together: all of them, or on a CPU without gradients parts that are large enough for its cores.

    Memory then does not grow with the batch. With gradients everything is kept anyway, a GPU would wait for the clustering
    rounds of every part, and a compiled graph would repeat them.
    """
    batch, patches, width = features.shape
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or device_kind(features) != "cpu":
        return [slice(0, batch)]
    count = max(1, min(batch, -(-batch * patches * max(patches, width) // VALUES_AT_ONCE)))
    return [slice(batch * part // count, batch * (part + 1) // count) for part in range(count)]
