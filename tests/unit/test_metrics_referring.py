"""cIoU, gIoU, mIoU and P@k against LAVT's and LISA's code, and by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from setok.data import rle
from setok.errors import DataError
from setok.metrics.referring import THRESHOLDS, ReferringScores


def row(first: int, last: int) -> np.ndarray:
    mask = np.zeros((1, 10), bool)
    mask[0, first:last] = True
    return mask


def test_by_hand() -> None:
    parts = ReferringScores(), ReferringScores()
    parts[0].update("half", row(0, 5), row(0, 10))  # 5 of 10
    parts[1].update("right", row(0, 2), row(0, 2))  # 2 of 2
    parts[0].update("nothing meant, nothing found", row(0, 0), row(0, 0))
    parts[1].update("nothing meant, something found", row(0, 4), row(0, 0))  # 0 of 4
    figures = parts[0].merge(parts[1]).compute()
    assert figures["ciou"] == pytest.approx(100 * 7 / 16)
    assert figures["giou"] == pytest.approx(100 * (0.5 + 1 + 1 + 0) / 4)
    assert figures["miou"] == pytest.approx(100 * (0.5 + 1 + 0 + 0) / 4)
    assert figures["precision@0.5"] == 50 and figures["precision@0.6"] == 25
    targeted = figures["with_target"]
    assert targeted["ciou"] == pytest.approx(100 * 7 / 12) and targeted["num_samples"] == 2
    assert targeted["giou"] == targeted["miou"] == 75


def test_all_with_a_target_have_one_table() -> None:
    scores = ReferringScores()
    scores.update("1", row(0, 5), row(0, 10))
    assert "with_target" not in scores.compute()
    with pytest.raises(DataError, match="'1' was scored twice"):
        scores.merge(scores)
    with pytest.raises(DataError, match="1 × 10 pixels for a picture of 2 × 10"):
        scores.update("2", row(0, 5), np.zeros((2, 10), bool))
    assert ReferringScores().compute()["num_samples"] == 0


def test_golden(realdata: Path) -> None:
    folder = realdata / "golden" / "refseg"
    expected = json.loads((folder / "expected.json").read_text())
    masks = json.loads((folder / "masks.json").read_text())
    assert len(masks) == 18
    scores = ReferringScores()
    for case in masks:
        one, other = (rle.decode(rle.counts_of(case[name]), *case[name]["size"]) for name in ("pred", "gt"))
        scores.update(str(case["ref_id"]), one, other)
    figures = scores.compute()
    for ours, lavt, lisa in (
        (
            figures["with_target"],
            "LAVT test.py, samples with a target only",
            "LISA validate(), samples with a target only",
        ),
        (figures, "LAVT, all", "LISA, all (empty union counts 1 in gIoU)"),
    ):
        assert ours["miou"] == pytest.approx(expected[lavt]["mIoU"], abs=1e-9)
        assert ours["ciou"] == pytest.approx(expected[lavt]["overall_IoU(cIoU)"], abs=1e-9)
        precision = [ours[f"precision@{k}"] for k in THRESHOLDS]
        assert precision == pytest.approx(expected[lavt]["precision@[.5,.6,.7,.8,.9]"])
        # LISA sums in 32 bits
        assert ours["giou"] == pytest.approx(100 * expected[lisa]["gIoU"], abs=1e-5)
        assert ours["ciou"] == pytest.approx(100 * expected[lisa]["cIoU"], abs=1e-5)
