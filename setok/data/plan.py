"""The order of samples of a whole run, as a formula of the position.

Position ``p`` counts samples over the run: step ``s`` of a global batch of ``G`` takes positions ``s·G … (s+1)·G − 1``.
Which row stands at a position depends on the seed, the sizes and the weights of the sources alone: there is nothing to
save, to restore or to shuffle, and any number of workers that share a global batch see the same one.

* A source's epoch ``e`` is a permutation of its rows, ``permute(·, n, key(seed, source, e))``: a Feistel network over
  the smallest even power of two ≥ n with cycle walking (Black & Rogaway, *Ciphers with Arbitrary Finite Domains*,
  CT-RSA 2002), the round function being the finaliser of SplitMix64 (Steele, Lea & Flood, *Fast Splittable
  Pseudorandom Number Generators*, OOPSLA 2014).
* Sources are mixed in windows of ``WINDOW`` positions: source ``s`` has exactly ``k_s`` slots in every window, in an
  order that (seed, window) fixes. So its ``d``-th draw of the run is row
  ``permute(d mod n, n, key(seed, s, d div n))``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, Int64, UInt64

from setok.errors import ConfigError, DataError

WINDOW = 16_384
"""Positions in which every source gets exactly its share."""
_ROUNDS = 8
_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_WINDOW_STREAM, _ROW_STREAM = 1, 2


def splitmix64(state: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """The finaliser of SplitMix64: a bijection of 64-bit words whose output looks random."""
    mixed = state + np.uint64(_GOLDEN)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def derive_key(seed: int, *words: int | UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """A 64-bit key from a seed and numbers that tell its uses apart; arrays give arrays."""
    key = splitmix64(np.asarray([seed & _MASK], np.uint64))
    for word in words:
        key = splitmix64(key ^ np.asarray(word, np.uint64))
    return key


def permute(index: UInt64[np.ndarray, " n"], size: int, key: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, " n"]:
    """A bijection of ``range(size)`` for every key, applied to each index.

    Args:
        index: numbers below ``size``.
        size: at least 1.
        key: one key for all indices, or one for each.
    """
    if size == 1:
        return np.zeros_like(index)
    half = np.uint64(max(2, ((size - 1).bit_length() + 1) // 2))
    keys = np.broadcast_to(key, index.shape)
    out = _feistel(index, half, keys)
    outside = np.flatnonzero(out >= size)
    while len(outside):  # the walk stays on its cycle, which leads back inside: the map stays a bijection
        out[outside] = _feistel(out[outside], half, keys[outside])
        outside = outside[out[outside] >= size]
    return out


def _feistel(
    block: UInt64[np.ndarray, " n"], half: np.uint64, key: UInt64[np.ndarray, " n"]
) -> UInt64[np.ndarray, " n"]:
    """A bijection of the words of ``2·half`` bits."""
    low = (np.uint64(1) << half) - np.uint64(1)
    left, right = block >> half, block & low
    for number in range(_ROUNDS):
        mixed = splitmix64((key + np.uint64(number * _GOLDEN & _MASK)) ^ right)
        left, right = right, left ^ (mixed & low)
    return (left << half) | right


class Plan:
    """Which row of which source stands at every position of a run.

    Args:
        seed: of the run.
        num_rows: rows of every source.
        weights: share of the samples that every source gives, in any unit; rounded to 1/16384, and at least that.

    Raises:
        DataError: a source has no rows.
        ConfigError: a weight is not positive, or there is not one weight for each source.
    """

    def __init__(self, seed: int, num_rows: Sequence[int], weights: Sequence[float]) -> None:
        if not num_rows or len(num_rows) != len(weights):
            raise ConfigError(
                f"{len(num_rows)} sources have {len(weights)} weights",
                "give every source one weight, and at least one source",
            )
        for source, (rows, weight) in enumerate(zip(num_rows, weights, strict=True)):
            if rows < 1:
                raise DataError(f"source {source} of the mixture has {rows} rows", "ingest it again, or leave it out")
            if not weight > 0 or not np.isfinite(weight):
                raise ConfigError(f"source {source} of the mixture has weight {weight}", "weights are above 0")
        self.seed = seed
        self.num_rows = tuple(num_rows)
        self.shares = _quantise(weights)
        """Slots of every source in a window; they sum to ``WINDOW``."""

    def samples(
        self, start: int, stop: int
    ) -> tuple[Int32[np.ndarray, " n"], Int64[np.ndarray, " n"], Int32[np.ndarray, " n"]]:
        """Source, row and epoch (of that source) at positions ``start`` to ``stop`` − 1."""
        return self.samples_at(np.arange(start, stop, dtype=np.int64))

    def samples_at(
        self, positions: Int64[np.ndarray, " n"]
    ) -> tuple[Int32[np.ndarray, " n"], Int64[np.ndarray, " n"], Int32[np.ndarray, " n"]]:
        """Source, row and epoch at any positions, in any order."""
        source, draw = self._draws(positions)
        row = np.zeros(len(positions), np.int64)
        epoch = np.zeros(len(positions), np.int32)
        for index, rows in enumerate(self.num_rows):
            own = np.flatnonzero(source == index)
            turn, offset = np.divmod(draw[own].astype(np.uint64), np.uint64(rows))
            row[own] = permute(offset, rows, derive_key(self.seed, _ROW_STREAM, index, turn))
            epoch[own] = turn
        return source, row, epoch

    def _draws(self, positions: Int64[np.ndarray, " n"]) -> tuple[Int32[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Source at every position, and how many samples of it came before."""
        if len(self.shares) == 1:
            return np.zeros(len(positions), np.int32), positions
        window, slot = np.divmod(positions, WINDOW)
        windows, which = np.unique(window, return_inverse=True)
        labels, ranks = self._windows(windows.astype(np.uint64))
        source, rank = labels[which, slot], ranks[which, slot]
        return source, window * np.asarray(self.shares)[source] + rank

    def _windows(
        self, windows: UInt64[np.ndarray, " windows"]
    ) -> tuple[Int32[np.ndarray, "windows slots"], Int64[np.ndarray, "windows slots"]]:
        """Source of every slot of some windows, and the slot's rank among those of its source."""
        keys = np.repeat(derive_key(self.seed, _WINDOW_STREAM, windows), WINDOW)
        order = permute(np.tile(np.arange(WINDOW, dtype=np.uint64), len(windows)), WINDOW, keys)
        by_slot = np.repeat(np.arange(len(self.shares), dtype=np.int32), self.shares)
        labels = by_slot[order].reshape(len(windows), WINDOW)
        starts = np.cumsum([0, *self.shares[:-1]])
        grouped = np.argsort(labels, axis=1, kind="stable")
        ranks = np.empty_like(grouped)
        np.put_along_axis(ranks, grouped, np.arange(WINDOW) - np.repeat(starts, self.shares), axis=1)
        return labels, ranks


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


def block_positions(
    block_index: int,
    *,
    start_step: int,
    stop_step: int | None = None,
    steps_per_block: int,
    num_workers: int,
    global_batch_size: int,
) -> Int64[np.ndarray, " positions"]:
    """Positions that a block carries, step by step.

    Ray hands block ``b`` of an ordered stream to rank ``b mod num_workers`` as long as blocks have equal numbers of
    rows. So block ``b`` holds, of ``steps_per_block`` successive steps, the ``b mod num_workers``-th contiguous part of
    every global batch. The last block of every rank is shorter where ``stop_step`` ends it.

    Raises:
        ConfigError: the global batch does not divide among the workers.
    """
    if global_batch_size % num_workers:
        raise ConfigError(
            f"a global batch of {global_batch_size} does not divide among {num_workers} workers",
            f"use a multiple of {num_workers}",
        )
    group, rank = divmod(block_index, num_workers)
    share = global_batch_size // num_workers
    first = start_step + group * steps_per_block
    last = first + steps_per_block if stop_step is None else min(first + steps_per_block, stop_step)
    steps = np.arange(first, last, dtype=np.int64)
    within = rank * share + np.arange(share, dtype=np.int64)
    return (steps[:, None] * global_batch_size + within).ravel()
