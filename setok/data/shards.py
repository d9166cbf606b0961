"""Parquet shards of canonical records: a writer with small row groups, and a reader of any rows in any order.

A training plan asks for rows all over the set, and the least that Parquet can read is a row group. So a row group ends
after ``rows_per_row_group`` records or about ``ROW_GROUP_BYTES`` of data, whichever comes first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from setok.data.schema import ARROW_SCHEMA, Manifest, Record, Shard
from setok.errors import DataError

ROW_GROUP_BYTES = 2**20
"""A row group is closed when its pictures and run lengths reach this size."""
DEFAULT_CACHE_BYTES = 256 * 2**20


class ShardWriter:
    """Writes one shard record by record; as a context manager it leaves no half-written file behind.

    Args:
        path: the shard's file; written under a temporary name and renamed by ``close``.
        rows_per_row_group: most records in a row group.
    """

    def __init__(self, path: Path, *, rows_per_row_group: int) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.partial")
        self._rows_per_row_group = rows_per_row_group
        self._pending: list[dict[str, Any]] = []
        self._pending_bytes = 0
        self._num_rows = 0
        self._writer: pq.ParquetWriter | None = pq.ParquetWriter(
            self._temporary, ARROW_SCHEMA, compression="zstd", use_dictionary=["source"], write_statistics=False
        )

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
            self._temporary.unlink(missing_ok=True)

    def add(self, record: Record) -> None:
        """Append a record."""
        self._pending.append(record.to_row())
        self._pending_bytes += sum(len(image.data) for image in record.images)
        self._pending_bytes += sum(4 * len(segment.counts) for segment in record.segments)
        if len(self._pending) >= self._rows_per_row_group or self._pending_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> Shard | None:
        """Put the file in its place; ``None``, and no file, where nothing was added."""
        self._flush()
        assert self._writer is not None, "closed twice"
        self._writer.close()
        self._writer = None
        if not self._num_rows:
            self._temporary.unlink()
            return None
        self._temporary.replace(self.path)
        return Shard(
            file=self.path.name, rows=self._num_rows, bytes=self.path.stat().st_size, sha256=_sha256(self.path)
        )

    def _flush(self) -> None:
        if self._pending and self._writer is not None:
            self._writer.write_table(pa.Table.from_pylist(self._pending, ARROW_SCHEMA))
            self._num_rows += len(self._pending)
            self._pending, self._pending_bytes = [], 0


def write_shard(path: Path, records: Iterable[Record], *, rows_per_row_group: int = 64) -> Shard | None:
    """Write records as one shard; ``None``, and no file, where there are none."""
    with ShardWriter(path, rows_per_row_group=rows_per_row_group) as writer:
        for record in records:
            writer.add(record)
        return writer.close()


class ShardReader:
    """An ingested data set, read by row number.

    Opening it checks that every shard is there and has the size that the manifest gives; ``verify`` checks contents.

    Args:
        folder: the set.
        cache_bytes: row groups are kept in memory up to this size, the least recently used ones leaving first.
        columns: read only these; ``None`` reads all.

    Raises:
        DataError: no manifest, or a shard is missing or has another size.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        columns: Sequence[str] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.load(folder)
        self.schema = ARROW_SCHEMA if columns is None else pa.schema([ARROW_SCHEMA.field(name) for name in columns])
        for shard in self.manifest.shards:
            self._check(shard)
        self._shard_starts = np.cumsum([0, *(shard.rows for shard in self.manifest.shards)])
        self._files: dict[int, tuple[pq.ParquetFile, Int64[np.ndarray, " groups"]]] = {}
        self._cache: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._cache_bytes, self._cached_bytes = cache_bytes, 0
        self.num_groups_read = 0
        """Row groups read from disk so far."""

    @property
    def num_rows(self) -> int:
        return self.manifest.num_rows

    def verify(self) -> None:
        """Read every shard and compare checksums.

        Raises:
            DataError: a shard differs from what was ingested.
        """
        for shard in self.manifest.shards:
            self._check(shard)
            if _sha256(self.folder / shard.file) != shard.sha256:
                raise DataError(
                    f"{self.folder / shard.file} is damaged: its checksum is not the manifest's", self._remedy
                )

    def take(self, rows: Int64[np.ndarray, " n"]) -> pa.Table:
        """The rows of these numbers, in this order; a number may come again.

        Raises:
            IndexError: a number is not in ``range(num_rows)``.
            DataError: a shard cannot be read.
        """
        rows = np.asarray(rows, np.int64)
        if not len(rows):
            return self.schema.empty_table()
        if rows.min() < 0 or rows.max() >= self.num_rows:
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a set of {self.num_rows}")
        shard_of = np.searchsorted(self._shard_starts, rows, side="right") - 1
        group_of, offset = np.empty_like(rows), np.empty_like(rows)
        for shard in np.unique(shard_of):
            own = shard_of == shard
            starts = self._open(int(shard))[1]
            local = rows[own] - self._shard_starts[shard]
            group_of[own] = np.searchsorted(starts, local, side="right") - 1
            offset[own] = local - starts[group_of[own]]
        order = np.lexsort((group_of, shard_of))
        keys = np.stack([shard_of[order], group_of[order]], axis=1)
        cuts = np.flatnonzero((keys[1:] != keys[:-1]).any(axis=1)) + 1
        parts = [
            self._group(int(shard_of[part[0]]), int(group_of[part[0]])).take(pa.array(offset[part]))
            for part in np.split(order, cuts)
        ]
        return pa.concat_tables(parts).take(pa.array(np.argsort(order)))

    @property
    def _remedy(self) -> str:
        return f"copy {self.folder} again from where it was made, or remove the folder and ingest it again"

    def _check(self, shard: Shard) -> None:
        path = self.folder / shard.file
        if not path.is_file():
            raise DataError(f"{path} is missing, {self.folder}/manifest.json names it", self._remedy)
        size = path.stat().st_size
        if size != shard.bytes:
            state = "truncated" if size < shard.bytes else "not the file that was ingested"
            raise DataError(f"{path} is {state}: it has {size} bytes of {shard.bytes}", self._remedy)

    def _open(self, shard: int) -> tuple[pq.ParquetFile, Int64[np.ndarray, " groups"]]:
        """A shard's file and the first row of each of its row groups."""
        if shard not in self._files:
            path = self.folder / self.manifest.shards[shard].file
            try:
                file = pq.ParquetFile(path, memory_map=True)
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{path} cannot be read: {error}", self._remedy) from error
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            self._files[shard] = file, np.cumsum([0, *sizes[:-1]])
        return self._files[shard]

    def _group(self, shard: int, group: int) -> pa.Table:
        """A row group, from the cache or from disk."""
        key = (shard, group)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        try:
            table = self._open(shard)[0].read_row_group(group, columns=self.schema.names)
        except (OSError, pa.ArrowException) as error:
            path = self.folder / self.manifest.shards[shard].file
            raise DataError(f"{path}, row group {group} cannot be read: {error}", self._remedy) from error
        self.num_groups_read += 1
        self._cache[key] = table
        self._cached_bytes += table.nbytes
        while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return table


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
