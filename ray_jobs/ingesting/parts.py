"""One part of an ingest: a range of one source's records becomes a shard, whichever process does it and whenever.

What a part holds follows from the settings and the source alone, so shards do not depend on how many processes there are.
A finished part leaves an entry in the journal; a part whose entry and files are in order is not made again.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence

from ray_jobs.ingesting.duplicates import record_key
from ray_jobs.ingesting.journal import Content, Entry, Part, finished_entry, folders_of, read_entry, write_entry
from setok.config import IngestConfig, SourceConfig
from setok.data.concepts import PhraseFinder, phrases_found_by
from setok.data.images import configure_opencv
from setok.data.noun_chunks import spacy_phrases
from setok.data.prepare import Preparer
from setok.data.schema import FORMAT_VERSION, Record
from setok.data.shards import ShardWriter, read_records, stored_bytes
from setok.data.sources import BadRecord, Source, open_source
from setok.data.storage import Storage
from setok.errors import DataError

MEGABYTE = 2**20
_LEAST_SHARD_BYTES = 8 * MEGABYTE
_LEAST_SHARDS = 16
"""A source is cut in at least so many shards, unless they would be smaller than the size above."""
_MOST_OVER_TARGET = 2
_SAMPLE_RUNS, _RUN_LENGTH = 4, 8
_UNKNOWN_BYTES = 100_000
_NO_CONTENT = frozenset(
    {"name", "output_dir", "output", "seed", "max_bad_fraction", "sources", "duplicates", "target_shard_mb"}
)
"""Settings that do not decide what one part holds; the source is told apart."""


def plan_parts(config: IngestConfig, sources: Sequence[Source]) -> list[Part]:
    """All parts in the order of the sources."""
    settings = config.model_dump(mode="json", exclude=set(_NO_CONTENT))
    parts: list[Part] = []
    for source_config, source in zip(config.sources, sources, strict=True):
        state = [FORMAT_VERSION, settings, source_config.model_dump(mode="json"), source.fingerprint()]
        rows = config.rows_per_shard or _rows_for_target(config, source)
        for start in range(0, len(source), rows):
            stop = min(start + rows, len(source))
            digest = hashlib.sha256(json.dumps([*state, start, stop], sort_keys=True).encode()).hexdigest()[:32]
            parts.append(Part(index=len(parts), source=source_config, start=start, stop=stop, digest=digest))
    return parts


def _rows_for_target(config: IngestConfig, source: Source) -> int:
    """Records of a shard, judged by a sample of the source: equal for all its shards, the last one being no sliver."""
    record_bytes = _bytes_per_record(config, source)
    total = record_bytes * len(source)
    wanted = min(config.target_shard_mb * MEGABYTE, max(total / _LEAST_SHARDS, _LEAST_SHARD_BYTES))
    num_shards = max(1, round(total / wanted))
    return -(-len(source) // num_shards)


def _bytes_per_record(config: IngestConfig, source: Source) -> float:
    """Mean size of a stored record over a few runs of neighbours, who may share a picture."""
    preparer = Preparer(config)
    length = min(_RUN_LENGTH, len(source))
    starts = {run * (len(source) - length) // max(1, _SAMPLE_RUNS - 1) for run in range(_SAMPLE_RUNS)}
    sizes, count = 0, 0
    for start in sorted(starts):
        prepared = [preparer.prepare(item) for item in source.records(start, start + length)]
        good = [record for record in prepared if isinstance(record, Record)]
        if good:
            sizes, count = sizes + stored_bytes(good), count + len(good)
    return sizes / count if count else _UNKNOWN_BYTES


def is_held_out(record: Record, fraction: float) -> bool:
    """Whether a record belongs to the held-out share: its first picture decides, so that no picture is on both sides.

    Without pictures its id does.
    """
    key = record.images[0].data if record.images else record.id.encode()
    digest = hashlib.sha256(key).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


# ---------------------------------------------------------------- the work


@functools.lru_cache(maxsize=2)
def _cached_source(config_json: str, concepts: str) -> Source:
    """A source opened once in a worker process, because it may parse large annotation files.

    ``concepts`` is only here to open another one where captions are to be read in another way.
    """
    return open_source(SourceConfig.model_validate_json(config_json))


def phrase_finder(config: IngestConfig) -> PhraseFinder | None:
    """What finds noun phrases; ``None`` stands for our rules.

    Raises:
        ConfigError: spaCy or its pipeline is not there.
    """
    return spacy_phrases(config.concepts_model) if config.concepts == "spacy" else None


def prepared_records(config: IngestConfig, source: SourceConfig, start: int, stop: int) -> Iterator[Record | BadRecord]:
    """Records ``start`` to ``stop`` − 1 of a source as they are stored."""
    preparer, finder = Preparer(config), phrase_finder(config)
    items = _cached_source(source.model_dump_json(), f"{config.concepts} {config.concepts_model}").records(start, stop)
    while True:
        with phrases_found_by(finder):  # not around the yield: what our caller does between two records is its own
            item = next(items, None)
        if item is None:
            return
        yield preparer.prepare(item)


def ingest_part(part: Part, config: IngestConfig) -> tuple[Entry, bool]:
    """Make a part, unless it is there.

    Returns:
        Its entry in the journal, and whether it was there.
    """
    done = finished_entry(config, part.index, part.digest)
    if done is not None:
        return done, True
    configure_opencv(num_threads=1)
    bad, keys, held_out = [], bytearray(), []
    writers = [FolderWriter(storage, f"shard-{part.index:05d}", config) for storage in folders_of(config)]
    try:
        for item in prepared_records(config, part.source, part.start, part.stop):
            if isinstance(item, BadRecord):
                bad.append({"id": item.id, "source": part.source.kind, "reason": item.reason})
                continue
            held = is_held_out(item, config.holdout_fraction)
            if held:
                held_out.append(len(keys) // 16)
            keys += record_key(item)
            writers[held].add(item)
        contents = [writer.close() for writer in writers]
    finally:
        for writer in writers:
            writer.discard()
    entry = Entry(digest=part.digest, contents=contents, bad=bad, keys=bytes(keys), held_out=held_out)
    write_entry(config, part.index, entry)
    return entry, False


def drop_from_part(part: Part, config: IngestConfig, dropped: Sequence[int]) -> tuple[Entry, bool]:
    """Write a part's shards once more without some records.

    Args:
        part: a finished part.
        config: of the ingest.
        dropped: which of its records to leave out, as numbers in the order of the source, ascending.

    Returns:
        The entry of the shards without them, and whether they were there.
    """
    digest = hashlib.sha256(json.dumps([part.digest, *dropped]).encode()).hexdigest()[:32]
    done = finished_entry(config, part.index, digest, unique=True)
    if done is not None:
        return done, True
    whole = read_entry(config, part.index)
    if whole is None:
        raise DataError(f"part {part.index} of the ingest has lost its journal", "start the ingest again")
    gone, held_out = set(dropped), set(whole.held_out)
    contents = []
    for folder, (storage, content) in enumerate(zip(folders_of(config), whole.contents, strict=True)):
        numbers = (number for number in range(whole.num_rows) if (number in held_out) == bool(folder))
        writer = FolderWriter(storage, f"shard-{part.index:05d}-unique", config)
        try:
            for shard in content.shards:
                for record in read_records(storage, shard.file):
                    if next(numbers) not in gone:
                        writer.add(record)
            contents.append(writer.close())
        finally:
            writer.discard()
    entry = Entry(digest=digest, contents=contents)
    write_entry(config, part.index, entry, unique=True)
    return entry, False


class FolderWriter:
    """Writes what one folder gets of a part: one shard, or several where it grows past twice the target."""

    def __init__(self, storage: Storage, stem: str, config: IngestConfig) -> None:
        self._storage, self._stem = storage, stem
        self._rows_per_row_group = config.rows_per_row_group
        fixed = config.rows_per_shard is not None
        self._most_bytes = float("inf") if fixed else _MOST_OVER_TARGET * config.target_shard_mb * MEGABYTE
        self._writer: ShardWriter | None = None
        self._tasks: dict[str, Counter[str]] = {}
        self._content = Content()

    def add(self, record: Record) -> None:
        """Append a record."""
        if self._writer is None:
            number = len(self._content.shards)
            file = f"{self._stem}{f'-{number}' if number else ''}.parquet"
            self._writer = ShardWriter(self._storage, file, rows_per_row_group=self._rows_per_row_group)
        self._writer.add(record)
        self._tasks.setdefault(record.source, Counter())[record.task] += 1
        self._content.num_images += len(record.images)
        self._content.image_bytes += sum(len(image.data) for image in record.images)
        if self._writer.num_bytes >= self._most_bytes:
            self._close_shard()

    def close(self) -> Content:
        """Put the last shard in its place, and say what was written."""
        self._close_shard()
        self._content.tasks = {source: dict(tasks) for source, tasks in self._tasks.items()}
        return self._content

    def discard(self) -> None:
        """Leave no half-written file; does nothing after ``close``."""
        if self._writer is not None:
            self._writer.discard()
            self._writer = None

    def _close_shard(self) -> None:
        if self._writer is not None:
            shard = self._writer.close()
            if shard is not None:
                self._content.shards.append(shard)
            self._writer = None
