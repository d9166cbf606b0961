"""What a report is made of: pictures, figures and curves of nothing in particular."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ray_jobs.evaluation import tokenizer_files
from ray_jobs.reporting.data import Curve, EvaluationReport, ReportData, StageReport
from ray_jobs.reporting.rows import ALONE, COMPARED

NAN = float("nan")
EVIL = "<script>alert('x')</script>\" onload=\"boo & co"


def picture(kind: str, number: int, caption: str = "a red square") -> tokenizer_files.Picture:
    rng = np.random.default_rng(number)
    return tokenizer_files.Picture(
        kind=kind,
        id=f"id{number}",
        caption=caption,
        original=rng.integers(0, 256, (8, 8, 3), dtype=np.uint8),
        reconstruction=rng.integers(0, 256, (8, 8, 3), dtype=np.uint8),
        assignment=rng.integers(0, 30, 16).astype(np.int32),
        grid=(4, 4),
        num_tokens=3,
        num_objects=None if number else 1,
        psnr=20.0 + number,
        ari=None if number else -0.25,
    )


def metrics(**changes: Any) -> dict[str, Any]:
    figures: dict[str, Any] = {row.key: 0.111 * (i + 1) for i, row in enumerate((*COMPARED, *ALONE))}
    figures |= {"psnr": 20.25, "num_images": 1234, "num_skipped": 2}
    mapped = {row.key: 0.5 for row in COMPARED}
    figures["references"] = {
        "mean_image": {"psnr": 12.9},
        "own_mean_colour": {"psnr": 16.5},
        "grid": {"below": {**mapped, "cells_per_side": 2}, "above": {**mapped, "cells_per_side": 3}},
        "raw_colour": {**mapped, "psnr": 21.5},
    }
    figures["notes"] = {}
    figures["run"] = {"checkpoint": "runs/x/checkpoints/step_00000400", "data": "d", "seconds": 75.2, "num_replicas": 2}
    return figures | changes


def data(**changes: Any) -> ReportData:
    curve = Curve(name="train/loss", steps=[10, 20, 30], values=[3.0, NAN, 1.0])
    stage = StageReport(
        name="tokenizer", curves=(curve,), settings=(("train.steps", "400"),), facts=(("Steps", "400"),)
    )
    evaluation = EvaluationReport(
        label="plain",
        metrics=metrics(),
        pictures=(picture("best", 0), picture("random", 1), picture("worst", 2)),
        token_counts=(3.0, 4.0, 4.0),
        object_counts=(2.0, 3.0, None),
    )
    page = ReportData(
        title="A title", name="demo", stages=(stage,), evaluations=(evaluation,), versions={"torch": "2.13"}
    )
    return replace(page, **changes)
