"""Where a run's checkpoints lie: on a disk that all workers see, or in a bucket; and which of them are whole.

Nothing is loaded that was not verified. What lies in a bucket is downloaded for that into a folder of this machine,
``$SETOK_CACHE`` or ``~/.cache/setok``, once for all processes of the machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from setok.checkpoint.manifest import Entry, Manifest
from setok.data.storage import Storage, beside
from setok.errors import CheckpointError

CONFIG, MODEL, TRAINER, MANIFEST = "config.yaml", "model.safetensors", "trainer.json", "manifest.json"
NAME = re.compile(r"step_(\d{8,})")
"""What a checkpoint's folder is called."""
WRITING = "writing_"
"""Stands before the name of a checkpoint that is being written to a disk."""
_CHUNK = 2**22
_DOWNLOADS = 4


class DamagedError(Exception):
    """A checkpoint is not whole; ``problems`` are sentences that say why."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, kw_only=True)
class FileState:
    """A file of a checkpoint as it is found."""

    name: str
    size: int | None
    """Bytes; ``None`` where it is missing."""
    problem: str | None = None
    """What is wrong with it, as a sentence that begins with its name; ``None``: it is as it was written."""


class Store:
    """The checkpoints in one folder or prefix, each in a folder of its own by the name of its step.

    Args:
        address: as ``setok.data.storage.Storage`` takes it.
    """

    def __init__(self, address: str | Path) -> None:
        self.storage = Storage(address)

    @staticmethod
    def of_run(run: str | Path) -> Store:
        """The checkpoints of a run's folder or address."""
        return Store(beside(str(run), "/checkpoints"))

    def shown(self, step: int) -> str:
        """A checkpoint's place, for people."""
        return f"{self.storage.name.rstrip('/')}/{name_of(step)}"

    # ---------------------------------------------------------------- looking

    def steps(self) -> list[int]:
        """Steps of all checkpoints, whole or not, newest first."""
        found = [NAME.fullmatch(name) for name in self.storage.folders()]
        return sorted((int(match.group(1)) for match in found if match), reverse=True)

    def manifest(self, step: int) -> Manifest:
        """What a checkpoint says it holds.

        Raises:
            DamagedError: it does not say so.
        """
        data = self.storage.read(f"{name_of(step)}/{MANIFEST}")
        if data is None:
            raise DamagedError([f"{MANIFEST} is missing, as when it was never written to its end"])
        try:
            manifest = Manifest.from_bytes(data)
        except ValueError as error:
            raise DamagedError([f"{MANIFEST} {error}"]) from error
        if manifest.step != step:
            raise DamagedError([f"{MANIFEST} is of step {manifest.step}"])
        missing = [
            f"{MANIFEST} does not list {name}" for name in (CONFIG, MODEL, TRAINER) if name not in manifest.files
        ]
        if missing:
            raise DamagedError(missing)
        return manifest

    def examine(self, step: int, *, checksums: bool = True) -> list[FileState]:
        """Every file of a checkpoint, and what is wrong with it.

        Args:
            checksums: read every byte; without it only names and sizes are compared, which takes no time.
        """
        try:
            manifest = self.manifest(step)
        except DamagedError as error:
            return [FileState(name=MANIFEST, size=None, problem="; ".join(error.problems))]
        paths = [f"{name_of(step)}/{name}" for name in (MANIFEST, *manifest.files)]
        own, *sizes = self.storage.sizes(paths)
        states = [FileState(name=MANIFEST, size=own)]
        for (name, entry), path, size in zip(manifest.files.items(), paths[1:], sizes, strict=True):
            problem = _size_problem(name, entry, size)
            if problem is None and checksums:
                problem = self._checksum_problem(name, entry, path)
            states.append(FileState(name=name, size=size, problem=problem))
        return states

    def problems(self, step: int, *, checksums: bool = True) -> list[str]:
        """What is wrong with a checkpoint, one sentence each; empty if it is whole."""
        return [state.problem for state in self.examine(step, checksums=checksums) if state.problem]

    def _checksum_problem(self, name: str, entry: Entry, path: str) -> str | None:
        try:
            same = self.storage.sha256(path) == entry.sha256
        except OSError as error:  # a disk that gives its bytes no more
            return f"{name} cannot be read: {error}"
        return None if same else f"{name} has another checksum than when it was written"

    # ---------------------------------------------------------------- loading

    def fetch(self, step: int) -> Path:
        """A folder of this machine that holds a checkpoint, every byte of it verified.

        Raises:
            DamagedError: the checkpoint is not whole.
            CheckpointError: there is no room for it here.
            DataError: the store cannot be reached.
        """
        if self.storage.local is not None:
            problems = self.problems(step)
            if problems:
                raise DamagedError(problems)
            return self.storage.local / name_of(step)
        try:
            return self._download(step)
        except OSError as error:
            raise CheckpointError(
                f"{self.shown(step)} cannot be downloaded to {cache_root()}: {error}",
                "free space there, or name another folder in the environment variable SETOK_CACHE",
            ) from error

    def _download(self, step: int) -> Path:
        manifest = self.manifest(step)
        if problems := self.problems(step, checksums=False):  # whatever a copy from better times says
            raise DamagedError(problems)
        home = cache_root() / "checkpoints" / hashlib.sha256(self.storage.name.encode()).hexdigest()[:16]
        home.mkdir(parents=True, exist_ok=True)
        with _only_process(home / "lock"):
            here = Store(home)
            if step in here.steps() and here._is(step, manifest):
                return home / name_of(step)
            self._forget_deleted(here)
            partial = home / f"{WRITING}{name_of(step)}"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            with ThreadPoolExecutor(_DOWNLOADS) as pool:
                fetched = pool.map(
                    lambda name: self._download_file(step, name, manifest.files[name], partial), manifest.files
                )
                problems = [problem for problem in fetched if problem is not None]
            if problems:
                shutil.rmtree(partial)
                raise DamagedError(problems)
            (partial / MANIFEST).write_bytes(manifest.to_bytes())
            partial.rename(home / name_of(step))
        return home / name_of(step)

    def _is(self, step: int, manifest: Manifest) -> bool:
        """Whether a checkpoint here is whole and the one with this manifest; one that is not is deleted."""
        try:
            same = self.manifest(step) == manifest and not self.problems(step)
        except DamagedError:
            same = False
        if not same:
            self.delete(step)
        return same

    def _forget_deleted(self, here: Store) -> None:
        """Let what has left the store leave the cache."""
        for step in set(here.steps()) - set(self.steps()):
            here.delete(step)

    def _download_file(self, step: int, name: str, entry: Entry, folder: Path) -> str | None:
        """What is wrong with the file, if anything is."""
        digest, size = hashlib.sha256(), 0
        try:
            with (folder / name).open("wb") as file:
                for chunk in self.storage.chunks(f"{name_of(step)}/{name}"):
                    size += file.write(chunk)
                    digest.update(chunk)
        except FileNotFoundError:
            return f"{name} is missing"
        if (problem := _size_problem(name, entry, size)) is not None:
            return problem
        same = digest.hexdigest() == entry.sha256
        return None if same else f"{name} has another checksum than when it was written"

    # ---------------------------------------------------------------- deleting

    def delete(self, step: int) -> None:
        """Remove a checkpoint; the manifest first, so that what is left half-way is none."""
        self.storage.delete(f"{name_of(step)}/{MANIFEST}")
        self.storage.delete_folder(name_of(step))

    def probe(self) -> None:
        """Find out whether checkpoints can be written here.

        Raises:
            CheckpointError: they cannot.
        """
        name = f"probe-{os.getpid()}.json"
        try:
            self.storage.write(name, json.dumps({"pid": os.getpid()}).encode())
            self.storage.delete(name)
        except OSError as error:
            raise CheckpointError(
                f"checkpoints cannot be written to {self.storage.name}: {error}",
                "check its permissions and the free space, or set checkpoint.store or output_dir to another place",
            ) from error


def name_of(step: int) -> str:
    """The name of a checkpoint's folder."""
    return f"step_{step:08d}"


def cache_root() -> Path:
    """Where this machine keeps what it has downloaded."""
    return Path(os.environ.get("SETOK_CACHE") or "~/.cache/setok").expanduser()


def _size_problem(name: str, entry: Entry, size: int | None) -> str | None:
    if size is None:
        return f"{name} is missing"
    return None if size == entry.size else f"{name} has {size} bytes instead of {entry.size}"


@contextmanager
def _only_process(lock: Path) -> Iterator[None]:
    """Hold a file's lock, which ends with the process at the latest."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
