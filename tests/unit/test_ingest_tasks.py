"""The line of a running ingest: how far, how fast, how long."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ray_jobs.ingesting import tasks as ingest_tasks
from ray_jobs.ingesting.tasks import Ticker, duration


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(ingest_tasks, "time", clock)
    return clock


def test_what_was_there_says_nothing_about_the_speed(clock: Clock) -> None:
    ticker = Ticker("ingest coco", 10_000, Console(file=io.StringIO()))
    assert ticker.line() == "ingest coco: 0 of 10,000 records"
    ticker.advance(4000, found=True)
    assert ticker.line() == "ingest coco: 4,000 of 10,000 records · 4,000 were there"
    clock.now += 10
    ticker.advance(1000, bad=3)
    assert (
        ticker.line() == "ingest coco: 5,000 of 10,000 records · 100 records/s · 50 s left · 4,000 were there · 3 bad"
    )
    clock.now += 50
    ticker.advance(5000)
    assert "left" not in ticker.line()


def test_without_a_terminal_a_line_comes_now_and_then(clock: Clock) -> None:
    file = io.StringIO()
    with Ticker("x", 100, Console(file=file)) as ticker:
        for _ in range(5):
            clock.now += 4
            ticker.advance(10)
    assert file.getvalue().splitlines() == ["x: 30 of 100 records · 2 records/s · 28 s left"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.9, "9.9 s"), (59.4, "59 s"), (185, "3m05s"), (7800, "2h10m")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
