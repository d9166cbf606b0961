"""Panoptic quality by hand, and how parts merge; the official figures are held in test_scoring."""

from __future__ import annotations

import numpy as np
import pytest

from setok.errors import DataError
from setok.metrics.panoptic import PanopticScores


def line(*ids: int) -> np.ndarray:
    return np.array([ids])


def test_by_hand() -> None:
    parts = PanopticScores(), PanopticScores()
    # things: 3 of 4 pixels are shared (IoU 3/4); stuff: IoU 1/3 and exactly 1/2, neither of which is a match
    parts[0].update("a", line(1, 1, 1, 3, 3, 2), {1: 10, 2: 20, 3: 20}, line(7, 7, 7, 7, 8, 8), {7: 10, 8: 20})
    # segments 1 and 2 lie on a crowd of their category and on nothing, which excuses them; 3 lies on a crowd of another one
    parts[1].update("b", line(1, 1, 2, 2, 3, 3), {1: 10, 2: 10, 3: 20}, line(5, 5, 0, 0, 5, 5), {5: 10}, {5})
    figures = parts[1].merge(parts[0]).compute({10})
    assert figures["things"] == {"pq": 75, "sq": 75, "rq": 100, "num_categories": 1}
    assert figures["stuff"] == {"pq": 0, "sq": 0, "rq": 0, "num_categories": 1}
    assert figures["pq"] == 37.5 and figures["num_samples"] == 2


def test_unannotated_pixels_do_not_count_in_the_union() -> None:
    scores = PanopticScores()
    scores.update("a", line(1, 1, 1, 1), {1: 10}, line(7, 7, 0, 0), {7: 10})
    assert scores.compute({10})["pq"] == 100


def test_what_does_not_fit() -> None:
    scores = PanopticScores()
    with pytest.raises(DataError, match="predicted segment 2 is not both"):
        scores.update("a", line(1, 2), {1: 10}, line(7, 7), {7: 10})
    with pytest.raises(DataError, match="true segment 9 is not both"):
        scores.update("a", line(1, 1), {1: 10}, line(7, 7), {7: 10, 9: 10})
    with pytest.raises(DataError, match=r"a map of \(1, 1\) pixels for one of \(1, 2\)"):
        scores.update("a", line(1), {1: 10}, line(7, 7), {7: 10})
    scores.update("a", line(1, 1), {1: 10}, line(7, 7), {7: 10})
    with pytest.raises(DataError, match="'a' was scored twice"):
        scores.merge(scores)
    assert PanopticScores().compute(())["num_categories"] == 0
