"""Where a run's numbers and pictures go: metrics.jsonl, TensorBoard, Weights & Biases. Used by rank 0 alone.

Names are in four groups: ``train/``, ``eval/``, ``data/`` and ``perf/``.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from setok.batch import Batch, LossOutput, SequenceBatch
from setok.checkpoint import Evaluations, home_of
from setok.config import TrainConfig, WandbConfig
from setok.drawing import image_grid, token_map
from setok.errors import ConfigError

METRICS = "metrics.jsonl"
NUM_PICTURES = 8


class Tracker(Protocol):
    """A destination of numbers and pictures."""

    def scalars(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers as of the end of ``step`` optimizer steps."""

    def image(self, name: str, picture: UInt8[np.ndarray, "height width 3"], step: int) -> None:
        """Record a picture."""

    def flush(self) -> None:
        """Write what is still in memory: a run that is killed goes on from a checkpoint and logs nothing before it again."""

    def close(self) -> None:
        """Write what is still in memory, for the last time."""


class JsonLines:
    """``metrics.jsonl``: one line for every step that is logged, in their order, and never two for a step."""

    def __init__(self, run_dir: Path, start_step: int) -> None:
        self._path = run_dir / METRICS
        cut_lines(self._path, last_step=start_step)
        self._last = max((json.loads(line)["step"] for line in _lines(self._path)), default=-1)
        self._file = self._path.open("a", encoding="utf-8")

    def scalars(self, metrics: Mapping[str, float], step: int) -> None:
        new = {"step": step, "time": round(time.time(), 3), **metrics}
        if step > self._last:
            self._file.write(json.dumps(new) + "\n")
            self._file.flush()
            self._last = step
            return
        # An evaluation, which comes later than the step it is of: put in its place.
        self._file.close()
        rows = {row["step"]: row for row in map(json.loads, _lines(self._path))}
        rows[step] = new | rows.get(step, {}) | metrics
        self._rewrite([json.dumps(rows[number]) for number in sorted(rows)])

    def image(self, name: str, picture: UInt8[np.ndarray, "height width 3"], step: int) -> None:
        """Pictures have no place here."""

    def flush(self) -> None:
        """Have it on disk: a machine that dies takes with it what it has only in memory, and a resumed run logs no step twice."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _rewrite(self, lines: list[str]) -> None:
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        temporary.replace(self._path)
        self._file = self._path.open("a", encoding="utf-8")


class TensorBoard:
    """Event files in the run's ``tensorboard`` folder; a restart takes back what it is about to log again."""

    def __init__(self, run_dir: Path, start_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "logging.tensorboard is on, and the package tensorboard is not installed",
                "pip install tensorboard, or --set logging.tensorboard=false",
            ) from error
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=start_step + 1)

    def scalars(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def image(self, name: str, picture: UInt8[np.ndarray, "height width 3"], step: int) -> None:
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A Weights & Biases run that a restart continues; ``mode: offline`` writes to the run's folder.

    What W&B has been given stays there. As a resumed run repeats its steps exactly, those it had logged are passed over, and
    so are evaluations, which come later than their steps. What it has stands in ``wandb/given.json``, because W&B may not be
    there to ask.
    """

    def __init__(self, settings: WandbConfig, config: TrainConfig, run_dir: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(
                "logging.wandb is set, and the package wandb is not installed",
                "pip install wandb, or remove the section",
            ) from error
        os.environ.setdefault("WANDB_SILENT", "true")
        self._wandb = wandb
        self._run = wandb.init(
            project=settings.project,
            name=config.name,
            id=config.name,
            resume="allow",
            mode=settings.mode,
            dir=str(run_dir),
            config=config.model_dump(mode="json"),
        )
        # W&B's own step only grows; after a restart ours goes back to the checkpoint's.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self._path = run_dir / "wandb" / "given.json"
        self._path.parent.mkdir(exist_ok=True)
        given: dict[str, Any] = (
            json.loads(self._path.read_text()) if self._path.is_file() else {"last_step": 0, "evaluated": []}
        )
        self._passed = self._last = int(given["last_step"])
        self._evaluated: list[int] = list(given["evaluated"])

    def scalars(self, metrics: Mapping[str, float], step: int) -> None:
        if all(name.startswith("eval/") for name in metrics):
            if step in self._evaluated:
                return
            self._evaluated.append(step)
        elif step <= self._passed:
            return
        else:
            self._last = max(step, self._last)
        self._note_given()  # before: a step may then be missing after a crash, and is never there twice
        self._run.log({"step": step, **metrics})

    def image(self, name: str, picture: UInt8[np.ndarray, "height width 3"], step: int) -> None:
        if step > self._passed:
            self._run.log({"step": step, name: self._wandb.Image(picture)})

    def flush(self) -> None:
        """W&B's own process has it already."""

    def _note_given(self) -> None:
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"last_step": self._last, "evaluated": self._evaluated}), encoding="utf-8")
        temporary.replace(self._path)

    def close(self) -> None:
        self._run.finish()


def open_trackers(config: TrainConfig, run_dir: Path, start_step: int) -> list[Tracker]:
    """All destinations the config asks for, with what they hold beyond ``start_step`` taken back where they can."""
    trackers: list[Tracker] = [JsonLines(run_dir, start_step)]
    if config.logging.tensorboard:
        trackers.append(TensorBoard(run_dir, start_step))
    if config.logging.wandb is not None:
        trackers.append(Wandb(config.logging.wandb, config, run_dir))
    return trackers


def read_metrics(run_dir: Path) -> list[dict[str, float]]:
    """The lines of a run's ``metrics.jsonl``, oldest first."""
    return read_lines(run_dir / METRICS)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON objects; none where there is no file."""
    return [json.loads(line) for line in _lines(path)]


def cut_lines(path: Path, *, last_step: int) -> None:
    """Take back the lines of a file of JSON objects whose ``step`` is above ``last_step``, and one that a crash cut off."""
    if not path.is_file():
        return
    kept = [line for line in _lines(path) if json.loads(line)["step"] <= last_step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    temporary.replace(path)


class EvaluationFeed:
    """What was found out about a run's checkpoints and is not yet in ``metrics.jsonl``."""

    def __init__(self, config: TrainConfig) -> None:
        self._evaluations = Evaluations(home_of(config))
        rows = read_metrics(config.run_dir)
        self._known = {int(row["step"]) for row in rows if any(name.startswith("eval/") for name in row)}

    def new(self, step: int) -> list[tuple[int, Mapping[str, float]]]:
        """Step and metrics of what has come since the last call, of steps up to this one."""
        steps = [s for s in self._evaluations.steps() if s <= step and s not in self._known]
        found = [(s, self._evaluations.read(s)) for s in steps]
        done = [(s, one.metrics) for s, one in found if one is not None and one.state == "done"]
        self._known.update(s for s, _ in done)
        return done


def log_evaluations(config: TrainConfig) -> None:
    """Log what was evaluated after the run's own processes had ended."""
    found = EvaluationFeed(config).new(config.train.steps)
    if not found:
        return
    trackers = open_trackers(config, config.run_dir, config.train.steps)
    for step, metrics in found:
        for tracker in trackers:
            tracker.scalars(metrics, step)
    for tracker in trackers:
        tracker.close()


def picture_of(batch: Batch, output: LossOutput) -> UInt8[np.ndarray, "height width 3"] | None:
    """Originals, token maps and reconstructions below each other, for the first images of a micro-batch.

    ``None`` where the stage gives no pictures or no image is valid.
    """
    if isinstance(batch, SequenceBatch):
        return None
    chosen = torch.nonzero(batch.valid).flatten()[:NUM_PICTURES].tolist()
    if not chosen:
        return None
    rows = [[_pixels(batch.pixel_values[i]) for i in chosen]]
    height, width = batch.pixel_values.shape[-2:]
    if output.assignment is not None and output.grid is not None:
        rows.append([token_map(output.assignment[i].cpu().numpy(), output.grid, (height, width)) for i in chosen])
    if output.reconstruction is not None:
        rows.append([_pixels(output.reconstruction[i] * 255) for i in chosen])
    return image_grid(rows) if len(rows) > 1 else None


def _pixels(image: Tensor) -> UInt8[np.ndarray, "height width 3"]:
    return image.detach().float().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()


def _lines(path: Path) -> list[str]:
    """Whole lines of a file; the last one may have been cut off by a crash."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    return [line for line in text[: text.rfind("\n") + 1].splitlines() if line]
