"""Slow ranks: the ratio by hand, and one warning for one that is steadily slow."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ray_jobs.training import stragglers
from ray_jobs.training.machine import WorkerContext
from ray_jobs.training.stragglers import STEADY, StragglerGauge, slowest


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([1.0, 3.0], (1, 3.0)),
        ([2.0, 1.0, 1.5, 1.0], (0, 2.0)),
        ([1e-5, 5e-4], (1, 1.0)),
        ([1.0, 1.0], (0, 1.0)),
        ([0.0, 0.1], (1, 100.0)),
    ],
)
def test_by_hand(seconds: list[float], expected: tuple[int, float]) -> None:
    rank, ratio = slowest(seconds)
    assert (rank, ratio) == (expected[0], pytest.approx(expected[1]))


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=9), st.randoms())
def test_the_ratio_is_at_least_one_and_knows_no_order(seconds: list[float], random) -> None:
    rank, ratio = slowest(seconds)
    assert seconds[rank] == max(seconds) and ratio >= 1
    shuffled = random.sample(seconds, len(seconds))
    assert slowest(shuffled)[1] == pytest.approx(ratio)


def gauge(monkeypatch: pytest.MonkeyPatch, others: Sequence[float], factor: float = 1.5) -> StragglerGauge:
    """Of rank 0 of several; ``others`` wait so long for their data at every look."""

    def all_reduce_sum(table: Tensor) -> Tensor:
        table[1:, 0] += torch.tensor(others, dtype=table.dtype)
        return table

    monkeypatch.setattr(stragglers, "all_reduce_sum", all_reduce_sum)
    worker = WorkerContext(
        rank=0,
        world_size=1 + len(others),
        local_world_size=1,
        device=torch.device("cpu"),
        batches=lambda start: None,
        report=lambda metrics: None,
    )
    return StragglerGauge(worker, factor)


def test_it_names_itself_once_when_it_is_steadily_slow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slow = gauge(monkeypatch, [0.1, 0.1])
    with caplog.at_level(logging.WARNING, "ray_jobs"):
        for _ in range(STEADY - 1):
            assert slow.look(0.0, 0.4) == {"perf/straggler_ratio": pytest.approx(4.0), "perf/straggler_rank": 0.0}
        slow.look(0.0, 0.1)  # once as fast as the others
        for _ in range(STEADY - 1):
            slow.look(0.0, 0.4)
        assert not caplog.records
        for _ in range(10):
            slow.look(0.0, 0.4)
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("rank 0 on ") and "computes 4.0 times as slowly" in message


def test_it_says_when_data_is_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slow = gauge(monkeypatch, [0.1, 0.1])
    with caplog.at_level(logging.WARNING, "ray_jobs"):
        for _ in range(STEADY):
            slow.look(0.3, 0.1)
    assert "gets its data 4.0 times as slowly" in caplog.records[0].getMessage()


def test_another_rank_that_is_slow_names_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fast = gauge(monkeypatch, [0.1, 0.9])
    with caplog.at_level(logging.WARNING, "ray_jobs"):
        ratios = [fast.look(0.1, 0.0)["perf/straggler_ratio"] for _ in range(STEADY + 1)]
    assert ratios == [pytest.approx(9.0)] * (STEADY + 1) and not caplog.records


def test_one_rank_has_nothing_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gauge(monkeypatch, []).look(1.0, 1.0) == {}
