"""How many tokens every row of a stored set takes up: measured once, and kept beside the set.

The plan of packed sequences needs the lengths of all samples before it reads any. They depend on more than the set (the
tokenizer, the chat template, places for pictures), which the caller's ``key`` stands for.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Int32

from setok.data.schema import Manifest, Record
from setok.data.shards import read_bare_records
from setok.data.storage import Storage
from setok.errors import DataError


def lengths_file(folder: str | Path, key: str) -> str:
    """Name of the file in a set's folder that keeps the lengths measured under ``key`` (any text)."""
    manifest = Manifest.load(folder)
    digest = hashlib.sha256(f"{manifest.fingerprint} {key}".encode()).hexdigest()[:16]
    return f"lengths-{digest}.npy"


def stored_lengths(folder: str | Path, key: str) -> Int32[np.ndarray, " rows"] | None:
    """The lengths of a set, if they were measured under this key; ``None`` also where the file is damaged."""
    data = Storage(folder).read(lengths_file(folder, key))
    if data is None:
        return None
    try:
        lengths = np.load(io.BytesIO(data), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return lengths if lengths.dtype == np.int32 and lengths.shape == (Manifest.load(folder).num_rows,) else None


def store_lengths(folder: str | Path, key: str, lengths: Int32[np.ndarray, " rows"]) -> str:
    """Keep lengths beside their set, and give the file's name.

    Raises:
        DataError: there is not one length for each row.
    """
    rows = Manifest.load(folder).num_rows
    if len(lengths) != rows:
        raise DataError(f"{len(lengths)} lengths for the {rows} rows of {folder}", "measure every row once, in order")
    data = io.BytesIO()
    np.save(data, lengths)
    file = lengths_file(folder, key)
    Storage(folder).write(file, data.getvalue())
    return file


def measure_shard(folder: str | Path, shard: int, length_of: Callable[[Record], int]) -> Int32[np.ndarray, " rows"]:
    """Lengths of the rows of one shard, in order.

    Pictures and run lengths are not read: the records have as many pictures and masks as they have, without contents.
    A record for which ``length_of`` raises DataError has length 1, that of what will stand in for it.

    Raises:
        DataError: the shard cannot be read.
    """
    file = Manifest.load(folder).shards[shard].file
    try:
        records = read_bare_records(Storage(folder), file)
        lengths = [_length(record, length_of) for record in records]
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{folder}/{file} cannot be read: {error}", "copy the set again, or ingest it again") from error
    return np.asarray(lengths, np.int32)


def measured_lengths(
    folder: str | Path,
    key: str,
    length_of: Callable[[Record], int],
    *,
    run: Callable[[Callable[[int], np.ndarray], range], Iterable[np.ndarray]] = map,
) -> Int32[np.ndarray, " rows"]:
    """The lengths of a set: those that are stored, or else measured and stored.

    Args:
        folder: the set.
        key: stands for all that ``length_of`` depends on.
        length_of: tokens of a record, at least 1; called with records as ``measure_shard`` reads them.
        run: applies a function to the numbers of the shards and gives the results in order; a parallel ``map`` is fine.

    Raises:
        DataError: the set is missing, or a shard cannot be read.
    """
    found = stored_lengths(folder, key)
    if found is not None:
        return found
    shards = range(len(Manifest.load(folder).shards))
    lengths = np.concatenate(list(run(lambda shard: measure_shard(folder, shard, length_of), shards)))
    store_lengths(folder, key, lengths)
    return lengths


def _length(record: Record, length_of: Callable[[Record], int]) -> int:
    try:
        return length_of(record)
    except DataError:
        return 1
