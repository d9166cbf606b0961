"""Data sets in their official layouts → validated Parquet shards with a manifest.

    python -m ray_jobs.ingest --config ingest

Every picture is decoded once, and stored as the bytes it came in. What cannot be used goes to ``quarantine.jsonl`` with
the reason. The rows come in the order of the sources. Asking again for what is already there does nothing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ray_jobs import launch
from ray_jobs.dataset import data_context, setok_error
from setok.config import IngestConfig, SourceConfig
from setok.data import rle
from setok.data.images import configure_opencv, decode_image
from setok.data.schema import FORMAT_VERSION, MANIFEST, Manifest, Record, Shard
from setok.data.shards import ShardReader, ShardWriter
from setok.data.sources import BadRecord, Source, open_source
from setok.errors import DataError

logger = logging.getLogger(__name__)
QUARANTINE = "quarantine.jsonl"
HELDOUT_SUFFIX = "-heldout"


def main() -> None:
    config = launch.parse(IngestConfig, str(__doc__), dry_run=dry_run)
    manifest = ingest(config)
    launch.console().print(f"{manifest.num_rows} records in {config.output}, {manifest.num_quarantined} in quarantine")


def heldout_folder(config: IngestConfig) -> Path:
    """Where the held-out records go."""
    return Path(f"{config.output.rstrip('/')}{HELDOUT_SUFFIX}")


def ingest(config: IngestConfig) -> Manifest:
    """Ingest, or find that it has been done.

    Returns:
        The manifest of ``config.output``; with ``holdout_fraction`` the set of ``heldout_folder`` is made as well.

    Raises:
        DataError: a source is missing or has no images, no record is left, or more than ``max_bad_fraction`` are bad.
        ConfigError: a source's kind or split does not exist.
    """
    sources = [open_source(source) for source in config.sources]
    for source in sources:
        source.check()
    request = _request(config, sources)
    done = _already_ingested(config, request)
    if done is not None:
        logger.info("%s is up to date: %d records", config.output, done.num_rows)
        return done
    folders = _prepare_folders(config)
    ranges = [
        _Range(index=index, source=source, start=start, stop=min(start + config.rows_per_shard, len(reader)))
        for index, (source, reader, start) in enumerate(
            (source, reader, start)
            for source, reader in zip(config.sources, sources, strict=True)
            for start in range(0, len(reader), config.rows_per_shard)
        )
    ]
    try:
        results = _run(config, ranges, [str(folder.absolute()) for folder in folders])
    except Exception as error:
        ours = setok_error(error)
        if ours is None:
            raise
        raise ours from error
    return _finish(config, results, folders, request)


# ---------------------------------------------------------------- one range of records, in a Ray task


@dataclass(frozen=True, kw_only=True)
class _Range:
    """Records of one source that become one shard (and one held-out shard)."""

    index: int
    source: SourceConfig
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class _Result:
    """What became of a range: a shard for each output folder (if any row went there), and the bad records."""

    index: int
    shards: list[dict[str, Any] | None]
    source_counts: list[dict[str, int]]
    bad: list[dict[str, str]]


@functools.lru_cache(maxsize=4)
def _cached_source(config_json: str) -> Source:
    """A source opened once in a worker process, because it may parse large annotation files."""
    return open_source(SourceConfig.model_validate_json(config_json))


def _ingest_range(part: _Range, config: IngestConfig, folders: list[str]) -> _Result:
    configure_opencv(num_threads=1)
    source = _cached_source(part.source.model_dump_json())
    counts: list[Counter[str]] = [Counter() for _ in folders]
    bad = []
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                ShardWriter(
                    Path(folder) / f"shard-{part.index:05d}.parquet", rows_per_row_group=config.rows_per_row_group
                )
            )
            for folder in folders
        ]
        for item in source.records(part.start, part.stop):
            record = _validated(item, config.max_image_side)
            if isinstance(record, BadRecord):
                bad.append({"id": record.id, "source": part.source.kind, "reason": record.reason})
                continue
            which = int(is_held_out(record.id, config.holdout_fraction))
            writers[which].add(record)
            counts[which][record.source] += 1
        shards = [writer.close() for writer in writers]
    return _Result(
        index=part.index,
        shards=[None if shard is None else asdict(shard) for shard in shards],
        source_counts=[dict(count) for count in counts],
        bad=bad,
    )


def _validated(record: Record | BadRecord, max_image_side: int) -> Record | BadRecord:
    """The record, if all its pictures can be decoded and all its masks fit."""
    if isinstance(record, BadRecord):
        return record
    try:
        for image in record.images:
            decode_image(image.data, max_side=max_image_side)
        for segment in record.segments:
            rle.decode(segment.counts, segment.height, segment.width)
    except DataError as error:
        return BadRecord(id=record.id, reason=error.problem)
    return record


def is_held_out(record_id: str, fraction: float) -> bool:
    """Whether a record belongs to the held-out share; decided by its id alone."""
    digest = hashlib.sha256(record_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


# ---------------------------------------------------------------- the whole


def _run(config: IngestConfig, ranges: list[_Range], folders: list[str]) -> list[_Result]:
    """All ranges in parallel, with a progress line; results in the order of the ranges."""
    import ray.data

    launch.start_ray()

    def work(rows: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
        results = (_ingest_range(ranges[int(index)], config, folders) for index in rows["id"])
        return {"result": [json.dumps(asdict(result)) for result in results]}

    with ray.data.DataContext.current(data_context()):
        dataset = ray.data.range(len(ranges), override_num_blocks=len(ranges)).map_batches(work, batch_size=1)
    results = []
    columns = (TextColumn("ingest {task.fields[name]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=launch.console(), transient=True) as progress:
        task = progress.add_task("ingest", total=sum(part.stop - part.start for part in ranges), name=config.name)
        for row in dataset.iter_rows():
            result = _Result(**json.loads(row["result"]))
            part = ranges[result.index]
            results.append(result)
            progress.advance(task, part.stop - part.start)
    return sorted(results, key=lambda result: result.index)


def _finish(config: IngestConfig, results: list[_Result], folders: list[Path], request: str) -> Manifest:
    """Write the quarantine, judge what is left, and write the manifests, that of ``config.output`` last."""
    bad = [row for result in results for row in result.bad]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in bad)
    (folders[0] / QUARANTINE).write_text(text)
    reasons = Counter(row["reason"].split(":")[0] for row in bad)
    manifests = [
        Manifest(
            shards=[Shard(**shard) for result in results if (shard := result.shards[which]) is not None],
            records_by_source=dict(sum((Counter(result.source_counts[which]) for result in results), Counter())),
            quarantined_by_reason=dict(reasons.most_common()) if which == 0 else {},
            request=request,
        )
        for which in range(len(folders))
    ]
    num_bad, total = len(bad), len(bad) + sum(manifest.num_rows for manifest in manifests)
    most = "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common(3))
    most += f"; and {len(reasons) - 3} more kinds" if len(reasons) > 3 else ""
    where = f"{folders[0] / QUARANTINE} names each one"
    if num_bad == total:
        raise DataError(f"no record of {total} can be used ({most})", where)
    if num_bad > config.max_bad_fraction * total:
        raise DataError(
            f"{num_bad} of {total} records are bad, max_bad_fraction={config.max_bad_fraction:g} allows"
            f" {config.max_bad_fraction:.0%} ({most})",
            f"{where}; mend them, or raise max_bad_fraction",
        )
    for manifest, folder in zip(manifests, folders, strict=True):
        if not manifest.num_rows:
            raise DataError(
                f"holdout_fraction={config.holdout_fraction:g} of {total - num_bad} records leaves none for {folder}",
                "choose a fraction nearer to 0.5, or 0",
            )
    for manifest, folder in reversed(list(zip(manifests, folders, strict=True))):
        manifest.save(folder)
    if num_bad:
        logger.warning("%d of %d records went to quarantine (%s): %s", num_bad, total, most, folders[0] / QUARANTINE)
    return manifests[0]


def _folders(config: IngestConfig) -> list[Path]:
    return [Path(config.output), *([heldout_folder(config)] if config.holdout_fraction else [])]


def _prepare_folders(config: IngestConfig) -> list[Path]:
    """Output folders without what an earlier run left: manifests go first, so a broken run is never taken for a set."""
    folders = _folders(config)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)
        for pattern in ("shard-*.parquet", ".shard-*.partial", QUARANTINE):
            for path in folder.glob(pattern):
                path.unlink()
    return folders


def _request(config: IngestConfig, sources: Iterable[Source]) -> str:
    """Digest of what decides the contents: settings, state of the source files, and the format."""
    asked = config.model_dump(mode="json", exclude={"name", "output_dir", "output", "seed", "max_bad_fraction"})
    state = [source.fingerprint() for source in sources]
    text = json.dumps([FORMAT_VERSION, asked, state], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _already_ingested(config: IngestConfig, request: str) -> Manifest | None:
    """The manifest, if every output folder holds whole what is asked for."""
    manifests = []
    for folder in _folders(config):
        try:
            manifests.append(ShardReader(folder).manifest)
        except DataError:
            return None
    return manifests[0] if all(manifest.request == request for manifest in manifests) else None


def dry_run(config: IngestConfig) -> None:
    """Look at every source, and say what would be ingested."""
    for line in _describe(config):
        launch.console().print(line)


def _describe(config: IngestConfig) -> Iterator[str]:
    total = 0
    for source_config in config.sources:
        source = open_source(source_config)
        source.check()
        total += len(source)
        yield f"{source_config.kind} {source_config.path} ({source_config.split}): {len(source)} images"
    shards = -(-total // config.rows_per_shard)
    yield f"→ {', '.join(map(str, _folders(config)))}: up to {total} records in about {shards} shards"


if __name__ == "__main__":
    launch.run(main)
