"""The end of an ingest: quarantine, judgement, manifests."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence

from ray_jobs.ingesting.journal import JOURNAL, Content, Part, folders_of, read_entry
from setok.config import IngestConfig
from setok.data.schema import Manifest
from setok.data.storage import Storage
from setok.errors import DataError

logger = logging.getLogger(__name__)
QUARANTINE = "quarantine.jsonl"


def finish(config: IngestConfig, parts: Sequence[Part], dropped: dict[int, list[int]], request: str) -> Manifest:
    """Write the quarantine, judge what is left, and write the manifests, that of ``config.output`` last."""
    folders = folders_of(config)
    reasons = write_quarantine(config, len(parts))
    contents: list[list[Content]] = [[] for _ in folders]
    for part in parts:
        entry = read_entry(config, part.index, unique=config.duplicates == "drop" and part.index in dropped)
        if entry is None:
            raise DataError(f"part {part.index} of the ingest has lost its journal", "start the ingest again")
        for own, content in zip(contents, entry.contents, strict=True):
            own.append(content)
    repeats: Counter[str] = Counter()
    for index, numbers in dropped.items():
        repeats[parts[index].source.kind] += len(numbers)
    manifests = [
        _manifest(own, reasons if which == 0 else Counter(), repeats if which == 0 else Counter(), config, request)
        for which, own in enumerate(contents)
    ]
    num_good = sum(manifest.num_rows for manifest in manifests)
    num_bad = sum(reasons.values())
    judge(config, reasons, num_bad + num_good + (sum(repeats.values()) if config.duplicates == "drop" else 0))
    for manifest, folder in zip(manifests, folders, strict=True):
        if not manifest.num_rows:
            raise DataError(
                f"holdout_fraction={config.holdout_fraction:g} of {num_good} records leaves none for {folder.name}",
                "choose a fraction nearer to 0.5, or 0",
            )
    _say_what_was_lost(config, parts, Counter(source for own in contents for c in own for source in c.tasks))
    for manifest, folder in reversed(list(zip(manifests, folders, strict=True))):
        manifest.save(folder.address)
    for manifest, folder in zip(manifests, folders, strict=True):
        remove_leftovers(folder, manifest)
    if num_bad:
        where = f"{folders[0].name}/{QUARANTINE}"
        logger.warning(
            "%d of %d records went to quarantine (%s): %s", num_bad, num_bad + num_good, _most(reasons), where
        )
    return manifests[0]


def _say_what_was_lost(config: IngestConfig, parts: Sequence[Part], kept: Counter[str]) -> None:
    """Name the sources most of whose records are bad: in a large mixture one wrong path is a small share."""
    sizes: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    example: dict[str, str] = {}
    for part in parts:
        sizes[part.source.kind] += part.stop - part.start
        entry = read_entry(config, part.index)
        for row in entry.bad if entry is not None else ():
            bad[row["source"]] += 1
            example.setdefault(row["source"], row["reason"])
    for kind, number in bad.items():
        if kind not in kept:
            logger.warning(
                "source %s gives NOTHING: all %d records are bad, the first: %s", kind, number, example[kind]
            )
        elif number > config.max_bad_fraction * sizes[kind]:
            logger.warning(
                "source %s: %d of %d records are bad, the first: %s", kind, number, sizes[kind], example[kind]
            )


def _manifest(
    contents: Sequence[Content], reasons: Counter[str], repeats: Counter[str], config: IngestConfig, request: str
) -> Manifest:
    tasks: dict[str, Counter[str]] = {}
    for content in contents:
        for source, counts in content.tasks.items():
            tasks.setdefault(source, Counter()).update(counts)
    return Manifest(
        shards=[shard for content in contents for shard in content.shards],
        records_by_source={source: sum(counts.values()) for source, counts in tasks.items()},
        records_by_task={source: dict(counts) for source, counts in tasks.items()},
        quarantined_by_reason=dict(reasons.most_common()),
        num_images=sum(content.num_images for content in contents),
        image_bytes=sum(content.image_bytes for content in contents),
        duplicates=config.duplicates,
        duplicates_by_source=dict(repeats),
        request=request,
    )


def write_quarantine(config: IngestConfig, num_parts: int) -> Counter[str]:
    """Write the bad records of the first parts, one JSON object on each line; how many there are of each kind."""
    reasons: Counter[str] = Counter()
    with Storage(config.output).create(QUARANTINE) as file:
        for index in range(num_parts):
            entry = read_entry(config, index)
            for row in entry.bad if entry is not None else ():
                reasons[row["reason"].split(":")[0]] += 1
                file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
    return reasons


def judge(config: IngestConfig, reasons: Counter[str], total: int, *, so_far: bool = False) -> None:
    """Refuse a set of which too much is bad.

    Raises:
        DataError: with the most frequent reasons.
    """
    num_bad = sum(reasons.values())
    where = f"{Storage(config.output).name}/{QUARANTINE} names each one"
    if num_bad == total and not so_far:
        raise DataError(f"no record of {total} can be used ({_most(reasons)})", where)
    if num_bad > config.max_bad_fraction * total:
        raise DataError(
            f"{num_bad} of {'the first ' if so_far else ''}{total} records are bad,"
            f" max_bad_fraction={config.max_bad_fraction:g} allows {config.max_bad_fraction:.0%} ({_most(reasons)})",
            f"{where}; mend them, or raise max_bad_fraction: what is done stays done",
        )


def _most(reasons: Counter[str]) -> str:
    most = "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common(3))
    return most + (f"; and {len(reasons) - 3} more kinds" if len(reasons) > 3 else "")


def remove_leftovers(folder: Storage, manifest: Manifest) -> None:
    """Remove what a finished set does not need: the journal, shards with duplicates, and those of an earlier ingest."""
    needed = {shard.file for shard in manifest.shards}
    for file in folder.files():
        if file.startswith("shard-") and file.endswith(".parquet") and file not in needed:
            folder.delete(file)
    folder.delete_partial()
    folder.delete_folder(JOURNAL)
