"""Data sets in their official layouts → validated Parquet shards with a manifest.

    python -m ray_jobs.ingest --config ingest
    python -m ray_jobs.ingest --config ingest --preview 24     # a picture of 24 records, to look at before
    python -m ray_jobs.ingest --config ingest --validate       # is the set still what was ingested?

Every picture is decoded once, and stored as the bytes it came in unless it is over a limit that the config sets. What
cannot be used goes to ``quarantine.jsonl`` with the reason. The rows come in the order of the sources, and the same config
makes the same bytes on any number of processes. An ingest that was stopped goes on where it was; asking again for what is
already there does nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ray_jobs import launch
from ray_jobs.ingesting.duplicates import KEY_BYTES, repeated
from ray_jobs.ingesting.finish import finish, judge, remove_leftovers, write_quarantine
from ray_jobs.ingesting.journal import Part, folders_of, heldout_folder, read_entry
from ray_jobs.ingesting.parts import drop_from_part, ingest_part, is_held_out, phrase_finder, plan_parts
from ray_jobs.ingesting.preview import write_preview
from ray_jobs.ingesting.tasks import Result, Ticker, duration, in_order
from ray_jobs.ingesting.validate import validate
from setok.config import IngestConfig
from setok.data.schema import FORMAT_VERSION, MANIFEST, Manifest
from setok.data.shards import ShardReader
from setok.data.sources import Source, open_source
from setok.data.storage import Storage
from setok.errors import DataError

__all__ = ["dry_run", "heldout_folder", "ingest", "is_held_out"]

logger = logging.getLogger(__name__)
EARLY_RECORDS = 1000
"""From so many records on, an ingest stops as soon as too large a share of those seen is bad."""
_NOT_ASKED = frozenset({"name", "output_dir", "output", "seed", "max_bad_fraction"})


def main() -> None:
    actions = (
        launch.Action(
            flag="--preview",
            metavar="N",
            help="draw N records of the sources on one sheet (PNG) in the run's folder, and stop",
            run=_preview,
        ),
        launch.Action(
            flag="--validate", help="check the ingested set, and stop: exit code 1 if damaged", run=_validate
        ),
    )
    config = launch.parse(IngestConfig, str(__doc__), dry_run=dry_run, actions=actions)
    started = time.monotonic()
    manifest = ingest(config)
    launch.console().print(
        f"{summary(manifest)} · {duration(time.monotonic() - started)} → {Storage(config.output).name}"
    )


def ingest(config: IngestConfig) -> Manifest:
    """Ingest, go on with an ingest that was stopped, or find that it has been done.

    Returns:
        The manifest of ``config.output``; with ``holdout_fraction`` the set of ``heldout_folder`` is made as well.

    Raises:
        DataError: a source is missing or has no images, no record is left, or more than ``max_bad_fraction`` are bad.
        ConfigError: a source's kind or split does not exist, or what ``concepts`` needs is not installed.
    """
    sources = [open_source(source) for source in config.sources]
    for source in sources:
        source.check()
    phrase_finder(config)
    request = _request(config, sources)
    done = _already_ingested(config, request)
    if done is not None:
        logger.info("%s is up to date: %d records", Storage(config.output).name, done.num_rows)
        return done
    parts = plan_parts(config, sources)
    for storage in folders_of(config):  # manifests go first, so a broken run is never taken for a set
        storage.delete(MANIFEST)
    _make_parts(config, parts)
    dropped = _find_duplicates(config, len(parts)) if config.duplicates != "keep" else {}
    if config.duplicates == "drop":
        _drop(config, parts, dropped)
    return finish(config, parts, dropped, request)


def summary(manifest: Manifest) -> str:
    """What an ingested set holds, in one line."""
    shown = [
        f"{manifest.num_rows:,} records",
        f"{manifest.num_images:,} pictures",
        f"{manifest.num_bytes / 1e6:,.1f} MB in {len(manifest.shards)} shard{'s' * (len(manifest.shards) != 1)}",
    ]
    if manifest.duplicates != "keep":
        verb = "left out" if manifest.duplicates == "drop" else "found"
        shown.append(f"{manifest.num_duplicates:,} duplicates {verb}")
    return " · ".join([*shown, f"{manifest.num_quarantined:,} in quarantine"])


# ---------------------------------------------------------------- the parts


def _make_parts(config: IngestConfig, parts: Sequence[Part]) -> None:
    """Make all parts that are not there yet; stop early where too many records are bad.

    Results are judged in their order, so an ingest fails in the same place however many processes work on it.
    """

    def work(number: int) -> Result:
        entry, found = ingest_part(parts[number], config)
        return {"good": entry.num_rows, "bad": len(entry.bad), "found": found}

    num_good, num_bad = 0, 0
    total = sum(part.stop - part.start for part in parts)
    with Ticker(f"ingest {config.name}", total, launch.console()) as ticker:
        for number, result in enumerate(in_order(len(parts), work)):
            num_good, num_bad = num_good + result["good"], num_bad + result["bad"]
            ticker.advance(result["good"] + result["bad"], bad=result["bad"], found=result["found"])
            seen, last = num_good + num_bad, number + 1 == len(parts)
            if seen >= EARLY_RECORDS and not last and num_bad > config.max_bad_fraction * seen:
                judge(config, write_quarantine(config, number + 1), seen, so_far=True)


def _find_duplicates(config: IngestConfig, num_parts: int) -> dict[int, list[int]]:
    """The records of each part that are like an earlier one of this ingest, for parts that have any."""
    chunks = [_entry_keys(config, index) for index in range(num_parts)]
    same = repeated(np.concatenate(chunks))
    ends = np.cumsum([len(chunk) for chunk in chunks])
    del chunks
    found = {index: np.flatnonzero(part).tolist() for index, part in enumerate(np.split(same, ends[:-1]))}
    return {index: numbers for index, numbers in found.items() if numbers}


def _entry_keys(config: IngestConfig, index: int) -> np.ndarray:
    entry = read_entry(config, index)
    keys = entry.keys if entry is not None else b""
    return np.frombuffer(keys, np.uint64).reshape(-1, KEY_BYTES // 8)


def _drop(config: IngestConfig, parts: Sequence[Part], dropped: dict[int, list[int]]) -> None:
    """Write the shards that hold duplicates once more without them."""
    touched = sorted(dropped)

    def work(number: int) -> Result:
        entry, found = drop_from_part(parts[touched[number]], config, dropped[touched[number]])
        return {"rows": entry.num_rows, "found": found}

    total = sum(parts[index].stop - parts[index].start for index in touched)
    with Ticker("leave out duplicates", total, launch.console()) as ticker:
        for number, result in enumerate(in_order(len(touched), work)):
            part = parts[touched[number]]
            ticker.advance(part.stop - part.start, found=result["found"])


# ---------------------------------------------------------------- has it been done?


def _request(config: IngestConfig, sources: Iterable[Source]) -> str:
    """Digest of what decides the contents: settings, state of the source files, and the format."""
    asked = config.model_dump(mode="json", exclude=set(_NOT_ASKED))
    state = [source.fingerprint() for source in sources]
    text = json.dumps([FORMAT_VERSION, asked, state], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _already_ingested(config: IngestConfig, request: str) -> Manifest | None:
    """The manifest, if every output folder holds whole what is asked for."""
    manifests = []
    for folder in folders_of(config):
        try:
            manifests.append(ShardReader(folder.address).manifest)
        except DataError:
            return None
    if any(manifest.request != request for manifest in manifests):
        return None
    for folder, manifest in zip(folders_of(config), manifests, strict=True):
        remove_leftovers(folder, manifest)  # of an ingest that was stopped between its manifest and its end
    return manifests[0]


# ---------------------------------------------------------------- the other things the command does


def dry_run(config: IngestConfig) -> None:
    """Look at every source, and say what would be ingested, or all that is missing.

    Raises:
        DataError: sources that cannot be read; each was named before.
    """
    sources = [open_source(source) for source in config.sources]
    missing = 0
    for source_config, source in zip(config.sources, sources, strict=True):
        where = f"{source_config.kind} {source_config.path} ({source_config.split})"
        try:
            source.check()
            launch.console().print(f"{where}: {len(source)} records")
        except DataError as error:
            missing += 1
            launch.console().print(f"[yellow]{where}: missing[/yellow]\n  {error}", highlight=False)
    if missing:
        raise DataError(
            f"{missing} of {len(sources)} sources cannot be read, as said above",
            "get them, or leave them out of sources",
        )
    for line in _describe(config, sources):
        launch.console().print(line)


def _describe(config: IngestConfig, sources: Sequence[Source]) -> Iterator[str]:
    phrase_finder(config)
    total, shards = sum(map(len, sources)), len(plan_parts(config, sources))
    yield f"→ {', '.join(folder.name for folder in folders_of(config))}: up to {total} records in about {shards} shards"


def _preview(config: IngestConfig, value: str) -> int:
    if not value.isdigit() or not int(value):
        raise DataError(f"--preview {value}: not a number of records", "for example --preview 24")
    path = write_preview(config, int(value))
    launch.console().print(f"preview → {path}")
    return 0


def _validate(config: IngestConfig, _: str) -> int:
    verdicts = [validate(folder.address) for folder in folders_of(config)]
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    launch.run(main)
