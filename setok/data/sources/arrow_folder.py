"""Folders that Hugging Face ``datasets.save_to_disk`` wrote, read without that library.

FOLDER/dataset_info.json
FOLDER/state.json                            names the files below, in order
FOLDER/data-00000-of-00051.arrow             Arrow streams; pictures are {bytes, path}
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

from setok.data.sources.annotations import inside, read_json
from setok.data.sources.base import read_image
from setok.errors import DataError

STATE = "state.json"


class ArrowFolder:
    """Rows of such a folder; the files are mapped into memory, and only rows that are asked for are read.

    Raises:
        DataError: a file is missing or damaged, a column is missing, or the rows were selected and never written out.
    """

    def __init__(self, folder: Path, columns: Iterable[str]) -> None:
        state = read_json(folder / STATE)
        if state.get("_indices_data_files"):
            raise DataError(
                f"{folder} holds a selection of rows, not the rows", "save it again after dataset.flatten_indices()"
            )
        self.folder = folder
        self.files = [folder / inside(file["filename"]) for file in state["_data_files"]]
        self._columns = list(columns)
        self._batches = [batch for file in self.files for batch in self._read(file)]
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))

    def _read(self, file: Path) -> list[pa.RecordBatch]:
        try:
            with pa.memory_map(str(file)) as source:
                table = pa.ipc.open_stream(source).read_all()
        except FileNotFoundError as error:
            raise DataError(f"{file} is missing", "copy the whole folder again") from error
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{file} is no Arrow stream: {error}", "copy the whole folder again") from error
        lost = [column for column in self._columns if column not in table.column_names]
        if lost:
            raise DataError(f"{file} has no column {lost[0]!r} but {table.column_names}", "get the official set")
        return table.select(self._columns).to_batches()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def row(self, index: int) -> dict[str, Any]:
        """The columns of one row."""
        number = bisect_right(self._ends, index)
        start = self._ends[number] - self._batches[number].num_rows
        return self._batches[number].slice(index - start, 1).to_pylist()[0]

    def column(self, name: str) -> list[Any]:
        """All values of one column."""
        return [value for batch in self._batches for value in batch.column(name).to_pylist()]

    def image(self, row: dict[str, Any], column: str) -> bytes:
        """The encoded picture of a row.

        Raises:
            DataError: it is in neither the row nor the file that the row names.
        """
        value = row[column]
        if not isinstance(value, dict) or not (value.get("bytes") or value.get("path")):
            raise DataError(f"image missing: column {column!r} is empty", "leave the record out")
        return value["bytes"] or read_image(self.folder / inside(value["path"]))


def is_arrow_folder(folder: Path) -> bool:
    """Whether ``datasets.save_to_disk`` wrote the folder."""
    return (folder / STATE).is_file()
