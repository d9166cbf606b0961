"""Points of two figures; see ``ray_jobs.reporting.charts``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ray_jobs.reporting.charts import LETTER, Frame, nothing, short, svg
from ray_jobs.reporting.scales import Scale, cut, ticks_between

_TOP = 26
"""Room for the name of the upright axis."""
_SMALL = 6.2 / 7.0
"""Letters beside a point, in those of a label."""
_MOST_NAMED = 16
Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point: where it lies, what it is called, and whether it is one to look at, or one that does not count."""

    x: Any
    y: float | None
    name: str
    beside: str = ""
    """What stands beside it, where there is room."""
    half_x: float | None = None
    half_y: float | None = None
    """Half the widths of its confidence intervals."""
    main: bool = False
    faint: bool = False


def scatter_chart(
    marks: Sequence[Mark],
    *,
    title: str,
    x_label: str,
    y_label: str = "",
    log_x: bool = False,
    joined: bool = False,
    width: int = 340,
    height: int = 210,
) -> str:
    """A circle for every point that has both; those that are ``main`` are filled, those that are ``faint`` gray.

    Args:
        title: read out by screen readers, and of every point's name; the page shows its own.
        log_x: the x axis is logarithmic, where no x and no interval reaches 0.
        joined: x is a setting: where several points share a value, a line goes through their means. Of two figures of the
            same trials there is nothing to join.
    """
    known = [mark for mark in marks if mark.y is not None and math.isfinite(mark.y) and mark.x is not None]
    if not known:
        return nothing(title, width, height)
    reached = [mark.x + side * mark.half_x for mark in known if mark.half_x is not None for side in (-1, 1)]
    scale = Scale.of([*(mark.x for mark in known), *reached], log=log_x)
    x_places = [scale.place(value) for value in scale.values]
    heights = [_y(mark) + side * (mark.half_y or 0.0) for mark in known for side in (-1, 1)]
    frame = Frame(x_places, heights, width, height, pad=_pad(x_places), top=_TOP if y_label else None)
    ticks = Scale.of([mark.x for mark in known], log=scale.log).ticks()
    if scale.is_numeric and not joined:
        ticks = ticks_between(scale.values[0], scale.values[-1], log=scale.log)
    parts = [frame.axes(x_label, y_label, x_ticks=_apart(ticks, frame, whole=scale.is_numeric))]
    counted = [mark for mark in known if not mark.faint]
    columns = {scale.place(mark.x): [_y(m) for m in counted if m.x == mark.x] for mark in counted}
    if joined and any(len(column) > 1 for column in columns.values()) and len(columns) > 1:
        means = [(place, sum(column) / len(column)) for place, column in sorted(columns.items())]
        parts.append(f'<polyline class="trend" points="{frame.path(means)}"/>')
    for mark in sorted(known, key=lambda mark: mark.main):
        parts += _drawn(mark, scale, frame, y_label or title)
    if len(known) <= _MOST_NAMED:
        parts += _names(known, scale, frame)
    best, least = max(map(_y, known)), min(map(_y, known))
    return svg("".join(parts), f"{title}: {len(known)} points, {short(least)} to {short(best)}", width, height)


def _drawn(mark: Mark, scale: Scale, frame: Frame, figure: str) -> list[str]:
    """A point with its intervals."""
    x, y = scale.place(mark.x), _y(mark)
    kind = "mark" if mark.main else "reference" if mark.faint else "mark-soft bubble"
    parts = []
    if mark.half_x:
        left, right = (frame.x(scale.place(mark.x + side * mark.half_x)) for side in (-1, 1))
        parts.append(
            f'<line class="whisker" x1="{left:.1f}" x2="{right:.1f}" y1="{frame.y(y):.1f}" y2="{frame.y(y):.1f}"/>'
        )
    if mark.half_y:
        low, high = (frame.y(y + side * mark.half_y) for side in (-1, 1))
        parts.append(
            f'<line class="whisker" x1="{frame.x(x):.1f}" x2="{frame.x(x):.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
        )
    told = f"<title>{escape(mark.name)}: {escape(figure)} {short(y)}</title>"
    return [*parts, frame.dot((x, y), 4.4 if mark.main else 3.8, kind, told)]


def _names(marks: Sequence[Mark], scale: Scale, frame: Frame) -> list[str]:
    """What stands beside the points: right, left, above or below, wherever it covers no point and no other name."""
    at = [(frame.x(scale.place(mark.x)), frame.y(_y(mark))) for mark in marks]
    taken: list[Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y in at]
    parts = []
    for mark, (x, y) in sorted(zip(marks, at, strict=True), key=lambda one: not one[0].main):
        if not mark.beside:
            continue
        wide = LETTER * _SMALL * len(mark.beside)
        places = ((x + 8, y + 4, "start"), (x - 8, y + 4, "end"), (x, y - 8, "middle"), (x, y + 16, "middle"))
        for left, base, anchor in places:
            start = left - {"start": 0.0, "end": wide, "middle": wide / 2}[anchor]
            box = (start, base - 9, start + wide, base + 2)
            if frame.holds(box) and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                kind = "beside main" if mark.main else "beside"
                parts.append(
                    f'<text class="{kind}" x="{left:.1f}" y="{base:.1f}" text-anchor="{anchor}">{escape(mark.beside)}</text>'
                )
                break
    return parts


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _apart(ticks: Sequence[tuple[float, str]], frame: Frame, *, whole: bool) -> list[tuple[float, str]]:
    """Those ticks that do not run into the one before; names are cut to what there is room for, unless they are ``whole``."""
    if not ticks:
        return []
    room = (frame.x_high - frame.x_low) / len(ticks) * frame.per_x
    letters = max(4, int(min(room, frame.width) / (LETTER * _SMALL)) - 1)
    kept, end = [], -math.inf
    for place, name in ticks:
        told = name if whole else cut(name, letters)
        half = LETTER * _SMALL * len(told) / 2
        if frame.x(place) - half >= end + 3:
            kept.append((place, told))
            end = frame.x(place) + half
    return kept


def _pad(places: Sequence[float]) -> float:
    """Room beside the outermost points, in the axis's own measure."""
    return 0.06 * (max(places) - min(places)) if max(places) > min(places) else 0.5


def _y(mark: Mark) -> float:
    assert mark.y is not None  # of those that are shown
    return mark.y
