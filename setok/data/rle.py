"""Run-length encoding of masks as COCO has it: column-major, the first run is background (and may be 0).

The compressed string form is that of ``rleToString``/``rleFrString`` in cocoapi's ``maskApi.c`` (Lin et al. 2014):
counts as signed base-32 digits, from the fourth on as the difference to the count two before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from setok.errors import DataError

MAX_PIXELS = 2**27
"""Of a mask: as many as a picture may have."""


def encode(mask: Bool[np.ndarray, "height width"]) -> list[int]:
    """Run lengths of a mask; they sum to height × width."""
    return encode_map(mask.astype(np.int64), [1])[0]


def encode_map(labels: Int[np.ndarray, "height width"], values: Sequence[int]) -> list[list[int]]:
    """Run lengths of ``labels == value`` for every value, in one pass over the map."""
    flat = labels.ravel(order="F")
    if not flat.size:
        return [[0] for _ in values]
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], flat.size)
    owners = flat[starts]
    coded = []
    for value in values:
        own = owners == value
        edges = np.stack([starts[own], ends[own]], axis=1).ravel()
        counts = np.diff(edges, prepend=0)
        if not len(edges) or edges[-1] < flat.size:
            counts = np.append(counts, flat.size - (edges[-1] if len(edges) else 0))
        coded.append(counts.tolist())
    return coded


def decode(counts: Sequence[int], height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """The mask of run lengths.

    Raises:
        DataError: a run is negative, the runs do not sum to height × width, or those are more than any picture has.
    """
    if height * width > MAX_PIXELS:
        raise DataError(f"broken mask: {height} × {width} pixels are more than {MAX_PIXELS:,}")
    runs = np.asarray(counts, np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise DataError(
            f"broken mask: runs sum to {runs.sum()}, the mask has {height} × {width} = {height * width} pixels"
        )
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def resize(counts: Sequence[int], size: tuple[int, int], new_size: tuple[int, int]) -> list[int]:
    """Run lengths of a mask at another size, each pixel being the nearest one.

    Args:
        counts: run lengths at ``size``.
        size: height and width.
        new_size: the same of the result.

    Raises:
        DataError: as ``decode``.
    """
    mask = decode(counts, *size)
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64) for old, new in zip(size, new_size, strict=True)
    )
    return encode(mask[np.ix_(rows, columns)])


def counts_of(segmentation: Mapping[str, Any]) -> list[int]:
    """Run lengths of a COCO ``{"size": …, "counts": …}``, be the counts a list or a compressed string."""
    counts = segmentation["counts"]
    if isinstance(counts, (str, bytes)):
        return decompress(counts.decode() if isinstance(counts, bytes) else counts)
    return list(counts)


def decompress(text: str) -> list[int]:
    """Run lengths of a compressed COCO string.

    Raises:
        DataError: the string ends in the middle of a number.
    """
    counts: list[int] = []
    value, shift = 0, 0
    for character in text:
        digit = ord(character) - 48
        value |= (digit & 0x1F) << shift
        shift += 5
        if digit & 0x20:
            continue
        if digit & 0x10:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise DataError(f"broken mask: compressed run lengths end in the middle of a number, after {len(counts)} runs")
    return counts
