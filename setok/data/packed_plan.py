"""The order of packed sequences of a whole run, as a function of the plan and of the samples' lengths.

Samples of different lengths share rows of ``budget`` tokens. Every ``GROUP`` successive positions of the plan are packed
by themselves, by best fit decreasing (Johnson, *Near-Optimal Bin Packing Algorithms*, MIT 1973): the longest sample
first, each into the fullest pack that has room for it. The packs of a group come in the order of their earliest sample,
and samples within a pack in the order of the plan. So pack k, and with it every step and every rank's rows, follows from
the seed, the sources, the weights, the lengths and the budget alone, for any number of workers and from any step.

Which pack is the k-th depends on how many packs came before. That is counted once, in pieces of ``CHUNK`` positions, and
kept: eight bytes for 16384 samples.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int32, Int64

from setok.data.plan import WINDOW, Plan
from setok.errors import ConfigError, DataError

GROUP = 1024
"""Positions that are packed together: more fill the packs better, and move a sample further from its place."""
CHUNK = WINDOW
_CACHED_CHUNKS = 4
_BIN_BITS = 20


class TooLongError(DataError):
    """A sample does not fit into a row. ``source`` and ``row`` say which one, for whoever can look up its id."""

    def __init__(self, problem: str, remedy: str = "", source: int = 0, row: int = 0) -> None:
        super().__init__(problem, remedy)
        self.args = (problem, remedy, source, row)  # what pickling hands back to this constructor
        self.source, self.row = source, row


class PackedPlan:
    """Which positions of a plan make up every pack of a run.

    Args:
        plan: the order of the samples.
        lengths: for every source, the tokens of every stored row.
        budget: tokens of a row, the most that a pack may hold.
        rows_per_step: packs in one step, over all workers and micro-batches.
        too_long: what becomes of a sample of more than ``budget`` tokens: an ``error``, or something of one token stands
            in for it, so as to ``mask`` it; ``is_too_long`` tells for which ones.
        first_packs: what ``first_packs`` of an equal plan was, to save counting again.

    Raises:
        ConfigError: budget or rows are below 1.
        DataError: a source has not one length for each row, or a length is below 1.
    """

    def __init__(
        self,
        plan: Plan,
        lengths: Sequence[Int32[np.ndarray, " _"]],
        *,
        budget: int,
        rows_per_step: int,
        too_long: Literal["error", "mask"] = "error",
        first_packs: Sequence[int] = (0,),
    ) -> None:
        if budget < 1 or rows_per_step < 1:
            raise ConfigError(f"budget={budget} tokens and rows_per_step={rows_per_step}", "both are at least 1")
        if len(lengths) != len(plan.stored_rows):
            raise DataError(f"{len(plan.stored_rows)} sources have {len(lengths)} arrays of lengths", "give each one")
        for source, (rows, own) in enumerate(zip(plan.stored_rows, lengths, strict=True)):
            if len(own) != rows or own.min() < 1:
                raise DataError(
                    f"source {source} has {rows} rows and {len(own)} lengths, the least being {own.min(initial=0)}",
                    "measure its lengths again; each is at least 1",
                )
        self.plan, self.budget, self.rows_per_step = plan, budget, rows_per_step
        self._lengths, self._too_long = lengths, too_long
        self._first_packs = list(first_packs)
        self._cache: OrderedDict[int, tuple[Int32[np.ndarray, " n"], Int32[np.ndarray, " packs1"]]] = OrderedDict()

    @property
    def first_packs(self) -> tuple[int, ...]:
        """Number of the first pack of every chunk that was counted so far, and of the next one."""
        return tuple(self._first_packs)

    @property
    def num_chunks(self) -> int | None:
        """Chunks of a plan that ends."""
        return None if self.plan.length is None else -(-self.plan.length // CHUNK)

    def num_steps(self) -> int | None:
        """Whole steps of a plan that ends; ``None`` where it goes on for ever. Counts all packs."""
        chunks = self.num_chunks
        if chunks is None:
            return None
        while len(self._first_packs) <= chunks:
            self._count_next()
        return self._first_packs[-1] // self.rows_per_step

    def count(self, stop: int) -> None:
        """Count on until pack ``stop`` − 1 is known.

        Raises:
            DataError: the plan ends before, or a sample is too long.
        """
        while self._first_packs[-1] < stop:
            self._count_next()

    def packs(self, start: int, stop: int) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " packs1"]]:
        """Packs ``start`` to ``stop`` − 1.

        Returns:
            Positions of their samples, and where in those every pack begins, with the end as last entry.

        Raises:
            DataError: the plan ends before, or a sample is too long.
        """
        positions: list[Int64[np.ndarray, " n"]] = []
        sizes: list[Int64[np.ndarray, " packs"]] = []
        self.count(stop)
        chunk = int(np.searchsorted(self._first_packs, start, side="right")) - 1
        while start < stop:
            order, starts = self._chunk(chunk)
            low, high = (
                start - self._first_packs[chunk],
                min(stop, self._first_packs[chunk + 1]) - self._first_packs[chunk],
            )
            positions.append(chunk * CHUNK + order[starts[low] : starts[high]].astype(np.int64))
            sizes.append(np.diff(starts[low : high + 1]).astype(np.int64))
            start, chunk = self._first_packs[chunk] + high, chunk + 1
        empty = [np.zeros(0, np.int64)]
        return np.concatenate(positions or empty), np.concatenate([[0], np.cumsum(np.concatenate(sizes or empty))])

    def is_too_long(self, source: Int32[np.ndarray, " n"], row: Int64[np.ndarray, " n"]) -> np.ndarray:
        """Whether the samples have more tokens than a row: bool [n]."""
        return self._lengths_of(source, row) > self.budget

    def efficiency(self, start: int, stop: int) -> float:
        """Share of the places in packs ``start`` to ``stop`` − 1 that hold tokens."""
        source, row, _ = self.plan.samples_at(self.packs(start, stop)[0])
        lengths = self._lengths_of(source, row)
        return float(lengths[lengths <= self.budget].sum() / ((stop - start) * self.budget))

    def _count_next(self) -> None:
        number = len(self._first_packs) - 1
        chunks = self.num_chunks
        if chunks is not None and number >= chunks:
            raise DataError(
                f"the plan's {self.plan.length} samples fill {self._first_packs[-1]} packs, which is"
                f" {self._first_packs[-1] // self.rows_per_step} steps of {self.rows_per_step}",
                "use fewer steps, or raise max_epochs of a source",
            )
        self._first_packs.append(self._first_packs[-1] + len(self._chunk(number)[1]) - 1)

    def _chunk(self, number: int) -> tuple[Int32[np.ndarray, " n"], Int32[np.ndarray, " packs1"]]:
        """Offsets of a chunk's positions in the order of its packs, and where every pack begins."""
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        first, last = number * CHUNK, (number + 1) * CHUNK
        source, row, _ = self.plan.samples(first, last if self.plan.length is None else min(last, self.plan.length))
        lengths = self._fitting(source, row)
        owners, groups = np.empty(len(lengths), np.int64), -(-len(lengths) // GROUP)
        for group in range(groups):
            own = slice(group * GROUP, (group + 1) * GROUP)
            owners[own] = best_fit_decreasing(lengths[own], self.budget) + own.start
        order = np.argsort(owners, kind="stable").astype(np.int32)
        starts = np.append(np.flatnonzero(np.diff(owners[order], prepend=-1)), len(order)).astype(np.int32)
        self._cache[number] = order, starts
        if len(self._cache) > _CACHED_CHUNKS:
            self._cache.popitem(last=False)
        return order, starts

    def _fitting(self, source: Int32[np.ndarray, " n"], row: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Tokens that the samples take up, 1 for those to be masked."""
        lengths = self._lengths_of(source, row)
        longer = np.flatnonzero(lengths > self.budget)
        if len(longer) and self._too_long == "error":
            at = longer[0]
            raise TooLongError(
                f"row {row[at]} of source {source[at]} has {lengths[at]} tokens, a row of the batch has {self.budget}",
                "leave such records out, raise the budget, or have them masked",
                int(source[at]),
                int(row[at]),
            )
        lengths[longer] = 1
        return lengths

    def _lengths_of(self, source: Int32[np.ndarray, " n"], row: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        out = np.empty(len(source), np.int64)
        for index, lengths in enumerate(self._lengths):
            own = source == index
            out[own] = lengths[row[own]]
        return out


def best_fit_decreasing(lengths: Int64[np.ndarray, " n"], budget: int) -> Int64[np.ndarray, " n"]:
    """Packs items, the longest first, each into the fullest pack that has room for it.

    Args:
        lengths: 0 to ``budget``; fewer than 2^20 of them.
        budget: what a pack holds.

    Returns:
        For every item the index of the first item of its pack.
    """
    order = np.argsort(-lengths, kind="stable")
    free: list[
        int
    ] = []  # room and number of every pack, in one integer, sorted: the first that is large enough fits best
    owner = [0] * len(order)
    num_packs = 0
    for item, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        at = bisect_left(free, length << _BIN_BITS)
        if at == len(free):
            room, pack = budget, num_packs
            num_packs += 1
        else:
            entry = free.pop(at)
            room, pack = entry >> _BIN_BITS, entry & ((1 << _BIN_BITS) - 1)
        owner[item] = pack
        insort(free, (room - length) << _BIN_BITS | pack)
    packs = np.asarray(owner, np.int64)
    return np.unique(packs, return_index=True)[1][packs]
