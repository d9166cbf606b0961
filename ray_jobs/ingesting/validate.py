"""Is an ingested set still what was ingested? Checksums, schema, every picture, every mask, every slot."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from ray_jobs import launch
from ray_jobs.ingesting.tasks import Result, Ticker, in_order
from setok.data import rle
from setok.data.images import MAX_PIXELS, configure_opencv, decode_image
from setok.data.prepare import check_text
from setok.data.schema import ARROW_SCHEMA, Manifest, Record, Shard
from setok.data.shards import size_problems
from setok.data.storage import Storage
from setok.errors import DataError

_SHOWN = 10
"""Damaged rows that are named of each shard."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with a shard."""

    text: str
    row: int | None = None
    """Number of the row in its shard; ``None`` where the whole shard is meant."""


def validate(folder: str) -> bool:
    """Check an ingested set, print a verdict, and tell whether it is whole; nothing is changed."""
    console, storage = launch.console(), Storage(folder)
    try:
        manifest = Manifest.load(folder)
    except DataError as error:
        launch.show_error(error)
        console.print(f"[bold red]damaged[/bold red] {storage.name}")
        return False

    def work(number: int) -> Result:
        problems = shard_problems(Storage(folder), manifest.shards[number])
        return {"problems": [[problem.row, problem.text] for problem in problems]}

    num_bad = 0
    with Ticker(f"validate {storage.name}", manifest.num_rows, console) as ticker:
        for shard, result in zip(manifest.shards, in_order(len(manifest.shards), work), strict=True):
            problems = [Problem(row=row, text=text) for row, text in result["problems"]]
            num_bad += bool(problems)
            for problem in problems[:_SHOWN]:
                where = "" if problem.row is None else f", row {problem.row}"
                console.print(f"{shard.file}{where}: {problem.text}", markup=False)
            if len(problems) > _SHOWN:
                console.print(f"{shard.file}: and {len(problems) - _SHOWN} more", markup=False)
            ticker.advance(shard.rows)
    if num_bad:
        console.print(f"[bold red]damaged[/bold red] {storage.name}: {num_bad} of {len(manifest.shards)} shards")
        console.print("  → copy these shards again from where they were made, or remove the folder and ingest it again")
        return False
    console.print(
        f"[bold green]whole[/bold green] {storage.name}: {manifest.num_rows:,} records and {manifest.num_images:,} pictures"
        f" in {len(manifest.shards)} shards, {manifest.num_bytes / 1e6:,.1f} MB"
    )
    return True


def shard_problems(storage: Storage, shard: Shard) -> list[Problem]:
    """Everything that is wrong with a shard: the file as a whole first, then its rows as far as they can be read."""
    for text in size_problems(storage, [shard]).values():
        return [Problem(text=text)]
    problems = []
    if storage.sha256(shard.file) != shard.sha256:
        problems.append(Problem(text="its checksum is not the manifest's"))
    try:
        file = pq.ParquetFile(storage.open(shard.file))
    except (OSError, pa.ArrowException) as error:
        return [*problems, Problem(text=f"no Parquet file: {_first_line(error)}")]
    if not file.schema_arrow.equals(ARROW_SCHEMA):
        return [*problems, Problem(text=f"its columns are {file.schema_arrow.names}, not those of a record")]
    if file.metadata.num_rows != shard.rows:
        problems.append(Problem(text=f"it has {file.metadata.num_rows} rows, the manifest says {shard.rows}"))
    configure_opencv(num_threads=1)
    first = 0
    for group in range(file.num_row_groups):
        num_rows = file.metadata.row_group(group).num_rows
        try:
            rows = file.read_row_group(group).to_pylist()
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            problems.append(
                Problem(text=f"rows {first} to {first + num_rows - 1} cannot be read: {_first_line(error)}")
            )
        else:
            problems += _row_problems(rows, first)
        first += num_rows
    return problems


def _row_problems(rows: list[dict[str, object]], first: int) -> list[Problem]:
    problems, good = [], set()
    for number, row in enumerate(rows, start=first):
        try:
            record = Record.from_row(row)
            record.check()
            check_text(record)
            for mask in (*record.segments, *record.masks):
                rle.decode(mask.counts, mask.height, mask.width)
            for image in record.images:
                if image.data not in good:  # neighbours often share a picture
                    decode_image(image.data, max_side=MAX_PIXELS)
                    good.add(image.data)
        except DataError as error:
            problems.append(Problem(row=number, text=f"{row['id']}: {error.problem}"))
        except (ValueError, TypeError, KeyError) as error:
            problems.append(Problem(row=number, text=f"{row.get('id')}: no record: {error!r}"))
    return problems


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
