"""The machine as one rank of a run sees it: its place among the ranks, its device, its data."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from setok.batch import Batch


class Batches(Iterable[Sequence[Batch]], Protocol):
    """One rank's data: for every optimizer step a list of micro-batches."""

    wait_seconds: float
    """Time that the reader of this has spent waiting so far."""
    num_bad: int
    """Samples so far that could not be decoded and were masked."""

    def close(self) -> None:
        """Stop what reads ahead."""


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """The machine as one rank sees it."""

    rank: int
    world_size: int
    local_world_size: int
    """Ranks on this node."""
    device: torch.device
    batches: Callable[[int], Batches]
    """The data from an optimizer step on."""
    report: Callable[[dict[str, float]], None]
    """Tell Ray about the metrics; called on all ranks at the same steps."""
    nodes_to_go: Callable[[], frozenset[str]] = frozenset
    """Nodes of the run that are about to be taken away; called on all ranks at the same steps, and the same on all."""
    validate: Callable[[int], None] | None = None
    """Evaluate the checkpoint of a step, where this process does it itself."""

    @property
    def place(self) -> str:
        """This rank, its node and process, as people look for them."""
        return f"rank {self.rank} on {socket.gethostname()} (pid {os.getpid()})"

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes what is written once."""
        return self.rank == 0


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def limit_collectives(seconds: float) -> None:
    """Let collectives of all process groups fail after so long, DeepSpeed's own groups included.

    Torch gives no public way to change the time of a group that exists.
    """
    if dist.is_available() and dist.is_initialized():
        for group in list(distributed_c10d._world.pg_map):
            distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), group)
