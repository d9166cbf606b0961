"""Charts of sweeps: where points lie, what is joined, and that no words run into each other."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.reporting.charts import LETTER, Bar, bar_chart, line_chart, nice_ticks, short_apart
from ray_jobs.reporting.intervals import Line, Span, interval_chart
from ray_jobs.reporting.parallel import parallel_chart
from ray_jobs.reporting.scales import Scale, cut, ticks_between, wants_log
from ray_jobs.reporting.scatter import Mark, scatter_chart
from tests.pages import check

TOKENIZERS = ["stick-breaking, soft", "stick-breaking, hard", "DPC-KNN", "cosine graph", "k-means", "all patches"]


def words(chart: str, kind: str) -> list[tuple[float, float, str, str]]:
    """Every text of a class: x, y, anchor and what it says."""
    found = re.findall(rf'<text class="({kind}[^"]*)"([^>]*)>([^<]*)', chart)
    told = []
    for _, attributes, text in found:
        values = dict(re.findall(r'([a-z-]+)="([^"]*)"', attributes))
        told.append((float(values["x"]), float(values["y"]), values.get("text-anchor", "start"), text))
    return told


def circles(chart: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.-]+)" cy="([\d.-]+)"', chart)]


# ---------------------------------------------------------------- axes


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6))
def test_an_axis_has_at_least_two_round_numbers(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    assert 2 <= len(ticks) <= 5
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)


def test_the_range_that_had_a_single_tick_has_more() -> None:
    assert nice_ticks(0.06, 0.914) == pytest.approx([0.2, 0.4, 0.6, 0.8])


@given(low=st.floats(1e-4, 1e4), ratio=st.floats(1.5, 1e6))
def test_logarithmic_ticks_are_at_their_places(low: float, ratio: float) -> None:
    ticks = ticks_between(low, low * ratio, log=True)
    assert 1 <= len(ticks) <= 6
    assert all(math.log10(low) - 1e-6 <= place <= math.log10(low * ratio) + 1e-6 for place, _ in ticks)


def test_scales_tell_numbers_from_names() -> None:
    assert Scale.of([3, 1, 2, 1]).values == (1, 2, 3)
    assert Scale.of(["b", "a", "b"]).place("a") == 1.0
    assert not Scale.of([0.0, 1.0], log=True).log, "zero has no logarithm"
    assert [name for _, name in Scale.of([True, False]).ticks()] == ["true", "false"]
    assert [name for _, name in Scale.of(list(range(20))).ticks()] == ["0", "5", "10", "15"]


def test_doublings_and_decades_are_drawn_by_their_logarithms() -> None:
    assert wants_log([1.0, 2.0, 4.0, 8.0]) and wants_log([4.8, 5.0, 256.0])
    assert not wants_log([0.0, 0.3, 1.0]) and not wants_log([1, 2, 3]) and not wants_log(["a", "b", "c"])
    assert not wants_log([0.1, 2.0, 4.0, 6.0, 8.0, 9.0]), "spread evenly, whatever the smallest is"
    assert not wants_log([1.0, 2.0]), "two points are in any ratio"


@given(st.floats(-1e4, 1e4), st.floats(1e-4, 1e4))
def test_ticks_can_be_told_apart(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    assert len(set(short_apart(ticks))) == len(ticks)


def test_ticks_have_as_many_digits_as_it_takes() -> None:
    assert short_apart([10.41, 10.42, 10.43]) == ["10.41", "10.42", "10.43"]
    assert short_apart([1.0, 2.0]) == ["1", "2"]
    assert Scale.of([0.00015, 0.0002]).ticks() == [(0.00015, "1.5e−4"), (0.0002, "2e−4")]


def test_numbers_below_an_axis_are_whole() -> None:
    rates = [0.00422, 0.00433, 0.00444, 0.00455, 0.00466, 0.00477]
    chart = scatter_chart([Mark(x=rate, y=1.0, name="n") for rate in rates], title="t", x_label="rate", joined=True)
    told = {text for _, _, text, _ in words(chart, "axis")} | {text for _, _, _, text in words(chart, "axis")}
    assert "0.00422" in told and not any("…" in one for one in told)


def test_a_line_without_a_figure_keeps_its_place() -> None:
    lines = [spread("a", 1.0, None), Line(label="b", span=None, told="–"), spread("c", 2.0, None)]
    chart = interval_chart(lines, title="t")
    whole = interval_chart([*lines[:1], spread("b", 1.5, None), *lines[2:]], title="t")
    assert chart.count('class="mark"') == 2 and whole.count('class="mark"') == 3
    assert chart.partition("viewBox")[2][:20] == whole.partition("viewBox")[2][:20]
    assert "no data" in interval_chart(lines[1:2], title="t")


def test_what_is_cut_says_so() -> None:
    assert cut("stick-breaking, soft", 30) == "stick-breaking, soft"
    assert cut("stick-breaking, soft", 16) == "stick-breaking…"


def test_a_value_of_a_curve_can_be_marked() -> None:
    curve = line_chart([0, 5, 10], [1.0, 2.0, 4.0], title="t", at=5)
    across = re.search(r'class="across" x1="([\d.]+)" x2="([\d.]+)"', curve)
    points = re.search(r'points="([^"]*)"', curve)
    assert across and points
    assert across[1] == across[2] == points[1].split()[1].split(",")[0]
    assert "across" not in line_chart([0, 5, 10], [1.0, 2.0, 4.0], title="t", at=11)


def test_bars_of_several_charts_have_one_measure() -> None:
    long, short = (
        bar_chart([Bar(label="a", value=v, main=True, chance=0.25)], title="t", full=1.0) for v in (1.0, 0.5)
    )

    def width(chart: str, kind: str) -> float:
        return float(re.search(rf'class="{kind}"[^>]* width="([\d.]+)"', chart)[1])  # type: ignore[index]

    assert width(long, "mark bar") == pytest.approx(2 * width(short, "mark bar"))
    assert width(long, "track") == width(short, "track") == pytest.approx(width(long, "mark bar"))
    assert "by chance 0.25" in short and "chance" not in bar_chart([Bar(label="a", value=1.0)], title="t")


# ---------------------------------------------------------------- points


def test_points_lie_where_they_should() -> None:
    marks = [Mark(x=x, y=y, name=f"{x}") for x, y in ((1, 0.0), (10, 1.0), (100, 2.0))]
    places = [x for x, _ in circles(scatter_chart(marks, title="t", x_label="x", y_label="y", log_x=True))]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.2), "a decade is a decade"
    assert "no data" in scatter_chart([Mark(x=1, y=None, name="n")], title="t", x_label="x", y_label="y")


def test_two_figures_of_the_same_trials_are_not_joined() -> None:
    marks = [Mark(x=0.4, y=19.0, name="a"), Mark(x=0.4, y=18.0, name="b"), Mark(x=0.5, y=21.0, name="c")]
    assert "polyline" not in scatter_chart(marks, title="t", x_label="x", y_label="y")
    joined = scatter_chart(marks, title="t", x_label="x", y_label="y", joined=True)
    assert joined.count("<polyline") == 1
    assert len(re.search(r'points="([^"]*)"', joined)[1].split()) == 2, "the mean of every value"  # type: ignore[index]


def test_what_ended_early_does_not_count_in_the_mean() -> None:
    marks = [
        Mark(x=x, y=y, name="n", faint=faint) for x, y, faint in ((1, 1.0, False), (1, 9.0, True), (1, 3.0, False))
    ]
    marks += [Mark(x=2, y=2.0, name="n")]
    chart = scatter_chart(marks, title="t", x_label="x", joined=True)
    (_, first), (_, second) = (
        tuple(map(float, one.split(","))) for one in re.search(r'points="([^"]*)"', chart)[1].split()
    )  # type: ignore[index]
    assert first == pytest.approx(second, abs=0.1)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.sampled_from(TOKENIZERS)), min_size=1, max_size=12))
def test_names_of_points_cover_neither_points_nor_each_other(rows: list[tuple[float, float, str]]) -> None:
    marks = [Mark(x=x, y=y, name=name, beside=name) for x, y, name in rows]
    chart = scatter_chart(marks, title="t", x_label="x", y_label="y", width=440)
    boxes = []
    for x, y, anchor, text in words(chart, "beside"):
        wide = LETTER * 6.2 / 7 * len(text)
        left = x - {"start": 0.0, "end": wide, "middle": wide / 2}[anchor]
        boxes.append((left, y - 9, left + wide, y + 2))
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 40 and right <= 440
        assert not any(left < x < right and top < y < bottom for x, y in circles(chart))
        assert all(
            right <= b[0] + 0.1 or b[2] <= left + 0.1 or bottom <= b[1] + 0.1 or b[3] <= top + 0.1
            for b in boxes[:number]
        )


@given(st.lists(st.floats(0.01, 1e3), min_size=2, max_size=6, unique=True))
def test_numbers_below_an_axis_do_not_touch(values: list[float]) -> None:
    chart = scatter_chart([Mark(x=x, y=1.0, name="n") for x in values], title="t", x_label="", joined=True, width=300)
    floor = max(y for _, y, _, _ in words(chart, "axis")) - 17
    ticks = sorted((x, text) for x, y, anchor, text in words(chart, "axis") if anchor == "middle" and y > floor)
    assert ticks
    for (x, text), (next_x, next_text) in pairwise(ticks):
        assert x + 3.0 * len(text) <= next_x - 3.0 * len(next_text)


# ---------------------------------------------------------------- intervals


def spread(label: str, mean: float, half: float | None, **more: Any) -> Line:
    return Line(label=label, span=Span(mean=mean, half=half), told=f"{mean:.3f}", **more)


def test_intervals_are_drawn_on_an_axis() -> None:
    chart = interval_chart([spread("a", 1.0, 0.5, points=(0.9, 1.1)), spread("b", 2.0, None, main=True)], title="t")
    check(chart)
    assert (
        chart.count('class="interval"') == 1 and chart.count('class="mark"') == 2 and chart.count('class="bubble"') == 2
    )
    assert len([text for _, _, anchor, text in words(chart, "axis") if anchor == "middle"]) >= 2
    assert "no data" in interval_chart([], title="t")
    left, right = map(float, re.search(r'class="interval" d="M([\d.]+) [\d.]+H([\d.]+)', chart).groups())  # type: ignore[union-attr]
    assert circles(chart)[2][0] == pytest.approx((left + right) / 2, abs=0.1), "the mean is in the middle of it"


def test_a_reference_that_is_the_same_for_all_is_one_line_across() -> None:
    fixed, own = Span(mean=0.3), Span(mean=0.2, half=0.01)
    lines = [spread(name, mean, 0.05, beside=(fixed, own)) for name, mean in (("a", 0.4), ("b", 0.5))]
    chart = interval_chart(lines, title="t", references=("constant", "blind"))
    assert chart.count('class="across"') == 1 and "constant: 0.3" in chart
    assert chart.count('class="reference"') == 2 and chart.count('class="whisker"') == 2


def test_seconds_are_not_drawn_below_zero_and_decades_not_crowded() -> None:
    wide = interval_chart([spread("a", 198.0, 266.0), spread("b", 60.0, 4.0)], title="t")
    assert not any("−" in text for _, _, _, text in words(wide, "axis"))
    assert float(re.search(r'd="M([\d.]+)', wide)[1]) == 8.0, "cut at zero"  # type: ignore[index]
    tokens = interval_chart(
        [spread(name, mean, 0.1) for name, mean in zip("abc", (5.0, 10.0, 256.0), strict=True)], title="t"
    )
    places = [x for x, _ in circles(tokens)]
    assert places[1] - places[0] == pytest.approx((places[2] - places[0]) * math.log(2) / math.log(51.2), abs=2)


def test_labels_keep_clear_of_figures() -> None:
    chart = interval_chart(
        [spread("a name that is far too long to stand in a chart of that size", 1.0, 0.1)], title="t"
    )
    (_, _, _, label), (right, _, _, told) = *words(chart, "label"), *words(chart, "value")
    assert label.endswith("…") and "far too long" in chart
    assert LETTER * len(label) < right - LETTER * len(told)


# ---------------------------------------------------------------- parallel coordinates


def test_parallel_coordinates_leave_out_rows_with_gaps() -> None:
    rows = [(0.1, "soft", 2.0), (1.0, "hard", 3.0), (0.5, "hard", None)]
    chart = parallel_chart(("rate", "kind", "psnr"), rows, title="t", main=1, logs=(True, False, False))
    assert chart.count("<polyline") == 2
    assert chart.count('class="mark line"') == 1
    check(chart)
    assert "no data" in parallel_chart(("a",), [(1.0,)], title="t", main=0)


def test_names_of_axes_do_not_overlap_and_names_of_values_are_whole() -> None:
    names = ["tokenizer", *("right answers, most frequent to these words",) * 5, "seconds of training, second stage"]
    rows = [(name, *(float(place + number) for number in range(6))) for place, name in enumerate(TOKENIZERS)]
    chart = parallel_chart(names, rows, title="t", main=0)
    assert [text for x, _, anchor, text in words(chart, "axis over") if anchor == "end"] == TOKENIZERS
    assert min(x - LETTER * len(text) for x, _, anchor, text in words(chart, "axis over") if anchor == "end") >= 0
    heads = [(float(x), text) for x, text in re.findall(r'<tspan x="([\d.]+)"[^>]*>([^<]*)', chart)]
    lines: dict[float, float] = {}
    for x, text in heads:
        lines[x] = max(lines.get(x, 0.0), 6.2 * len(text) / 2)
    for (x, half), (next_x, next_half) in pairwise(sorted(lines.items())):
        assert x + half <= next_x - next_half
