"""One rank that is steadily slower than the others makes all of them slow: how much, and which."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence

import torch

from ray_jobs.training.machine import WorkerContext
from setok.collectives import all_reduce_sum

logger = logging.getLogger(__name__)

STEADY = 3
"""Looks in a row that a rank must be the slowest in, by the factor, before it is named."""
_LEAST_SECONDS = 1e-3
"""Differences of less than this per look are noise."""


class StragglerGauge:
    """Compares the ranks' own time, without their waiting for each other."""

    def __init__(self, worker: WorkerContext, factor: float) -> None:
        self._worker, self._factor = worker, factor
        self._suspect, self._looks = -1, 0
        self._named: set[int] = set()

    def look(self, waiting: float, computing: float) -> dict[str, float]:
        """Compare the time since the last look; a collective over all ranks.

        Args:
            waiting: seconds that this rank has waited for data.
            computing: seconds of its forward passes.

        Returns:
            ``perf/straggler_ratio`` (the slowest rank's time over the median of the others) and ``perf/straggler_rank``;
            nothing with a single rank.
        """
        if self._worker.world_size == 1:
            return {}
        table = torch.zeros(self._worker.world_size, 2, dtype=torch.float64, device=self._worker.device)
        table[self._worker.rank] = torch.tensor([waiting, computing], dtype=torch.float64)
        rows = all_reduce_sum(table).tolist()
        rank, ratio = slowest([sum(row) for row in rows])
        self._suspect, self._looks = rank, (self._looks if rank == self._suspect else 0) + 1
        if ratio < self._factor:
            self._looks = 0
        if self._looks == STEADY and rank not in self._named:
            self._named.add(rank)
            if rank == self._worker.rank:
                self._name(ratio, in_data=waiting > computing)
        return {"perf/straggler_ratio": ratio, "perf/straggler_rank": float(rank)}

    def _name(self, ratio: float, *, in_data: bool) -> None:
        """Say so, on the slow rank itself, which knows its node."""
        what, where = (
            ("gets its data", "the decoders and the network of that node")
            if in_data
            else ("computes", "other processes, temperature and clock of that node or device")
        )
        logger.warning(
            "%s %s %.1f times as slowly as the median of the others, which wait for it: look at %s",
            *(self._worker.place, what, ratio, where),
        )


def slowest(seconds: Sequence[float]) -> tuple[int, float]:
    """The rank that takes longest, and how many times the median of the others; 1 where they differ by nothing that counts."""
    rank = max(range(len(seconds)), key=lambda index: seconds[index])
    others = statistics.median(value for index, value in enumerate(seconds) if index != rank)
    if seconds[rank] - others < _LEAST_SECONDS:
        return rank, 1.0
    return rank, seconds[rank] / max(others, _LEAST_SECONDS)
