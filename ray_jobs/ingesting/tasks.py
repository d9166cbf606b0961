"""Numbered pieces of work on all CPUs of the cluster, their results in order, with a line that tells how it goes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console
from rich.status import Status

from ray_jobs import launch
from ray_jobs.progress import PLAIN_SECONDS
from ray_jobs.ray_data import data_context, setok_error

Result = dict[str, Any]
"""Plain values that JSON can hold."""


def in_order(count: int, work: Callable[[int], Result]) -> Iterator[Result]:
    """``work(0)``, ``work(1)`` … ``work(count − 1)``, each in a Ray task of its own.

    Raises:
        SetokError: what a task raised; other exceptions come as Ray's.
    """
    if not count:
        return
    launch.start_ray()
    import ray.data

    def run(rows: dict[str, np.ndarray]) -> dict[str, list[str]]:
        return {"result": [json.dumps(work(int(number))) for number in rows["id"]]}

    with ray.data.DataContext.current(data_context()):
        dataset = ray.data.range(count, override_num_blocks=count).map_batches(run, batch_size=1)
    try:
        for row in dataset.iter_rows():
            yield json.loads(row["result"])
    except Exception as error:
        ours = setok_error(error)
        if ours is None:
            raise
        raise ours from error


class Ticker:
    """One line on how many records are done, how fast, and how long it will take; on a terminal it stays in its place.

    Args:
        what: begins the line.
        total: records in all.
        console: where to show it.
    """

    def __init__(self, what: str, total: int, console: Console) -> None:
        self._what, self._total, self._console = what, total, console
        self._done, self._found, self._bad = 0, 0, 0
        self._started = time.monotonic()
        self._last_line = self._started
        self._status: Status | None = None

    def __enter__(self) -> Ticker:
        if self._console.is_terminal:
            self._status = self._console.status(self.line())
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def advance(self, records: int, *, bad: int = 0, found: bool = False) -> None:
        """Count records; ``found`` ones were there from an earlier start and say nothing about the speed."""
        self._done += records
        self._bad += bad
        self._found += records if found else 0
        now = time.monotonic()
        if self._status is not None:
            self._status.update(self.line())
        elif now - self._last_line >= PLAIN_SECONDS:
            self._console.print(self.line())
            self._last_line = now

    def line(self) -> str:
        """The line as it is now."""
        seconds = time.monotonic() - self._started
        parts = [f"{self._what}: {self._done:,} of {self._total:,} records"]
        worked = self._done - self._found
        if worked and seconds > 0:
            rate = worked / seconds
            parts.append(f"{rate:,.0f} records/s")
            if self._done < self._total:
                parts.append(f"{duration((self._total - self._done) / rate)} left")
        if self._found:
            parts.append(f"{self._found:,} were there")
        if self._bad:
            parts.append(f"{self._bad:,} bad")
        return " · ".join(parts)


def duration(seconds: float) -> str:
    """Seconds for people: ``8 s``, ``3m05s``, ``2h10m``."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
