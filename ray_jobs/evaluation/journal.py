"""What an evaluation has found out so far: one line for every sample, in a file of each replica.

    RUN/samples/request.json        what was asked, of which checkpoint and which set
    RUN/samples/REPLICA.jsonl       {"batch": 3, "index": 17, …}

A batch is written at once and forced to disk, so one whose lines are all there is finished, whatever became of the process
that wrote it; the lines of any other are passed over. The folder is removed when ``metrics.json`` is written.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from setok.errors import ConfigError, DataError

SAMPLES, REQUEST = "samples", "request.json"
Row = dict[str, Any]


class Shard:
    """The file that one replica writes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{uuid.uuid4().hex}.jsonl"

    def append(self, batch: int, rows: Sequence[Row]) -> None:
        """Write what came of a batch; on return it is on disk. NaN becomes null.

        Raises:
            DataError: a value is infinite.
        """
        try:
            lines = [json.dumps({"batch": batch, **known(row)}, ensure_ascii=False, allow_nan=False) for row in rows]
        except ValueError as error:
            raise DataError(f"a figure of batch {batch} is no number: {error}", "look at the checkpoint") from error
        data = "".join(f"{line}\n" for line in lines).encode()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())


def known(row: Mapping[str, Any]) -> Row:
    """A row with null for what is NaN, which JSON does not have."""
    return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in row.items()}


class Journal:
    """All that the replicas of an evaluation have written.

    Args:
        run_dir: the run's folder, on storage that every node sees.
        sizes: how many samples every batch has, by its number.
    """

    def __init__(self, run_dir: Path, sizes: Mapping[int, int]) -> None:
        self.folder = run_dir.absolute() / SAMPLES
        self._sizes = sizes

    def begin(self, request: Mapping[str, Any]) -> None:
        """Start, or go on with the same request.

        Raises:
            ConfigError: what lies there answers another request; see ``check``.
        """
        check(self.folder.parent, request)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / REQUEST
        temporary = path.with_name(f".{REQUEST}")
        temporary.write_text(json.dumps(request, indent=1), encoding="utf-8")
        temporary.replace(path)

    def finished(self) -> set[int]:
        """Numbers of the batches that need not be asked again."""
        return {batch for batch, _ in self._batches()}

    def rows(self) -> Iterator[Row]:
        """What is known of every sample of the finished batches, in no particular order."""
        for _, rows in self._batches():
            yield from rows

    def clear(self) -> None:
        """Remove it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _batches(self) -> Iterator[tuple[int, list[Row]]]:
        """The whole batches, each once; a batch that was asked twice has the same rows twice."""
        found: set[int] = set()
        for path in sorted(self.folder.glob("*.jsonl")):
            for batch, lines in groupby(_lines(path), key=lambda line: line.pop("batch")):
                rows = list(lines)
                if batch not in found and len(rows) == self._sizes.get(batch):
                    found.add(batch)
                    yield batch, rows


def check(run_dir: Path, request: Mapping[str, Any]) -> None:
    """Refuse to go on with another evaluation than the one that was begun in a folder.

    Raises:
        ConfigError: with everything that differs.
    """
    path = run_dir.absolute() / SAMPLES / REQUEST
    if not path.is_file():
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    asked = json.loads(json.dumps(request))
    names = [name for name in {**begun, **asked} if begun.get(name) != asked.get(name)]
    if names:
        told = ", ".join(f"{name} was {begun.get(name)!r} and is {asked.get(name)!r}" for name in names)
        raise ConfigError(
            f"{run_dir} holds an unfinished evaluation of something else: {told}",
            f"finish that one, take another name=…, or forget it: rm -r {path.parent}",
        )


def _lines(path: Path) -> Iterator[Row]:
    """The lines of a file; a last one without end was being written when its process ended."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)
