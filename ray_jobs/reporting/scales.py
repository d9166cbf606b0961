"""Where values lie along an axis, and which of them are marked there."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from ray_jobs.reporting.charts import nice_ticks, short, short_apart
from ray_jobs.tuning.names import NONE

_MOST_TICKS = 6
_DECADES = 20
"""Numbers whose largest is so many times their smallest can only be told apart by their logarithms."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Where values of a setting or figure lie along an axis: numbers by size, anything else side by side."""

    values: tuple[Any, ...]
    """All that come, each once; numbers rising."""
    log: bool = False

    @classmethod
    def of(cls, values: Sequence[Any], *, log: bool = False) -> Scale:
        """The scale of some values; ``log`` where all are numbers above 0."""
        distinct = list({json.dumps(value, sort_keys=True): value for value in values}.values())
        if all(is_number(value) for value in distinct):
            return cls(values=tuple(sorted(distinct)), log=log and all(value > 0 for value in distinct))
        return cls(values=tuple(distinct))

    @property
    def is_numeric(self) -> bool:
        """Whether places follow from sizes."""
        return all(is_number(value) for value in self.values)

    def place(self, value: Any) -> float:
        """Where a value lies."""
        if not self.is_numeric:
            return float(self.values.index(value))
        return math.log10(value) if self.log else float(value)

    def ticks(self) -> list[tuple[float, str]]:
        """Places to mark, with what stands there: all values where they are few, else round numbers."""
        if self.is_numeric and len(self.values) > _MOST_TICKS:
            return ticks_between(self.values[0], self.values[-1], log=self.log)
        names = short_apart(self.values) if self.is_numeric else map(name_of, self.values)
        return [(self.place(value), name) for value, name in zip(self.values, names, strict=True)]


def ticks_between(low: float, high: float, *, log: bool = False) -> list[tuple[float, str]]:
    """Round numbers from ``low`` to ``high``, with their places; ``log`` puts them at their logarithms.

    Logarithmic ones are 1, 2 and 5 times powers of ten, or powers of ten alone where those are many.
    """
    if not log:
        round_ones = nice_ticks(low, high)
        return list(zip(round_ones, short_apart(round_ones), strict=True))
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        round_ones = [factor * 10.0**power for power in powers for factor in factors]
        inside = [value for value in round_ones if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(inside) <= _MOST_TICKS:
            break
    shown = inside[:: max(1, math.ceil(len(inside) / _MOST_TICKS))]
    shown = shown if len(shown) > 1 else nice_ticks(low, high)
    shown = [value for value in shown if value > 0]
    return [(math.log10(value), name) for value, name in zip(shown, short_apart(shown), strict=True)]


def wants_log(values: Sequence[Any]) -> bool:
    """Whether numbers above 0 are better drawn by their logarithms: most lie close together far below the largest, or all
    are in one ratio (1, 2, 4)."""
    numbers = sorted({float(value) for value in values if is_number(value)})
    if len(numbers) < 3 or numbers[0] <= 0 or not all(is_number(value) for value in values):
        return False
    ratios = [after / before for before, after in pairwise(numbers)]
    crowded = median(numbers) - numbers[0] < (numbers[-1] - numbers[0]) / 4
    in_one_ratio = math.isclose(min(ratios), max(ratios), rel_tol=1e-6)
    return in_one_ratio or (crowded and numbers[-1] / numbers[0] > _DECADES)


def name_of(value: Any) -> str:
    """A value as it stands at an axis or in a table."""
    if is_number(value):
        return short(value)
    if value is None:
        return NONE
    return value if isinstance(value, str) else json.dumps(value)


def cut(text: str, letters: int) -> str:
    """A text of at most so many letters."""
    return text if len(text) <= letters else f"{text[: max(1, letters - 1)].rstrip(' ,')}…"


def is_number(value: Any) -> bool:
    """Whether a value is a number; yes and no are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
