"""The few collectives that losses need, with the same meaning on one process and on many."""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_reduce_sum(value: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Sum of ``value`` over all ranks, as a new tensor."""
    value = value.clone()
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def all_gather_rows(rows: Shaped[Tensor, "n *shape"]) -> Shaped[Tensor, "m *shape"]:
    """Rows of all ranks, in rank order; ranks may bring different numbers of them. No gradient flows."""
    if world_size() == 1:
        return rows
    counts = torch.zeros(world_size(), dtype=torch.long, device=rows.device)
    counts[dist.get_rank()] = len(rows)
    dist.all_reduce(counts)
    padded = rows.new_zeros((int(counts.max()), *rows.shape[1:]))
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(gathered, padded)
    return torch.cat([part[:count] for part, count in zip(gathered, counts.tolist(), strict=True)])
