"""Keys and permutations as formulas: random access to a shuffled range, without a table.

A permutation is a Feistel network over the smallest even power of two ≥ n with cycle walking (Black & Rogaway, *Ciphers
with Arbitrary Finite Domains*, CT-RSA 2002), the round function being the finaliser of SplitMix64 (Steele, Lea & Flood,
*Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt64

_ROUNDS = 8
_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


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
