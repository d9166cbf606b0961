"""Ingested sets: are they whole, and can their pictures be read."""

from __future__ import annotations

import numpy as np

from ray_jobs.checking.findings import Finding, fail, ok
from setok.data.images import decode_image
from setok.data.schema import Record
from setok.data.shards import ShardReader
from setok.data.storage import Storage
from setok.errors import DataError

NUM_SAMPLES = 64
MOST_CHECKED_BYTES = 256 * 2**20
"""Of the shards' contents so much is compared with the checksums; ``ray_jobs.ingest --validate`` compares all."""


def check_set(address: str, what: str, *, num_samples: int = NUM_SAMPLES) -> list[Finding]:
    """Look at a set's manifest, the size of all shards, the contents of some, and records from all over it.

    Args:
        address: its folder or prefix.
        what: the setting that names it.

    Raises:
        DataError: it is not there, or a shard is missing or has another size.
    """
    reader = ShardReader(address)
    findings = _damaged(reader, what) or _unreadable(reader, what, num_samples)
    told = f"{what} {reader.folder}: {reader.num_rows:,} records in {len(reader.manifest.shards)} shard(s)"
    return findings or [ok("data", f"{told}, {min(num_samples, reader.num_rows)} of them decoded")]


def _damaged(reader: ShardReader, what: str) -> list[Finding]:
    """Shards whose checksum is another one, the smallest first, as far as the budget goes."""
    findings, left = [], MOST_CHECKED_BYTES
    for shard in sorted(reader.manifest.shards, key=lambda shard: shard.bytes):
        if (left := left - shard.bytes) < 0:
            break
        if reader.storage.sha256(shard.file) != shard.sha256:
            text = f"{what}: {reader.folder}/{shard.file} is damaged, its checksum is not the manifest's"
            findings.append(fail("data", text, "copy the set again from where it was made, or ingest it again"))
    return findings


def _unreadable(reader: ShardReader, what: str, num_samples: int) -> list[Finding]:
    """Records, evenly over the set, whose pictures cannot be decoded; and the shard that cannot be read at all."""
    if not reader.num_rows:
        return [fail("data", f"{what}: {reader.folder} has no records", "ingest it again")]
    rows = np.unique(np.linspace(0, reader.num_rows - 1, min(num_samples, reader.num_rows)).astype(np.int64))
    bad: list[str] = []
    for row in rows:
        try:
            (values,) = reader.take(np.array([row])).to_pylist()
        except DataError as error:
            return [fail("data", f"{what}: {error.problem}", error.remedy)]
        except ValueError as error:  # of Arrow, or of text that is none
            remedy = "copy the set again from where it was made, or ingest it again"
            return [fail("data", f"{what}: row {row} of {reader.folder} cannot be read: {error}", remedy)]
        record = Record.from_row(values)
        for image in record.images:
            try:
                decode_image(image.data)
            except DataError as error:
                bad.append(f"{record.id} ({error.problem.partition(':')[0]})")
    if not bad:
        return []
    shown = ", ".join(bad[:5]) + (" …" if len(bad) > 5 else "")
    text = f"{what}: {len(bad)} picture(s) of {len(rows)} records cannot be read: {shown}"
    return [fail("data", text, "ingest the set again: what cannot be read then goes to its quarantine")]


def check_source(address: str, what: str) -> list[Finding]:
    """Whether there is anything where a set in its official layout is to be read; ``ingest --dry-run`` looks closer."""
    if Storage(address).exists():
        return [ok("data", f"{what} {address}")]
    remedy = "python -m ray_jobs.ingest --config … --dry-run says what belongs there and where to get it"
    return [fail("data", f"{what}={address} does not exist", remedy)]
