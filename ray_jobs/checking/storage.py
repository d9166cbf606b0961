"""Storage: whether it takes, gives back and renames files, and how fast."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from ray_jobs.checking.findings import Finding, fail, ok, warn
from setok.data.storage import Storage
from setok.errors import ConfigError, SetokError

PROBE_BYTES = 32 * 2**20
SLOW_MB_PER_SECOND, SLOW_SECONDS = 20.0, 1.0


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """What a probe measured."""

    write: float
    """MB/s, to the disk and not to a cache of the machine."""
    read: float
    """MB/s; of a local folder most likely from the machine's cache."""
    rename: float
    """Seconds; of an object store, which has none, the time of a small file."""


def measure(address: str, *, num_bytes: int = PROBE_BYTES) -> Speeds:
    """Write, read and rename a file, and delete it.

    Args:
        address: a folder, which is made, or a prefix of an object store.

    Raises:
        ConfigError: it does not take files, or gives back others.
    """
    storage, name = Storage(address), f".doctor-{secrets.token_hex(6)}"
    data = os.urandom(2**20) * (num_bytes // 2**20)
    is_new = storage.local is not None and not storage.local.exists()
    try:
        if storage.local is not None:
            storage.local.mkdir(parents=True, exist_ok=True)
        return _measure(storage, name, data)
    except OSError as error:
        raise ConfigError(
            f"{storage.name} cannot be written to: {error.strerror or error}",
            "check the mount, its permissions and the free space; of a bucket also the credentials and the region",
        ) from error
    finally:
        if storage.local is not None and is_new:
            with contextlib.suppress(OSError):  # not made, or in use by now
                storage.local.rmdir()


def _measure(storage: Storage, name: str, data: bytes) -> Speeds:
    try:
        start = time.perf_counter()
        if storage.local is not None:
            with (storage.local / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # a full disk or quota may only say so here
        else:
            storage.write(name, data)
        written = time.perf_counter()
        back = storage.read(name)
        read = time.perf_counter()
        if storage.local is not None:
            os.replace(storage.local / name, storage.local / f"{name}-2")
            os.replace(storage.local / f"{name}-2", storage.local / name)
        else:
            storage.write(f"{name}-2", b"x")
        renamed = time.perf_counter()
    finally:
        for left in (name, f"{name}-2"):
            storage.delete(left)
    if back != data:
        raise ConfigError(
            f"{storage.name} gives back other bytes than were written",
            "do not train on it: check the disk or the mount",
        )
    size = len(data) / 1e6
    return Speeds(write=size / (written - start), read=size / (read - written), rename=renamed - read)


def check_storage(address: str, what: str, probe: Callable[[str], Speeds] = measure) -> list[Finding]:
    """Probe a place that a run writes to.

    Args:
        address: the place.
        what: the setting that names it.
        probe: measures; raises a ``SetokError`` where the place does not work.
    """
    try:
        speeds = probe(address)
    except SetokError as error:
        return [fail("storage", f"{what}: {error.problem}", error.remedy)]
    told = (
        f"{what} {Storage(address).name}: writes {speeds.write:,.0f} MB/s, reads {speeds.read:,.0f} MB/s,"
        f" renames in {1e3 * speeds.rename:.1f} ms"
    )
    if min(speeds.write, speeds.read) < SLOW_MB_PER_SECOND or speeds.rename > SLOW_SECONDS:
        remedy = f"a checkpoint of 1 GB takes {1e3 / speeds.write:.0f} s: use faster storage, or save less often"
        return [warn("storage", told, remedy)]
    return [ok("storage", told)]
