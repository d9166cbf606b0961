"""How many tokens every record of an ingested set has: counted once, and kept beside the set."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int32

from setok.data.schema import Manifest, Record
from setok.data.sequences import SequenceBuilder
from setok.errors import DataError

FORMAT = 1
"""Goes up whenever the same settings give other lengths."""
_COLUMNS = [
    *("id", "source", "task", "images.list.element.role", "conversation", "caption", "concepts"),
    *("masks.list.element.height", "answers", "choices"),
]
"""All but pictures, masks and what no sequence is made of."""
_ROWS = 512


def sequence_lengths(folder: str | Path, builder: SequenceBuilder) -> Int32[np.ndarray, " rows"]:
    """Tokens of the longest sequence of every record; 1 for a record that gives none, which a stand-in replaces.

    The first call counts, and writes ``lengths-<digest>.npy`` into the set's folder where that can be written to. The digest
    is of the set, the tokenizer and the settings, so a change of any of them counts again.

    Raises:
        DataError: there is no such set, or it cannot be read.
    """
    manifest = Manifest.load(folder)
    path = Path(folder) / f"lengths-{_digest(manifest.fingerprint, builder)}.npy"
    if path.is_file():
        stored: Int32[np.ndarray, " rows"] = np.load(path, allow_pickle=False)
        if len(stored) == manifest.num_rows:
            return stored
    lengths = np.fromiter((_length(record, builder) for record in _records(Path(folder), manifest)), np.int32)
    _keep(path, lengths)
    return lengths


def _records(folder: Path, manifest: Manifest) -> Iterator[Record]:
    """All records in order, their pictures and masks without content."""
    for shard in manifest.shards:
        try:
            file = pq.ParquetFile(folder / shard.file)
            for batch in file.iter_batches(batch_size=_ROWS, columns=_COLUMNS):
                for row in batch.to_pylist():
                    images = [{"data": b"", "role": image["role"]} for image in row["images"]]
                    masks = [{"counts": [], "height": mask["height"], "width": 0} for mask in row["masks"]]
                    rest = {"segments": [], "boxes": [], "provenance": "{}"}
                    yield Record.from_row(row | rest | {"images": images, "masks": masks})
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{folder / shard.file} cannot be read: {error}", f"ingest {folder} again") from error


def _length(record: Record, builder: SequenceBuilder) -> int:
    try:
        return builder.length_of(record)
    except DataError:
        return 1


def _digest(fingerprint: str, builder: SequenceBuilder) -> str:
    definition, template = builder.tokenizer.definition, builder.template.source
    known = json.dumps([FORMAT, fingerprint, builder.config.model_dump(mode="json"), definition, template])
    return hashlib.sha256(known.encode()).hexdigest()[:16]


def _keep(path: Path, lengths: Int32[np.ndarray, " rows"]) -> None:
    """Write the file whole or not at all; a folder that may not be written to costs the next run the counting."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.save(file, lengths)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
