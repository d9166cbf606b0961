"""Small files in the formats of benchmarks, and the figures that ``python -m ray_jobs.evaluate score`` prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ray_jobs.scoring import command
from ray_jobs.scoring.tasks import TASKS

Score = Callable[..., dict[str, Any]]


@pytest.fixture
def score(capsys: pytest.CaptureFixture[str]) -> Score:
    """The figures that the command prints."""

    def run(task: str, predictions: Path, annotations: Path | None = None, *more: str) -> dict[str, Any]:
        argv = ["--task", task, "--predictions", str(predictions)]
        argv += ["--annotations", str(annotations)] if annotations else []
        command.main([*argv, *more])
        printed = json.loads(capsys.readouterr().out)
        assert printed["task"] == task and printed["scorer"] == TASKS[task].scorer
        figures: dict[str, Any] = printed["figures"]
        return figures

    return run


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def vqa_files(folder: Path, answers: list[str]) -> tuple[Path, Path]:
    """One question after another, which people answer ``cat`` (7) and ``dog`` (3)."""
    people = [{"answer": "cat" if i < 7 else "dog", "answer_id": i + 1} for i in range(10)]
    truth = [
        {"question_id": i, "answers": people, "answer_type": "other", "question_type": "what is"}
        for i in range(len(answers))
    ]
    said = [{"question_id": i, "answer": answer} for i, answer in enumerate(answers)]
    return write(folder / "said.json", said), write(folder / "truth.json", {"annotations": truth})


def pictures(folder: Path, number: int, *, seed: int) -> np.ndarray:
    """Write ``0.png``, ``1.png``, … of noise; all pixels, ``[number, 16, 20, 3]``."""
    folder.mkdir()
    drawn = np.random.default_rng(seed).integers(0, 256, (number, 16, 20, 3), dtype=np.uint8)
    for i, pixels in enumerate(drawn):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return drawn
