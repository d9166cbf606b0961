"""Charts of the report: whatever the values, with room, and ticks for people."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

from ray_jobs.reporting import charts
from ray_jobs.reporting.data import duration
from tests.pages import check
from tests.reports import NAN


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([], []),
        ([1], [2.0]),
        ([1, 2, 3], [NAN, NAN, NAN]),
        ([1, 2, 3], [1.0, NAN, 3.0]),
        ([1, 2], [5.0, 5.0]),
        ([1, 2], [-1e-9, float("inf")]),
        ([1, 2, 3], [1.0, None, -2e6]),
        (list(range(100)), [float(i % 7) for i in range(100)]),
    ],
)
def test_charts_take_whatever_comes(x: list[float], y: list[float | None]) -> None:
    drawn = [
        charts.line_chart(x, y, title="t & t"),
        charts.bubble_chart(x, y, title="t", x_label="<a>", y_label="b"),
        charts.histogram([v for v in y if v is not None], title="t", x_label="<a>", y_label="b"),
        charts.bar_chart([charts.Bar(label=f"<{a}>", value=b) for a, b in zip(x, y, strict=True)], title="t"),
    ]
    known = [v for v in y if v is not None and np.isfinite(v)]
    for svg in drawn:
        checker = check(svg)
        assert ("no data" in checker.text) == (not known)
        assert not re.search(r'="-?(nan|inf)', svg)


def test_a_curve_goes_over_steps_without_a_value() -> None:
    svg = charts.line_chart([1, 2, 3, 4, 5], [1.0, None, 2.0, None, 3.0], title="t")
    assert svg.count("<polyline") == 1
    assert "<circle" not in svg
    assert len(re.findall(r"[\d.]+,[\d.]+", svg.partition("points=")[2].partition("/>")[0])) == 3


def test_a_sawtooth_of_few_points_has_a_calmer_average() -> None:
    svg = charts.line_chart(range(23), [2.0 - 0.02 * i + (i % 2) for i in range(23)], title="t")
    raw, calm = (
        [float(y) for y in re.findall(r"[\d.]+,([\d.]+)", part.partition('"')[0])] for part in svg.split('points="')[1:]
    )
    assert len(raw) == len(calm) == 23

    def way(values: list[float]) -> float:
        return sum(abs(a - b) for a, b in pairwise(values[2:-2]))

    assert way(calm) < 0.3 * way(raw)


def test_labels_of_bars_have_room() -> None:
    long = "a label of more than thirty letters"
    svg = charts.bar_chart([charts.Bar(label=long, value=1.0), charts.Bar(label="b", value=2.0, beats=True)], title="t")
    end = float(re.search(r'class="label" x="([\d.]+)"', svg)[1])  # type: ignore[index]
    assert end >= 6.5 * len(long)
    assert "2.00 ▲" in svg
    assert "1.00 ▲" not in svg


def test_histogram_counts() -> None:
    svg = charts.histogram([2, 3, 3, 3, 5], title="t", x_label="x", y_label="y")
    assert re.findall(r"<title>(\d+: \d+)</title>", svg) == ["2: 1", "3: 3", "5: 1"]
    wide = charts.histogram(list(range(200)), title="t", x_label="x", y_label="y")
    assert sum(int(count) for count in re.findall(r"<title>\d+–\d+: (\d+)</title>", wide)) == 200


def test_ticks_are_round_and_inside() -> None:
    assert charts.nice_ticks(0, 10) == [0, 5, 10]
    assert charts.nice_ticks(0.12, 0.31) == pytest.approx([0.15, 0.2, 0.25, 0.3])
    assert charts.nice_ticks(1, 1) == [1]
    assert charts.nice_ticks(1, 3, 8, whole=True) == [1, 2, 3]
    assert [charts.short(v) for v in (0, 12345, 0.0001, 1234, -1.5)] == ["0", "12.3k", "1e−4", "1234", "−1.5"]


def test_durations_for_people() -> None:
    assert [duration(s) for s in (0.4, 59.6, 185, 7800)] == ["0 s", "1 min 00 s", "3 min 05 s", "2 h 10 min"]
