"""Rows of a training stream that hold several samples each: what a stage must bring along, and how a pack is built.

A Ray row is one pack, whatever number of samples it holds: blocks of equal numbers of rows go round the ranks in turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from jaxtyping import Int32, Int64

from setok.data.decode import Columns
from setok.data.lengths import stored_lengths
from setok.data.packed_plan import PackedPlan, TooLongError
from setok.data.plan import Plan
from setok.data.schema import Record
from setok.data.shards import ShardReader
from setok.errors import DataError


@dataclass(frozen=True, kw_only=True)
class PlannedSample:
    """A stored record whose turn it is."""

    record: Record
    epoch: int
    """How often it was seen before."""
    too_long: bool
    """It has no room in a row: something of one token has to stand in for it."""


class PackBuilder(Protocol):
    """Makes rows of samples, in a data worker."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of ``ARROW_SCHEMA`` that it reads; the others of its records are empty."""
        ...

    def build(self, packs: Sequence[Sequence[PlannedSample]]) -> Columns:
        """One row for each pack, as columns of ``setok.data.pack.row_columns``.

        ``id`` and ``error`` are JSON lists with a text for every sample, the error "" where the sample can be used. A sample
        that cannot be used is masked and stays in its place: it never raises DataError.
        """
        ...


class PackBuilderSpec(Protocol):
    """Opens a ``PackBuilder``; hashable, and small once pickled, because it travels with every block."""

    @property
    def row_bytes(self) -> int:
        """About how large a row is, once built: Ray plans its memory with it."""
        ...

    def open(self) -> PackBuilder:
        """A builder for this process."""
        ...


@dataclass(frozen=True, kw_only=True)
class Packing:
    """What a stage brings along so that its rows are packs."""

    builder: PackBuilderSpec
    budget: int
    """Tokens in a row."""
    lengths_key: str
    """Under which the lengths of the sets were stored (``setok.data.lengths``)."""
    too_long: Literal["error", "mask"] = "error"
    """What becomes of a sample of more than ``budget`` tokens."""
    first_packs: tuple[int, ...] = (0,)
    """Filled in by ``DataSpec``: packs as they were counted when the run started."""


def packed_plan(plan: Plan, folders: Sequence[str], packing: Packing, *, rows_per_step: int) -> PackedPlan:
    """The packs of a run.

    Raises:
        DataError: the lengths of a set were not measured.
    """
    lengths = []
    for folder in folders:
        own = stored_lengths(folder, packing.lengths_key)
        if own is None:
            raise DataError(
                f"the lengths of {folder} were not measured for these settings",
                "setok.data.lengths.measured_lengths does so, before the run starts",
            )
        lengths.append(own)
    return PackedPlan(
        plan,
        lengths,
        budget=packing.budget,
        rows_per_step=rows_per_step,
        too_long=packing.too_long,
        first_packs=packing.first_packs,
    )


def count_packs(packs: PackedPlan, folders: Sequence[str], num_steps: int) -> tuple[int, ...]:
    """``first_packs`` once so many steps are counted, or all that the plan has.

    Raises:
        DataError: a sample is too long; it is named by its id.
    """
    try:
        steps = packs.num_steps()
        packs.count((num_steps if steps is None else min(steps, num_steps)) * packs.rows_per_step)
    except TooLongError as error:
        name = ShardReader(folders[error.source], columns=["id"]).take(np.array([error.row]))["id"][0].as_py()
        raise DataError(f"{name} in {folders[error.source]} is too long: {error.problem}", error.remedy) from error
    return packs.first_packs


def build_packs(
    builder: PackBuilder,
    packs: PackedPlan,
    numbers: Int64[np.ndarray, " n"],
    stored: Callable[[Int32[np.ndarray, " m"], Int64[np.ndarray, " m"]], pa.Table],
) -> Columns:
    """The packs of these numbers, which ascend.

    Args:
        builder: makes rows of samples.
        packs: says which samples.
        numbers: of the packs.
        stored: reads the rows of given sources and rows, in order, with the builder's columns.
    """
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1) if len(numbers) else []
    read = [packs.packs(int(run[0]), int(run[-1]) + 1) for run in runs]
    positions = np.concatenate([positions for positions, _ in read] or [np.zeros(0, np.int64)])
    sizes = [size for _, starts in read for size in np.diff(starts).tolist()]
    source, row, epoch = packs.plan.samples_at(positions)
    too_long = packs.is_too_long(source, row)
    rows = stored(source, row).to_pylist()
    samples = (
        PlannedSample(record=_record(row), epoch=int(epoch[index]), too_long=bool(too_long[index]))
        for index, row in enumerate(rows)
    )
    return builder.build([list(itertools.islice(samples, size)) for size in sizes])


_EMPTY_RECORD = Record(id="", source="").to_row()


def _record(row: dict[str, Any]) -> Record:
    return Record.from_row(_EMPTY_RECORD | row)
