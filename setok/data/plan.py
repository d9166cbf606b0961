"""The order of samples of a whole run, as a formula of the position.

Position ``p`` counts samples over the run: step ``s`` of a global batch of ``G`` takes positions ``s·G … (s+1)·G − 1``.
Which row stands at a position depends on the seed, the sizes and the weights of the sources alone: there is nothing to
save, to restore or to shuffle, and any number of workers that share a global batch see the same one.

* A source's epoch ``e`` is a permutation of its rows, ``permute(·, n, key(seed, source, e))``
  (setok/data/permutation.py).
* Sources are mixed in windows of ``WINDOW`` positions: source ``s`` has exactly ``k_s`` slots in every window, in an
  order that (seed, window) fixes. So its ``d``-th draw of the run is row
  ``permute(d mod n, n, key(seed, s, d div n))``.
* A source with ``max_samples`` is a source of so many rows: the first ones of one more permutation, the same in every
  epoch. A source with ``max_epochs`` leaves the mixture right after its last draw. There a new *phase* begins, with
  windows of its own, in which the sources that are left share by their weights. Phases are few, and found at the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64, UInt64

from setok.data.permutation import derive_key, permute
from setok.errors import ConfigError, DataError

WINDOW = 16_384
"""Positions in which every source gets exactly its share."""
_WINDOW_STREAM, _ROW_STREAM, _SUBSET_STREAM = 1, 2, 4  # 3 is that of setok/data/augment.py


@dataclass(frozen=True, kw_only=True)
class _Phase:
    """A stretch of positions with one mixture."""

    start: int
    """Its first position."""
    drawn: tuple[int, ...]
    """Draws of every source before it."""
    shares: tuple[int, ...]
    """Slots of every source in a window; they sum to ``WINDOW``."""


class Plan:
    """Which row of which source stands at every position of a run.

    Args:
        seed: of the run.
        num_rows: rows of every source.
        weights: share of the samples that every source gives, in any unit; rounded to 1/16384, and at least that.
        max_samples: for every source, the most of its rows that are used; ``None`` for all. Its share stays.
        max_epochs: for every source, the most passes over those rows; ``None`` for no end. Afterwards its share goes to
            the others.

    Raises:
        DataError: a source has no rows.
        ConfigError: a weight is not positive, a cap is below 1, or there is not one of each for each source.
    """

    def __init__(
        self,
        seed: int,
        num_rows: Sequence[int],
        weights: Sequence[float],
        max_samples: Sequence[int | None] | None = None,
        max_epochs: Sequence[int | None] | None = None,
    ) -> None:
        samples = [None] * len(num_rows) if max_samples is None else max_samples
        epochs = [None] * len(num_rows) if max_epochs is None else max_epochs
        _check_sources(num_rows, weights, samples, epochs)
        self.seed = seed
        self.stored_rows = tuple(num_rows)
        """Rows of every source."""
        self.num_rows = tuple(
            rows if most is None else min(rows, most) for rows, most in zip(num_rows, samples, strict=True)
        )
        """Rows of every source that are used."""
        self._caps = [None if most is None else most * rows for most, rows in zip(epochs, self.num_rows, strict=True)]
        self._phases, self.length = self._find_phases(weights)
        self.shares = self._phases[0].shares
        """Slots of every source in a window, as long as all sources are there; they sum to ``WINDOW``."""
        self._starts = np.array([phase.start for phase in self._phases])

    length: int | None
    """Positions that the plan has; ``None`` where some source has no ``max_epochs``: it goes on for ever."""

    def samples(
        self, start: int, stop: int
    ) -> tuple[Int32[np.ndarray, " n"], Int64[np.ndarray, " n"], Int32[np.ndarray, " n"]]:
        """Source, row and epoch (of that source) at positions ``start`` to ``stop`` − 1."""
        return self.samples_at(np.arange(start, stop, dtype=np.int64))

    def samples_at(
        self, positions: Int64[np.ndarray, " n"]
    ) -> tuple[Int32[np.ndarray, " n"], Int64[np.ndarray, " n"], Int32[np.ndarray, " n"]]:
        """Source, row and epoch at any positions, in any order.

        Raises:
            DataError: a position lies past the end of the plan.
        """
        if self.length is not None and len(positions) and positions.max() >= self.length:
            raise DataError(
                f"position {positions.max()} of a plan of {self.length} samples: every source has reached its max_epochs",
                "use fewer steps, or raise max_epochs of a source",
            )
        source, draw = self._draws(positions)
        row = np.zeros(len(positions), np.int64)
        epoch = np.zeros(len(positions), np.int32)
        for index, rows in enumerate(self.num_rows):
            own = np.flatnonzero(source == index)
            turn, offset = np.divmod(draw[own].astype(np.uint64), np.uint64(rows))
            chosen = permute(offset, rows, derive_key(self.seed, _ROW_STREAM, index, turn))
            if rows < self.stored_rows[index]:
                chosen = permute(chosen, self.stored_rows[index], derive_key(self.seed, _SUBSET_STREAM, index))
            row[own] = chosen
            epoch[own] = turn
        return source, row, epoch

    def _draws(self, positions: Int64[np.ndarray, " n"]) -> tuple[Int32[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Source at every position, and how many samples of it came before."""
        if len(self._phases) == 1:
            return self._draws_within(0, positions)
        source, draw = np.zeros(len(positions), np.int32), np.zeros(len(positions), np.int64)
        number = np.searchsorted(self._starts, positions, side="right") - 1
        for phase in np.unique(number):
            own = number == phase
            source[own], draw[own] = self._draws_within(int(phase), positions[own] - self._starts[phase])
        return source, draw

    def _draws_within(
        self, number: int, offset: Int64[np.ndarray, " n"]
    ) -> tuple[Int32[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """The same at positions that are counted from the start of a phase."""
        phase = self._phases[number]
        if max(phase.shares) == WINDOW:
            only = phase.shares.index(WINDOW)
            return np.full(len(offset), only, np.int32), phase.drawn[only] + offset
        window, slot = np.divmod(offset, WINDOW)
        windows, which = np.unique(window, return_inverse=True)
        labels, ranks = self._windows(number, phase.shares, windows.astype(np.uint64))
        source, rank = labels[which, slot], ranks[which, slot]
        return source, np.asarray(phase.drawn)[source] + window * np.asarray(phase.shares)[source] + rank

    def _windows(
        self, number: int, shares: tuple[int, ...], windows: UInt64[np.ndarray, " windows"]
    ) -> tuple[Int32[np.ndarray, "windows slots"], Int64[np.ndarray, "windows slots"]]:
        """Source of every slot of some windows of a phase, and the slot's rank among those of its source."""
        key = derive_key(self.seed, _WINDOW_STREAM, windows)
        keys = np.repeat(key if not number else derive_key(self.seed, _WINDOW_STREAM, windows, number), WINDOW)
        order = permute(np.tile(np.arange(WINDOW, dtype=np.uint64), len(windows)), WINDOW, keys)
        by_slot = np.repeat(np.arange(len(shares), dtype=np.int32), shares)
        labels = by_slot[order].reshape(len(windows), WINDOW)
        starts = np.cumsum([0, *shares[:-1]])
        grouped = np.argsort(labels, axis=1, kind="stable")
        ranks = np.empty_like(grouped)
        np.put_along_axis(ranks, grouped, np.arange(WINDOW) - np.repeat(starts, shares), axis=1)
        return labels, ranks

    def _find_phases(self, weights: Sequence[float]) -> tuple[list[_Phase], int | None]:
        """The phases, and the position after the last one if there is an end."""
        phases: list[_Phase] = []
        start, drawn = 0, [0] * len(weights)
        while True:
            left = [index for index, cap in enumerate(self._caps) if cap is None or drawn[index] < cap]
            if not left:
                return phases, start
            shares = [0] * len(weights)
            for index, share in zip(left, _quantise([weights[index] for index in left]), strict=True):
                shares[index] = share
            phase = _Phase(start=start, drawn=tuple(drawn), shares=tuple(shares))
            phases.append(phase)
            capped = [index for index in left if self._caps[index] is not None]
            if not capped:
                return phases, None
            length, drawn = self._phase_end(len(phases) - 1, phase, capped)
            start += length

    def _phase_end(self, number: int, phase: _Phase, capped: list[int]) -> tuple[int, list[int]]:
        """Length of a phase, which ends with the last draw of a capped source, and all sources' draws until then."""
        last = {index: (self._caps[index] or 0) - phase.drawn[index] - 1 for index in capped}
        window = min(draw // phase.shares[index] for index, draw in last.items())
        labels, ranks = self._windows(number, phase.shares, np.array([window], np.uint64))
        slot = min(
            int(np.flatnonzero((labels[0] == index) & (ranks[0] == draw % phase.shares[index]))[0])
            for index, draw in last.items()
            if draw // phase.shares[index] == window
        )
        within = np.bincount(labels[0, : slot + 1], minlength=len(phase.shares)).tolist()
        drawn = [
            before + window * share + more
            for before, share, more in zip(phase.drawn, phase.shares, within, strict=True)
        ]
        return window * WINDOW + slot + 1, drawn


def _check_sources(
    num_rows: Sequence[int],
    weights: Sequence[float],
    max_samples: Sequence[int | None],
    max_epochs: Sequence[int | None],
) -> None:
    if not num_rows or not len(num_rows) == len(weights) == len(max_samples) == len(max_epochs):
        raise ConfigError(
            f"{len(num_rows)} sources have {len(weights)} weights, {len(max_samples)} max_samples and {len(max_epochs)}"
            " max_epochs",
            "give every source one of each, and at least one source",
        )
    for source, (rows, weight) in enumerate(zip(num_rows, weights, strict=True)):
        if rows < 1:
            raise DataError(f"source {source} of the mixture has {rows} rows", "ingest it again, or leave it out")
        if not weight > 0 or not np.isfinite(weight):
            raise ConfigError(f"source {source} of the mixture has weight {weight}", "weights are above 0")
        for name, caps in (("max_samples", max_samples), ("max_epochs", max_epochs)):
            cap = caps[source]
            if cap is not None and cap < 1:
                raise ConfigError(f"source {source} of the mixture has {name} {cap}", "use 1 or more, or leave it out")


def _quantise(weights: Sequence[float]) -> tuple[int, ...]:
    """Integer shares of a window by largest remainders, each at least 1."""
    if len(weights) > WINDOW:
        raise ConfigError(
            f"a mixture of {len(weights)} sources, {WINDOW} are possible", "ingest several sources into one set"
        )
    exact = np.asarray(weights, np.float64) / np.sum(weights) * WINDOW
    shares = np.maximum(1, np.floor(exact)).astype(np.int64)
    missing = WINDOW - int(shares.sum())
    if missing > 0:
        shares[np.argsort(-(exact - shares), kind="stable")[:missing]] += 1
    for _ in range(-missing):  # sources that were raised to 1 take their slots from the largest one
        shares[np.argmax(shares)] -= 1
    return tuple(int(share) for share in shares)


# ---------------------------------------------------------------- blocks


def num_blocks(*, start_step: int, stop_step: int, steps_per_block: int, num_workers: int) -> int:
    """Blocks that carry the steps from ``start_step`` to ``stop_step`` − 1."""
    return -(-max(0, stop_step - start_step) // steps_per_block) * num_workers


def rank_slots(
    rank: int, *, num_workers: int, global_batch_size: int, micro_batch_size: int
) -> Int64[np.ndarray, " slots"]:
    """Which samples of a global batch a rank takes, in the order of its micro-batches; -1 for padding.

    A global batch is always cut into the same micro-batches, whatever the number of workers: the ``m``-th one has samples
    ``m·M … (m+1)·M − 1``, and the last one perhaps fewer. Ranks take successive ones, and equally many of them: where they do
    not come out even, later ranks have a last micro-batch that is all padding.

    Raises:
        ConfigError: there are fewer micro-batches than workers.
    """
    micro_batches = -(-global_batch_size // micro_batch_size)
    if micro_batches < num_workers:
        raise ConfigError(
            f"a global batch of {global_batch_size} in micro-batches of {micro_batch_size} has nothing for some of"
            f" {num_workers} workers",
            f"use at most {micro_batches} workers, or smaller micro-batches",
        )
    first, last = (-(-micro_batches * number // num_workers) for number in (rank, rank + 1))
    most = -(-micro_batches // num_workers)
    slots = first * micro_batch_size + np.arange(most * micro_batch_size, dtype=np.int64)
    return np.where(slots < min(last * micro_batch_size, global_batch_size), slots, -1)


def positions_of(
    steps: Int64[np.ndarray, " steps"], slots: Int64[np.ndarray, " slots"], *, global_batch_size: int
) -> Int64[np.ndarray, "steps slots"]:
    """Positions of the slots in every step; padding of step ``s`` has the position ``-1 − s``."""
    column = steps[:, None]
    return np.where(slots < 0, -1 - column, column * global_batch_size + slots)


def step_of(positions: Int64[np.ndarray, " n"], *, global_batch_size: int) -> Int64[np.ndarray, " n"]:
    """The step that positions belong to, those of padding too."""
    return np.where(positions < 0, -1 - positions, positions // global_batch_size)


def block_positions(
    block_index: int,
    *,
    start_step: int,
    stop_step: int | None = None,
    steps_per_block: int,
    num_workers: int,
    global_batch_size: int,
    micro_batch_size: int = 1,
) -> Int64[np.ndarray, " positions"]:
    """Positions that a block carries, step by step.

    Ray hands block ``b`` of an ordered stream to rank ``b mod num_workers`` as long as blocks have equal numbers of
    rows. So block ``b`` holds, of ``steps_per_block`` successive steps, the part of rank ``b mod num_workers`` of every
    global batch, with its padding. The last block of every rank is shorter where ``stop_step`` ends it.

    Raises:
        ConfigError: the global batch has nothing for some of the workers.
    """
    group, rank = divmod(block_index, num_workers)
    slots = rank_slots(
        rank, num_workers=num_workers, global_batch_size=global_batch_size, micro_batch_size=micro_batch_size
    )
    first = start_step + group * steps_per_block
    last = first + steps_per_block if stop_step is None else min(first + steps_per_block, stop_step)
    steps = np.arange(first, last, dtype=np.int64)
    return positions_of(steps, slots, global_batch_size=global_batch_size).ravel()
