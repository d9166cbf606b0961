"""What a frozen encoder makes of the pictures of an ingested set, kept in files: the same for all runs that share it.

    FOLDER/DIGEST/features.json     shape and type of a row, and what it was made from, which the digest is of
                 /000000.npy …      rows in the order of the set, a fixed number in each file; NumPy's format, and behind it
                                    the CRC-32 of all before

Any number of processes on any number of nodes fill a folder together without speaking to each other: each computes a file
that is not there yet, and every file comes in one move. Whoever is killed leaves the others' files. Nobody claims a file, so that
nobody waits for one that was killed: two may compute the same file, the only one of a small set or the last of a large one.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import logging
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from setok.config import TrainConfig
from setok.errors import DataError

COLUMN = "features"
"""Of the rows that training reads."""
ABOUT = "features.json"
_PART_BYTES = 32 * 2**20
_DIGITS = 16
_CHECKSUM_BYTES, _BLOCK_BYTES = 4, 2**20

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """The features of one set.

    Args:
        folder: its own.
        num_rows: rows of the set.
        part_rows: rows of a file; the last one may have fewer.
        shape: patches and width.
        dtype: NumPy's name; ``int16`` for the bits of bfloat16.
    """

    folder: str
    num_rows: int
    part_rows: int
    shape: tuple[int, int]
    dtype: str

    @classmethod
    def create(cls, folder: Path, made_from: Mapping[str, Any], *, num_rows: int, row: np.ndarray) -> FeatureSet:
        """The set of ``made_from`` below a folder, begun if it is not there.

        Args:
            folder: of all sets.
            made_from: all that decides what features are, to the last bit.
            num_rows: rows of the ingested set.
            row: features of one picture, for their shape and type.
        """
        text = json.dumps(made_from, sort_keys=True)
        home = folder / hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
        batch = int(made_from["batch"])
        part_rows = max(1, _PART_BYTES // (row.nbytes * batch)) * batch
        new = cls(folder=str(home), num_rows=num_rows, part_rows=part_rows, shape=row.shape, dtype=row.dtype.name)
        if not (home / ABOUT).is_file():
            home.mkdir(parents=True, exist_ok=True)
            _in_one_move(home / ABOUT, json.dumps(asdict(new) | {"made_from": made_from}, indent=1).encode())
        return new

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    @property
    def num_parts(self) -> int:
        return -(-self.num_rows // self.part_rows)

    def rows_of(self, part: int) -> range:
        """Rows of the set that a file holds."""
        return range(part * self.part_rows, min(self.num_rows, (part + 1) * self.part_rows))

    def missing(self) -> list[int]:
        """Files that are still to be computed, by what is there; see ``missing_from`` for those that are damaged."""
        there = {path.stem for path in Path(self.folder).glob("[0-9]*.npy")}
        return [part for part in range(self.num_parts) if f"{part:06d}" not in there]

    def missing_from(self, turn: int) -> Iterator[int]:
        """Files that are not there when their turn comes, or are damaged, beginning at a place of the caller's own."""
        for number in range(self.num_parts):
            part = (number + turn) % self.num_parts
            path = self._path(part)
            if not path.is_file():
                yield part
                continue
            try:
                self._open(part)
            except DataError as error:
                logger.warning("%s, and is computed again", error.problem)
                yield part

    def write(self, part: int, rows: Shaped[np.ndarray, "rows patches width"]) -> None:
        """Put a file in its place; another process may have been first."""
        path = self._path(part)
        temporary = path.with_suffix(f".{os.uname().nodename}-{os.getpid()}.tmp")
        stored = io.BytesIO()
        np.save(stored, rows)
        with temporary.open("wb") as file:
            file.write(stored.getbuffer())
            file.write(zlib.crc32(stored.getbuffer()).to_bytes(_CHECKSUM_BYTES, "big"))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def read(self, rows: Int[np.ndarray, " n"]) -> Shaped[np.ndarray, "n patches width"]:
        """Features of some rows.

        Raises:
            DataError: a file is missing or damaged.
        """
        found = np.empty((len(rows), *self.shape), self.dtype)
        owner = rows // self.part_rows
        for part in np.unique(owner).tolist():
            own = owner == part
            found[own] = self._open(part)[rows[own] - part * self.part_rows]
        return found

    def _open(self, part: int) -> np.ndarray:
        path = self._path(part)
        try:
            about = path.stat()
            _verify(path, about.st_size, about.st_mtime_ns)
            stored: np.ndarray = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} cannot be read: {error}", "delete it: the next start computes it again") from error
        if stored.shape != (len(self.rows_of(part)), *self.shape) or stored.dtype != self.dtype:
            raise DataError(
                f"{path} holds {stored.dtype}{list(stored.shape)}, and {self.dtype}"
                f"{[len(self.rows_of(part)), *self.shape]} belongs there",
                "delete it: the next start computes it again",
            )
        return stored

    def _path(self, part: int) -> Path:
        return Path(self.folder) / f"{part:06d}.npy"


@dataclass(frozen=True, kw_only=True)
class RunFeatures:
    """Where a run finds its features: a file in its folder."""

    encoder: str
    """Digest of the weights that they were made with."""
    sets: tuple[FeatureSet, ...]
    """One for each entry of ``data.train``."""

    def save(self, run_dir: Path) -> None:
        """Write it down for all processes of the run."""
        _in_one_move(run_dir / ABOUT, json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def load(cls, run_dir: Path) -> RunFeatures | None:
        """What was written down; ``None`` before that."""
        try:
            tree = json.loads((run_dir / ABOUT).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        sets = (FeatureSet(**one | {"shape": tuple(one["shape"])}) for one in tree["sets"])
        return cls(encoder=tree["encoder"], sets=tuple(sets))


def features_of(config: TrainConfig) -> tuple[FeatureSet, ...]:
    """What a run has of its frozen encoder, since before it started; empty where it keeps nothing.

    Raises:
        DataError: it was not computed.
    """
    if config.data.features is None:
        return ()
    if (known := RunFeatures.load(config.run_dir)) is None:
        raise DataError(
            f"{config.run_dir} has no {ABOUT}", "start the run with python -m ray_jobs.train, which makes it"
        )
    return known.sets


def read_several(
    sets: Sequence[FeatureSet], source: Int[np.ndarray, " n"], row: Int[np.ndarray, " n"]
) -> Shaped[np.ndarray, "n patches width"]:
    """Features of rows of several sets, which have the same encoder: rows ``row`` of the sets of number ``source``."""
    found = np.empty((len(row), *sets[0].shape), sets[0].dtype)
    for index in np.unique(source).tolist():
        own = source == index
        found[own] = sets[index].read(row[own])
    return found


@functools.cache
def _verify(path: Path, size: int, changed: int) -> None:
    """Compare a file with its checksum, once in this process unless it changes; what is wrong is found again every time."""
    seen, left = 0, size - _CHECKSUM_BYTES
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, _BLOCK_BYTES))):
            seen, left = zlib.crc32(block, seen), left - len(block)
        told = file.read(_CHECKSUM_BYTES)
    if left or told != seen.to_bytes(_CHECKSUM_BYTES, "big"):
        raise ValueError(f"its {size:,} bytes do not match its checksum")


def _in_one_move(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(f".{os.uname().nodename}-{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
