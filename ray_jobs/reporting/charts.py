"""Small charts as SVG text: no library, no script, colours from the page's style sheet.

Every function returns one ``<svg>`` that scales with its box. Values that are not finite are left out; a chart without any says
so. Classes used: ``axis``, ``grid``, ``mark``, ``mark-soft``, ``reference``, ``label``, ``value``, ``none``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TypeGuard

_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 34
_SMOOTH_FROM = 12
LETTER = 7.0
"""Width of a letter of a label, on the wide side of what browsers give."""
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar: its label and value (``None`` where there is none), whether it is the one to look at, or one that beats it."""

    label: str
    value: float | None
    main: bool = False
    beats: bool = False
    chance: float | None = None
    """What chance alone would give, where that is known: a stroke across."""


# ---------------------------------------------------------------- charts


def line_chart(
    x: Sequence[float],
    y: Sequence[float | None],
    *,
    title: str,
    unit: str = "",
    x_label: str = "step",
    at: float | None = None,
    width: int = 340,
    height: int = 190,
) -> str:
    """A curve; where many points go up and down it is faint, with their moving average on top.

    It goes straight over steps without a value: a loss has one only where the step held something to learn it from.

    Args:
        title: read out by screen readers; the page shows its own.
        unit: of the values, for the reader's summary.
        at: a value of x to mark, where it lies within.
    """
    points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and _finite(b)]
    if not points:
        return nothing(title, width, height)
    frame = Frame([p[0] for p in points], [p[1] for p in points], width, height)
    parts = [frame.axes(x_label)]
    if at is not None and frame.x_low <= at <= frame.x_high:
        ends = f'y1="{frame.top}" y2="{height - _BOTTOM}"'
        parts.append(f'<line class="across" x1="{frame.x(at):.1f}" x2="{frame.x(at):.1f}" {ends}/>')
    smooth = len(points) >= _SMOOTH_FROM and _is_noisy([p[1] for p in points])
    if len(points) == 1:
        parts.append(frame.dot(points[0], 2.5, "mark"))
    else:
        parts.append(f'<polyline class="{"mark-soft" if smooth else "mark"} line" points="{frame.path(points)}"/>')
    if smooth:
        parts.append(f'<polyline class="mark line" points="{frame.path(_moving_average(points))}"/>')
    first, last = points[0][1], points[-1][1]
    summary = f"{title}: from {short(first)} to {short(last)}{' ' + unit if unit else ''} over {len(points)} points"
    return svg("".join(parts), summary, width, height)


def histogram(
    values: Sequence[float], *, title: str, x_label: str, y_label: str, width: int = 420, height: int = 230
) -> str:
    """Columns of how often each whole number comes; neighbours share a column where there are more than 40 numbers."""
    known = [round(v) for v in values if math.isfinite(v)]
    if not known:
        return nothing(title, width, height)
    low, high = min(known), max(known)
    step = max(1, math.ceil((high - low + 1) / 40))
    counts = Counter((v - low) // step for v in known)
    last = (high - low) // step
    edges = [low - step / 2, low + (last + 0.5) * step]
    frame = Frame(edges, [0, max(counts.values())], width, height, pad=0)
    parts = [frame.axes(x_label, y_label, whole_x=True)]
    for number, count in sorted(counts.items()):
        left, right = frame.x(low + (number - 0.5) * step), frame.x(low + (number + 0.5) * step)
        top, bottom = frame.y(count), frame.y(0)
        gap = min(2.0, (right - left) * 0.12)
        name = f"{low + number * step}" if step == 1 else f"{low + number * step}–{low + (number + 1) * step - 1}"
        parts.append(
            f'<rect class="mark bar" x="{left + gap:.1f}" y="{top:.1f}" width="{right - left - 2 * gap:.1f}"'
            f' height="{bottom - top:.1f}" rx="1.5"><title>{name}: {count}</title></rect>'
        )
    mean = sum(known) / len(known)
    return svg("".join(parts), f"{title}: {low} to {high}, mean {mean:.1f}, over {len(known)} images", width, height)


def bubble_chart(
    x: Sequence[float | None],
    y: Sequence[float | None],
    *,
    title: str,
    x_label: str,
    y_label: str,
    width: int = 420,
    height: int = 230,
) -> str:
    """How often each pair of whole numbers comes, as the area of a circle, and the mean of y for every x as a line."""
    pairs = [(round(a), round(b)) for a, b in zip(x, y, strict=True) if _finite(a) and _finite(b)]
    if not pairs:
        return nothing(title, width, height)
    counts = Counter(pairs)
    frame = Frame([p[0] for p in pairs], [0, *(p[1] for p in pairs)], width, height, pad=0.6, whole=True)
    parts = [frame.axes(x_label, y_label, whole_x=True)]
    most, largest = max(counts.values()), max(3.0, min(11.0, 0.65 * frame.unit()))
    for (a, b), count in sorted(counts.items()):
        name = f"<title>{escape(x_label)} {a}, {escape(y_label)} {b}: {count} images</title>"
        parts.append(frame.dot((a, b), max(1.2, largest * math.sqrt(count / most)), "mark-soft bubble", name))
    means = []
    for value in sorted({a for a, _ in pairs}):
        column = [b for a, b in pairs if a == value]
        means.append((float(value), sum(column) / len(column)))
    parts.append(f'<polyline class="mark line" points="{frame.path(means)}"/>')
    parts += [frame.dot(point, 2.6, "mark", f"<title>mean {point[1]:.1f}</title>") for point in means]
    (first_x, first_y), (last_x, last_y) = means[0], means[-1]
    summary = f"{title}: mean {y_label} {first_y:.1f} at {first_x:.0f} {x_label}, {last_y:.1f} at {last_x:.0f}"
    return svg("".join(parts), summary, width, height)


def bar_chart(
    bars: Sequence[Bar], *, title: str, unit: str = "", digits: int = 2, full: float | None = None, width: int = 340
) -> str:
    """Horizontal bars from 0, one below the other, each with its label and value; the room is 100 where the unit is %.

    Args:
        full: what would fill the room, which is then drawn below the bars, so that those of several charts can be compared.
    """
    known = [bar.value for bar in bars if _finite(bar.value)]
    if not known:
        return nothing(title, width, 90)
    row, value_width = 27, 54
    bar_left = max(118 if full is None else 60, 8 + math.ceil(LETTER * max(len(bar.label) for bar in bars)))
    room = width - bar_left - value_width
    scale = room / (full or max(*known, 100 if unit == "%" else 1e-9))
    parts = []
    for number, bar in enumerate(bars):
        middle = number * row + row / 2
        parts.append(
            f'<text class="label" x="{bar_left - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(bar.label)}</text>'
        )
        if bar.value is None or not _finite(bar.value):
            parts.append(f'<text class="none" x="{bar_left}" y="{middle + 4:.1f}">–</text>')
            continue
        if full is not None:
            track = f'x="{bar_left}" y="{middle - 7:.1f}" width="{room}" height="14" rx="2"'
            parts.append(f'<rect class="track" {track}/>')
        length = max(0.0, bar.value) * scale
        kind = "mark" if bar.main else "reference"
        end = bar_left + (room if full is not None else max(length, 1.5))
        parts.append(
            f'<rect class="{kind} bar" x="{bar_left}" y="{middle - 7:.1f}" width="{max(length, 1.5):.1f}" height="14" rx="2"/>'
            f'<text class="value{" main" if bar.main else ""}" x="{end + 6:.1f}" y="{middle + 4:.1f}">'
            f"{bar.value:.{digits}f}{' ▲' if bar.beats else ''}</text>"
        )
        if bar.chance is not None:
            x, name = bar_left + bar.chance * scale, f"by chance {bar.chance:.{digits}f}"
            ends = f'y1="{middle - 10:.1f}" y2="{middle + 10:.1f}"'
            parts.append(f'<line class="chance" x1="{x:.1f}" x2="{x:.1f}" {ends}><title>{name}</title></line>')
    told = ", ".join(
        f"{bar.label} {bar.value:.{digits}f}" for bar in bars if bar.value is not None and _finite(bar.value)
    )
    return svg("".join(parts), f"{title}{f' in {unit}' if unit else ''}: {told}", width, len(bars) * row + 4)


# ---------------------------------------------------------------- axes


def nice_ticks(low: float, high: float, count: int = 4, *, whole: bool = False) -> list[float]:
    """Round numbers, 1, 2 or 5 times a power of ten apart, within [low, high]: as many as there are up to ``count`` + 1.

    There are at least two, unless they must be ``whole``.
    """
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    power = 10 ** math.floor(math.log10(span / count))
    for factor in (0.5, 1, 2, 5, 10):
        step = max(1, round(factor * power)) if whole else factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first <= count:
            break
    return [index * step for index in range(first, last + 1)]


def short(value: float) -> str:
    """A number for an axis: at most three significant digits, thousands as k."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1000:.3g}k"
    if abs(value) < 0.001:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}".replace("-", "−")
    return f"{value:.3g}".replace("-", "−") if abs(value) < 1000 else f"{value:.0f}".replace("-", "−")


def short_apart(values: Sequence[float]) -> list[str]:
    """Different numbers for one axis, each as ``short`` has it; with as many decimals as tell them apart where that does not."""
    names = [short(value) for value in values]
    if len(set(names)) == len(names):
        return names
    least = min((abs(b - a) for a, b in pairwise(sorted(set(values)))), default=1.0)
    decimals = max(0, -math.floor(math.log10(least) + 1e-9))
    return [f"{value:.{decimals}f}".replace("-", "−") for value in values]


class Frame:
    """The plotting area: data to picture coordinates, and the axes."""

    def __init__(
        self,
        x: Sequence[float],
        y: Sequence[float],
        width: int,
        height: int,
        *,
        pad: float = 0.0,
        whole: bool = False,
        top: float | None = None,
    ) -> None:
        self.width, self.height, self.whole = width, height, whole
        self.top = _TOP if top is None else top
        """Above the plot; with room given there, the name of the upright axis stands in it."""
        self._names_above = top is not None
        self.x_low, self.x_high = min(x) - pad, max(x) + pad
        self.y_low, self.y_high = min(y), max(y)
        room = pad if whole else 0.04 * (self.y_high - self.y_low)
        self.y_high += room
        self.y_low -= room if self.y_low > 0 or self.y_low < 0 else 0
        if self.x_high <= self.x_low:
            self.x_low, self.x_high = self.x_low - 1, self.x_high + 1
        if self.y_high <= self.y_low:
            room = abs(self.y_low) * 0.1 or 1.0
            self.y_low, self.y_high = self.y_low - room, self.y_high + room

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x_low) * self.per_x

    @property
    def per_x(self) -> float:
        """Length in the picture of one step in x."""
        return (self.width - _LEFT - _RIGHT) / (self.x_high - self.x_low)

    def holds(self, box: tuple[float, float, float, float]) -> bool:
        """Whether a box (left, top, right, bottom) lies within the plot."""
        left, top, right, bottom = box
        return left >= _LEFT and right <= self.width and top >= self.top - 6 and bottom <= self.height - _BOTTOM + 2

    def y(self, value: float) -> float:
        return (
            self.height
            - _BOTTOM
            - (value - self.y_low) / (self.y_high - self.y_low) * (self.height - self.top - _BOTTOM)
        )

    def unit(self) -> float:
        """Length in the picture of the smaller of one step in x and one in y."""
        return min(self.x(self.x_low + 1) - _LEFT, self.height - _BOTTOM - self.y(self.y_low + 1))

    def path(self, points: Sequence[Point]) -> str:
        return " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in points)

    def dot(self, point: Point, radius: float, kind: str, inside: str = "") -> str:
        at = f'cx="{self.x(point[0]):.1f}" cy="{self.y(point[1]):.1f}" r="{radius:.1f}"'
        return f'<circle class="{kind}" {at}>{inside}</circle>' if inside else f'<circle class="{kind}" {at}/>'

    def axes(
        self, x_label: str, y_label: str = "", *, whole_x: bool = False, x_ticks: Sequence[tuple[float, str]] = ()
    ) -> str:
        """Grid lines with values at the left, ticks below (round numbers, unless some are given), and the labels of the axes."""
        right, floor = self.width - _RIGHT, self.height - _BOTTOM
        parts = []
        upright = nice_ticks(self.y_low, self.y_high, whole=self.whole)
        for value, name in zip(upright, short_apart(upright), strict=True):
            at = self.y(value)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
            parts.append(f'<text class="axis" x="{_LEFT - 6}" y="{at + 3.5:.1f}" text-anchor="end">{name}</text>')
        round_numbers = nice_ticks(self.x_low, self.x_high, 8 if whole_x else 4, whole=whole_x)
        for value, name in x_ticks or zip(round_numbers, short_apart(round_numbers), strict=True):
            at = self.x(value)
            parts.append(f'<text class="axis" x="{at:.1f}" y="{floor + 14}" text-anchor="middle">{escape(name)}</text>')
        parts.append(
            f'<text class="axis" x="{right}" y="{self.height - 4}" text-anchor="end">{escape(x_label)} →</text>'
        )
        if y_label:
            height = 11 if self._names_above else self.height - 4
            parts.append(f'<text class="axis" x="2" y="{height}">↑ {escape(y_label)}</text>')
        return "".join(parts)


# ---------------------------------------------------------------- helpers


def svg(body: str, summary: str, width: int, height: int) -> str:
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {width} {height}" aria-label="{escape(summary)}">'
        f"<title>{escape(summary)}</title>{body}</svg>"
    )


def nothing(title: str, width: int, height: int) -> str:
    text = f'<text class="none" x="{width / 2:.0f}" y="{height / 2:.0f}" text-anchor="middle">no data</text>'
    return svg(text, f"{title}: no data", width, height)


def _finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _is_noisy(values: Sequence[float]) -> bool:
    """Whether a curve goes up and down over more than three times its range."""
    way = sum(abs(b - a) for a, b in pairwise(values))
    return way > 3 * (max(values) - min(values))


def _moving_average(run: Sequence[Point]) -> list[Point]:
    """Mean over a window of a tenth of the points and at least five, narrower towards the ends."""
    half = max(2, len(run) // 20)
    smoothed = []
    for i, (x, _) in enumerate(run):
        reach = min(half, i, len(run) - 1 - i)
        window = run[i - reach : i + reach + 1]
        smoothed.append((x, sum(b for _, b in window) / len(window)))
    return smoothed
