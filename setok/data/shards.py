"""Parquet shards of canonical records: a writer with small row groups, and a reader of any rows in any order.

A training plan asks for rows all over the set, and the least that Parquet can read is a row group. So a row group ends
after ``rows_per_row_group`` records or about ``ROW_GROUP_BYTES`` of data, whichever comes first. A picture that several
records of a row group share is stored once: the column of pictures is dictionary-encoded.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from setok.data.schema import ARROW_SCHEMA, Manifest, Record, Shard
from setok.data.storage import OutputFile, Storage
from setok.errors import DataError

ROW_GROUP_BYTES = 2**20
"""A row group is full when its different pictures, its run lengths and its texts reach this size,"""
UNPACKED_BYTES = 4 * ROW_GROUP_BYTES
"""or when its pictures, counted as often as they come, reach this one: that much is unpacked to read one row. A full row
group still takes records with a picture it has, up to twice this size."""
DEFAULT_CACHE_BYTES = 256 * 2**20
_DICTIONARY_BYTES = 2**30
"""Never reached: Parquet would give up the dictionary there, and a row group has a megabyte and one picture at most."""
_PICTURES = "images.list.element.data"
_BARE = [*(n for n in ARROW_SCHEMA.names if n not in ("images", "segments", "masks")), "images.list.element.role"]
_SIZES = ["masks.list.element.height", "masks.list.element.width"]
_BARE_ROWS = 1024


class ShardWriter:
    """Writes one shard record by record; as a context manager it leaves no half-written file behind.

    Args:
        storage: where the set lies.
        file: name of the shard's file; it appears when ``close`` is called.
        rows_per_row_group: most records in a row group.
    """

    def __init__(self, storage: Storage, file: str, *, rows_per_row_group: int) -> None:
        self.file = file
        self._rows_per_row_group = rows_per_row_group
        self._pending: list[dict[str, Any]] = []
        self._pictures: set[bytes] = set()
        self._pending_bytes, self._unpacked_bytes = 0, 0
        self._num_rows = 0
        self._file = storage.create(file)
        self._writer: pq.ParquetWriter | None = _parquet_writer(self._file)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._file.closed:
            self.discard()

    @property
    def num_bytes(self) -> int:
        """Size of the file so far, without the row group that is being filled."""
        return self._file.num_bytes

    def add(self, record: Record) -> None:
        """Append a record."""
        keys = [hashlib.blake2b(image.data, digest_size=16).digest() for image in record.images]
        if self._is_full() and not self._pictures.intersection(keys):
            self._flush()  # here and not earlier, so that the records of one picture stay together
        self._pending.append(record.to_row())
        for key, image in zip(keys, record.images, strict=True):
            self._unpacked_bytes += len(image.data)
            if key not in self._pictures:
                self._pictures.add(key)
                self._pending_bytes += len(image.data)
        runs = sum(4 * len(mask.counts) for mask in (*record.segments, *record.masks))
        self._pending_bytes += runs + sum(len(turn.text) for turn in record.conversation) + len(record.caption)
        if len(self._pending) >= self._rows_per_row_group or self._unpacked_bytes >= 2 * UNPACKED_BYTES:
            self._flush()

    def _is_full(self) -> bool:
        return self._pending_bytes >= ROW_GROUP_BYTES or self._unpacked_bytes >= UNPACKED_BYTES

    def close(self) -> Shard | None:
        """Put the file in its place; ``None``, and no file, where nothing was added."""
        self._flush()
        assert self._writer is not None, "closed twice"
        if not self._num_rows:
            self.discard()
            return None
        self._writer.close()
        self._writer = None
        self._file.commit()
        return Shard(file=self.file, rows=self._num_rows, bytes=self._file.num_bytes, sha256=self._file.sha256())

    def discard(self) -> None:
        """Leave no file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._file.discard()

    def _flush(self) -> None:
        if self._pending and self._writer is not None:
            self._writer.write_table(pa.Table.from_pylist(self._pending, ARROW_SCHEMA))
            self._num_rows += len(self._pending)
            self._pending, self._pictures = [], set()
            self._pending_bytes, self._unpacked_bytes = 0, 0


def _parquet_writer(sink: OutputFile | pa.NativeFile) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        sink,
        ARROW_SCHEMA,
        compression="zstd",
        use_dictionary=["source", "task", _PICTURES],
        dictionary_pagesize_limit=_DICTIONARY_BYTES,
        write_statistics=False,
    )


def stored_bytes(records: Sequence[Record]) -> int:
    """Bytes that records take in a shard as one row group, without the file's footer."""
    sink = pa.BufferOutputStream()
    with _parquet_writer(sink) as writer:
        writer.write_table(pa.Table.from_pylist([record.to_row() for record in records], ARROW_SCHEMA))
    group = pq.ParquetFile(pa.BufferReader(sink.getvalue())).metadata.row_group(0)
    return int(sum(group.column(index).total_compressed_size for index in range(group.num_columns)))


def write_shard(path: Path, records: Iterable[Record], *, rows_per_row_group: int = 64) -> Shard | None:
    """Write records as one shard; ``None``, and no file, where there are none."""
    with ShardWriter(Storage(path.parent), path.name, rows_per_row_group=rows_per_row_group) as writer:
        for record in records:
            writer.add(record)
        return writer.close()


class ShardReader:
    """An ingested data set, read by row number.

    Opening it checks that every shard is there and has the size that the manifest gives; ``verify`` checks contents.

    Args:
        folder: the set: a local folder, whose shards are mapped into memory, or a prefix in an object store.
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
        self.storage = Storage(folder)
        self.folder = self.storage.name
        """The set's address, for people."""
        self.manifest = Manifest.load(folder)
        self.schema = ARROW_SCHEMA if columns is None else pa.schema([ARROW_SCHEMA.field(name) for name in columns])
        self._check_sizes()
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
        self._check_sizes()
        for shard in self.manifest.shards:
            if self.storage.sha256(shard.file) != shard.sha256:
                raise DataError(
                    f"{self.folder}/{shard.file} is damaged: its checksum is not the manifest's", self._remedy
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

    def _check_sizes(self) -> None:
        for problem in size_problems(self.storage, self.manifest.shards).values():
            raise DataError(problem, self._remedy)

    def _open(self, shard: int) -> tuple[pq.ParquetFile, Int64[np.ndarray, " groups"]]:
        """A shard's file and the first row of each of its row groups."""
        if shard not in self._files:
            name = self.manifest.shards[shard].file
            try:
                file = pq.ParquetFile(self.storage.open(name), pre_buffer=self.storage.local is None)
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{self.folder}/{name} cannot be read: {error}", self._remedy) from error
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
            path = f"{self.folder}/{self.manifest.shards[shard].file}"
            raise DataError(f"{path}, row group {group} cannot be read: {error}", self._remedy) from error
        self.num_groups_read += 1
        self._cache[key] = table
        self._cached_bytes += table.nbytes
        while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return table


def size_problems(storage: Storage, shards: Sequence[Shard]) -> dict[str, str]:
    """What is wrong with shards that are missing or have another size than they should, by file."""
    problems = {}
    for shard, size in zip(shards, storage.sizes([shard.file for shard in shards]), strict=True):
        path = f"{storage.name}/{shard.file}"
        if size is None:
            problems[shard.file] = f"{path} is missing, {storage.name}/manifest.json names it"
        elif size != shard.bytes:
            state = "truncated" if size < shard.bytes else "not the file that was ingested"
            problems[shard.file] = f"{path} is {state}: it has {size} bytes of {shard.bytes}"
    return problems


def read_records(storage: Storage, file: str) -> Iterator[Record]:
    """The records of one shard in order, a row group at a time.

    Raises:
        OSError, pa.ArrowException: the file cannot be read.
    """
    shard = pq.ParquetFile(storage.open(file))
    for group in range(shard.num_row_groups):
        for row in shard.read_row_group(group).to_pylist():
            yield Record.from_row(row)


def read_bare_records(storage: Storage, file: str, *, regions: bool = False) -> Iterator[Record]:
    """The records of one shard in order, without what is big: as many pictures and masks as they have, without contents.

    Args:
        regions: read the run lengths of the masks, too.

    Raises:
        OSError, pa.ArrowException: the file cannot be read.
    """
    with storage.open(file) as stream, pq.ParquetFile(stream) as shard:
        for batch in shard.iter_batches(_BARE_ROWS, columns=[*_BARE, *(["masks"] if regions else _SIZES)]):
            for row in batch.to_pylist():
                row["images"] = [{"data": b"", "role": image["role"]} for image in row["images"] or []]
                row["masks"] = [{"counts": [], **mask} for mask in row["masks"] or []]
                yield Record.from_row(row | {"segments": []})
