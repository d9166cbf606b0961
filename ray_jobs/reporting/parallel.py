"""Parallel coordinates: many trials over all their settings and figures; see ``ray_jobs.reporting.charts``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape
from textwrap import wrap
from typing import Any

from ray_jobs.reporting.charts import LETTER, nothing, short_apart, svg
from ray_jobs.reporting.scales import Scale, cut, name_of

_MOST_NAMES = 12
_LONGEST = 26
_LINE = 14


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

    Names of values that are no numbers have room of their own: those of the first axis at its left, others beside theirs.

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
    left, right = 14 + max(46.0, LETTER * _longest(scales[0])), width - 62
    places = [left + (right - left) * number / (len(names) - 1) for number in range(len(names))]
    heads = [wrap(name, max(8, int(0.92 * (right - left) / (len(names) - 1) / LETTER))) for name in names]
    heads[-1] = wrap(names[-1], 16)
    heads[0] = wrap(names[0], 20)
    top, bottom = 20 + _LINE * max(map(len, heads)), height - 16

    def at(column: int, value: Any) -> float:
        ends = [scales[column].place(one) for one in (scales[column].values[0], scales[column].values[-1])]
        if not scales[column].is_numeric:
            ends.reverse()  # names are read downwards
        share = 0.5 if ends[0] == ends[1] else (scales[column].place(value) - ends[0]) / (ends[1] - ends[0])
        return bottom - share * (bottom - top)

    parts = [
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>' for x in places
    ]  # below the lines
    for number, row in sorted(whole, key=lambda one: one[0] == main):
        points = " ".join(f"{places[column]:.1f},{at(column, value):.1f}" for column, value in enumerate(row))
        kind = "mark" if number == main else "mark-soft"
        parts.append(f'<polyline class="{kind} line" points="{points}"/>')
    room = int((places[1] - places[0] - 12) / 6.2)
    for column, head in enumerate(heads):
        parts.append(_head(head, places[column], top))
        x, anchor = (places[column] - 8, "end") if column == 0 else (places[column] + 7, "start")
        named = _named(scales[column], [at(column, value) for value in scales[column].values])
        told = short_apart(named) if scales[column].is_numeric else map(name_of, named)
        parts += [
            f'<text class="axis over" x="{x:.1f}" y="{at(column, value) + 3.5:.1f}" text-anchor="{anchor}">'
            f"{escape(cut(name, _LONGEST if column == 0 else room))}</text>"
            for value, name in zip(named, told, strict=True)
        ]
    return svg("".join(parts), f"{title}: {len(whole)} lines over {', '.join(names)}", width, height)


def _head(lines: Sequence[str], x: float, top: float) -> str:
    """The name of an axis, in as many lines as it takes, the last one right above the axis."""
    spans = [
        f'<tspan x="{x:.1f}" y="{top - 14 - _LINE * (len(lines) - 1 - number):.1f}">{escape(line)}</tspan>'
        for number, line in enumerate(lines)
    ]
    return f'<text class="label" text-anchor="middle">{"".join(spans)}</text>'


def _named(scale: Scale, heights: Sequence[float]) -> list[Any]:
    """The values that are written at an axis: all of a few that do not touch, else the first and the last."""
    apart = all(abs(a - b) >= 12 for a, b in itertools.pairwise(heights))
    if len(scale.values) <= _MOST_NAMES and apart and not (scale.is_numeric and len(scale.values) > 6):
        return list(scale.values)
    return list(dict.fromkeys((scale.values[0], scale.values[-1])))


def _longest(scale: Scale) -> int:
    return max(len(cut(name_of(value), _LONGEST)) for value in scale.values)
