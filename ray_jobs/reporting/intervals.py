"""Means with their confidence intervals, one below the other on one axis; see ``ray_jobs.reporting.charts``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ray_jobs.reporting.charts import LETTER, nothing, short, svg
from ray_jobs.reporting.scales import cut, ticks_between, wants_log

_ROW, _TOP, _FLOOR = 36, 4, 22
_EDGE = 8
"""Left and right of the outermost mark."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A mean, and half the width of its interval (``None`` for none)."""

    mean: float
    half: float | None = None

    def ends(self) -> tuple[float, float]:
        """Of the interval; twice the mean where there is none."""
        return self.mean - (self.half or 0.0), self.mean + (self.half or 0.0)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart: what it is called, its mean and interval, and what these were made of."""

    label: str
    span: Span | None
    """``None`` where nothing is known: the line is kept, so that charts beside each other can be read across."""
    told: str
    """The mean in words, with its interval."""
    points: tuple[float, ...] = ()
    """What it is the mean of."""
    beside: tuple[Span | None, ...] = ()
    """What it must be seen with, in the order of the chart's references."""
    main: bool = False


def constant(spans: Sequence[Span | None]) -> float | None:
    """The value that all of them have, if they have one, and it is certain."""
    known = [span for span in spans if span is not None]
    first = known[0].mean if known else math.nan
    return first if known and all(math.isclose(span.mean, first) and not span.half for span in known) else None


def interval_chart(lines: Sequence[Line], *, title: str, references: Sequence[str] = (), width: int = 340) -> str:
    """Means as dots with their intervals, each below its label, on one axis; what they are means of as faint dots.

    A reference that is the same for all lines is a broken line across, another one a gray mark in every line. A figure of
    which nothing is below 0 is not drawn below it, however wide its interval; one whose values lie decades apart is drawn
    by its logarithm.
    """
    if all(line.span is None for line in lines):
        return nothing(title, width, 90)
    floor = _TOP + len(lines) * _ROW
    across = [constant([line.beside[place] for line in lines]) for place in range(len(references))]
    own = [line.span for line in lines if line.span is not None]
    spans = own + [one for line in lines for one in line.beside if one is not None]
    values = [*(end for span in spans for end in span.ends()), *(point for line in lines for point in line.points)]
    low, high = min(values), max(values)
    if low < 0 <= min([*(span.mean for span in own), *(point for line in lines for point in line.points)]):
        low = 0.0
    log = low > 0 and wants_log([span.mean for span in spans]) and high / low > 20
    axis = _Axis(low, high, width, log=log)
    parts = [axis.drawn(floor)]
    parts += [
        f'<line class="across" x1="{axis.x(value):.1f}" x2="{axis.x(value):.1f}" y1="{_TOP}" y2="{floor}">'
        f"<title>{escape(name)}: {short(value)}</title></line>"
        for name, value in zip(references, across, strict=True)
        if value is not None
    ]
    for number, line in enumerate(lines):
        others = [span for span, same in zip(line.beside, across, strict=True) if span is not None and same is None]
        parts += _drawn(line, others, axis, _TOP + number * _ROW)
    told = "; ".join(f"{line.label} {line.told}" for line in lines)
    return svg("".join(parts), f"{title}: {told}", width, floor + _FLOOR)


def _drawn(line: Line, beside: Sequence[Span], axis: _Axis, top: float) -> list[str]:
    """A line of the chart: words above, marks below."""
    y = top + 25
    letters = int((axis.width - LETTER * len(line.told) - 12) / LETTER)
    main = " main" if line.main else ""
    parts = [
        f'<text class="label{main}" x="0" y="{top + 14}">{escape(cut(line.label, letters))}'
        f"<title>{escape(line.label)}</title></text>"
        f'<text class="value{main}" x="{axis.width}" y="{top + 14}" text-anchor="end">{escape(line.told)}</text>'
    ]
    for span in beside:
        parts.append(axis.bar(span, y, "whisker"))
        parts.append(f'<circle class="reference" cx="{axis.x(span.mean):.1f}" cy="{y}" r="3.6"/>')
    if line.span is None:
        return parts
    parts.append(axis.bar(line.span, y, "interval"))
    parts += [f'<circle class="bubble" cx="{axis.x(point):.1f}" cy="{y}" r="2.6"/>' for point in line.points]
    parts.append(f'<circle class="mark" cx="{axis.x(line.span.mean):.1f}" cy="{y}" r="4"/>')
    return parts


class _Axis:
    """From values to places, and the marks below."""

    def __init__(self, low: float, high: float, width: int, *, log: bool) -> None:
        self.width, self.log = width, log
        if low == high:
            room = abs(low) * 0.1 or 1.0
            low, high = low - (0 if log else room), high + room
        self.low, self.high = low, high

    def x(self, value: float) -> float:
        place, low, high = (math.log10(one) if self.log else one for one in (max(value, self.low), self.low, self.high))
        return _EDGE + (place - low) / (high - low) * (self.width - 2 * _EDGE)

    def bar(self, span: Span, y: float, kind: str) -> str:
        """An interval, with its ends marked."""
        if not span.half:
            return ""
        left, right = (self.x(end) for end in span.ends())
        return f'<path class="{kind}" d="M{left:.1f} {y}H{right:.1f}M{left:.1f} {y - 4}v8M{right:.1f} {y - 4}v8"/>'

    def drawn(self, floor: float) -> str:
        """Grid lines and numbers."""
        parts = [f'<line class="base" x1="0" x2="{self.width}" y1="{floor}" y2="{floor}"/>']
        for place, name in ticks_between(self.low, self.high, log=self.log):
            x = self.x(10**place if self.log else place)
            half = LETTER * len(name) / 2
            shown = min(max(x, half), self.width - half)
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{floor}"/>')
            parts.append(f'<text class="axis" x="{shown:.1f}" y="{floor + 14}" text-anchor="middle">{name}</text>')
        return "".join(parts)
