"""Charts of many trials: points of two figures, and parallel coordinates; see ``ray_jobs.reporting.charts``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ray_jobs.reporting.charts import Frame, nothing, short, svg

_MOST_TICKS = 6
_MOST_LETTERS = 9


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
        if all(_is_number(value) for value in distinct):
            return cls(values=tuple(sorted(distinct)), log=log and all(value > 0 for value in distinct))
        return cls(values=tuple(distinct))

    @property
    def is_numeric(self) -> bool:
        """Whether places follow from sizes."""
        return all(_is_number(value) for value in self.values)

    def place(self, value: Any) -> float:
        """Where a value lies."""
        if not self.is_numeric:
            return float(self.values.index(value))
        return math.log10(value) if self.log else float(value)

    def ticks(self) -> list[tuple[float, str]]:
        """Places to mark, with what stands there: all values where they are few, else round numbers by the chart (none)."""
        if self.is_numeric and len(self.values) > _MOST_TICKS:
            if not self.log:
                return []
            low, high = self.place(self.values[0]), self.place(self.values[-1])
            places = [low + share * (high - low) / 3 for share in range(4)]
            return [(place, short(10**place)) for place in places]
        return [(self.place(value), name_of(value)) for value in self.values]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point: where it lies, what it is called, and whether it is one to look at, or one that does not count."""

    x: Any
    y: float | None
    name: str
    main: bool = False
    faint: bool = False


def scatter_chart(
    marks: Sequence[Mark],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    width: int = 340,
    height: int = 210,
) -> str:
    """A circle for every point that has both; those that are ``main`` are filled, those that are ``faint`` gray.

    Points whose x is no number stand side by side by their name. The mean of the points that count is a line where several
    of them share an x.
    """
    known = [mark for mark in marks if mark.y is not None and math.isfinite(mark.y) and mark.x is not None]
    if not known:
        return nothing(title, width, height)
    scale = Scale.of([mark.x for mark in known], log=log_x)
    frame = Frame([scale.place(mark.x) for mark in known], [_y(mark) for mark in known], width, height, pad=_pad(scale))
    parts = [frame.axes(x_label, y_label, x_ticks=scale.ticks())]
    counted = [mark for mark in known if not mark.faint]
    columns = {scale.place(mark.x): [_y(m) for m in counted if m.x == mark.x] for mark in counted}
    if any(len(column) > 1 for column in columns.values()) and len(columns) > 1:
        means = [(place, sum(column) / len(column)) for place, column in sorted(columns.items())]
        parts.append(f'<polyline class="mark-soft line" points="{frame.path(means)}"/>')
    for mark in sorted(known, key=lambda mark: mark.main):
        kind = "mark" if mark.main else "reference" if mark.faint else "mark-soft bubble"
        told = f"<title>{escape(mark.name)}: {escape(y_label)} {short(_y(mark))}</title>"
        parts.append(frame.dot((scale.place(mark.x), _y(mark)), 4.0 if mark.main else 3.4, kind, told))
    best, least = max(map(_y, known)), min(map(_y, known))
    return svg("".join(parts), f"{title}: {len(known)} points, {short(least)} to {short(best)}", width, height)


def parallel_chart(
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    title: str,
    main: int,
    logs: Sequence[bool] | None = None,
    width: int = 960,
    height: int = 300,
) -> str:
    """Parallel coordinates: an axis for every column, a line for every row; row ``main`` is strong (Inselberg 1985).

    Args:
        names: of the columns.
        rows: their values, numbers or anything else; rows with a gap are left out.
        logs: which columns are drawn by their logarithm.
    """
    logs = logs or [False] * len(names)
    whole = [(number, row) for number, row in enumerate(rows) if all(value is not None for value in row)]
    if not whole or len(names) < 2:
        return nothing(title, width, height)
    columns = zip(*(row for _, row in whole), strict=True)
    scales = [Scale.of(column, log=log) for column, log in zip(columns, logs, strict=True)]
    left, right, top, bottom = 60, width - 60, 34, height - 22
    places = [left + (right - left) * number / (len(names) - 1) for number in range(len(names))]

    def at(column: int, value: Any) -> float:
        ends = [scales[column].place(one) for one in (scales[column].values[0], scales[column].values[-1])]
        share = 0.5 if ends[0] == ends[1] else (scales[column].place(value) - ends[0]) / (ends[1] - ends[0])
        return bottom - share * (bottom - top)

    parts = []
    for number, row in sorted(whole, key=lambda one: one[0] == main):
        points = " ".join(f"{places[column]:.1f},{at(column, value):.1f}" for column, value in enumerate(row))
        kind = "mark" if number == main else "mark-soft"
        parts.append(f'<polyline class="{kind} line" points="{points}"/>')
    for column, name in enumerate(names):
        x, scale = places[column], scales[column]
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text class="label" x="{x:.1f}" y="14" text-anchor="middle">{escape(name)}</text>')
        shown = scale.values if len(scale.values) <= _MOST_TICKS else (scale.values[0], scale.values[-1])
        parts += [
            f'<text class="axis" x="{x + 5:.1f}" y="{at(column, value) + 3.5:.1f}">{escape(name_of(value))}</text>'
            for value in shown
        ]
    return svg("".join(parts), f"{title}: {len(whole)} lines over {', '.join(names)}", width, height)


def interval_chart(
    rows: Sequence[tuple[str, float, float | None]], *, title: str, main: int | None = None, width: int = 420
) -> str:
    """Means as dots, one below the other, with their confidence intervals as lines.

    Args:
        rows: label, mean, and half the width of the interval (``None`` for none).
        main: the row to look at.
    """
    known = [(place, label, mean, half or 0.0) for place, (label, mean, half) in enumerate(rows) if math.isfinite(mean)]
    if not known:
        return nothing(title, width, 90)
    row, right = 27, 60
    left = max(118, 8 + math.ceil(7.0 * max(len(label) for _, label, _, _ in known)))
    low, high = min(mean - half for *_, mean, half in known), max(mean + half for *_, mean, half in known)
    span = (high - low) or abs(high) or 1.0

    def x(value: float) -> float:
        return left + 8 + (value - low) / span * (width - left - right - 16)

    parts = []
    for line, (place, label, mean, half) in enumerate(known):
        y = line * row + row / 2
        kind = "mark" if place == main else "mark-soft"
        parts.append(f'<text class="label" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>')
        if half:
            parts.append(
                f'<line class="{kind} line" x1="{x(mean - half):.1f}" x2="{x(mean + half):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
        parts.append(f'<circle class="mark" cx="{x(mean):.1f}" cy="{y:.1f}" r="3.6"/>')
        parts.append(f'<text class="value" x="{width - right + 8}" y="{y + 4:.1f}">{short(mean)}</text>')
    told = ", ".join(f"{label} {short(mean)} ± {short(half)}" for _, label, mean, half in known)
    return svg("".join(parts), f"{title}: {told}", width, len(known) * row + 4)


def name_of(value: Any) -> str:
    """A value as it stands at an axis."""
    if _is_number(value):
        return short(value)
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"


def _pad(scale: Scale) -> float:
    """Room beside the outermost points, in the axis's own measure."""
    places = [scale.place(value) for value in scale.values]
    return 0.06 * (max(places) - min(places)) if len(places) > 1 else 0.5


def _y(mark: Mark) -> float:
    assert mark.y is not None  # of those that are shown
    return mark.y


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
