"""What a report shows, and where it is found in the folders of runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ray_jobs.evaluation import files, tokenizer_files
from ray_jobs.evaluation.files import ANSWERS
from ray_jobs.evaluation.setokim_files import read_examples
from ray_jobs.evaluation.tokenizer_files import Picture
from ray_jobs.reporting.setokim import SetokimReport
from ray_jobs.training.tracking import read_metrics
from setok.errors import DataError

_TRAINING = "metrics.jsonl"
_DEPTH = 2
Facts = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One figure over the steps of a run."""

    name: str
    """As it was logged, such as ``train/loss``."""
    steps: Sequence[float]
    values: Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """One training run."""

    name: str
    curves: tuple[Curve, ...] = ()
    settings: Facts = ()
    """The settings that matter, as dotted key and value."""
    facts: Facts = ()
    """What it took: steps, workers, seconds, images per second."""


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """One evaluation: a set and its figures."""

    label: str
    metrics: Mapping[str, Any]
    """What ``ray_jobs.evaluate`` returns."""
    pictures: tuple[Picture, ...] = ()
    token_counts: tuple[float, ...] = ()
    object_counts: tuple[float | None, ...] = ()
    """Objects in each image, in the order of ``token_counts``; ``None`` where unknown."""


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """A whole report. The first evaluation gives the headline figures."""

    title: str
    name: str
    stages: tuple[StageReport, ...] = ()
    evaluations: tuple[EvaluationReport, ...] = ()
    setokim: tuple[SetokimReport, ...] = ()
    """Evaluations of the language model."""
    facts: Facts = ()
    versions: Mapping[str, str] = field(default_factory=dict)


SETTINGS = (
    "model.image_size",
    "model.encoder.kind",
    "model.encoder.path",
    "model.encoder.patch_size",
    "model.encoder.width",
    "model.encoder.depth",
    "model.clustering.method",
    "model.clustering.max_tokens",
    "model.detokenizer.kind",
    "model.detokenizer.width",
    "model.detokenizer.depth",
    "loss.l1",
    "loss.l2",
    "loss.perceptual",
    "loss.contrast",
    "loss.feature_target",
    "loss.adversarial",
    "setokim.language_model.path",
    "setokim.language_model.family",
    "setokim.language_model.width",
    "setokim.language_model.depth",
    "setokim.language_model.train",
    "setokim.diffusion.prediction",
    "setokim.diffusion.width",
    "setokim.diffusion.depth",
    "sequence.max_length",
    "sequence.generation_share",
    "optim.kind",
    "optim.learning_rate",
    "train.steps",
    "train.global_batch_size",
    "train.precision",
    "train.ema_decay",
    "scaling.num_workers",
    "deepspeed.zero_stage",
    "seed",
)
"""Settings that a report shows; those that are null or 0 are left out where 0 means off."""


# ---------------------------------------------------------------- loading


def load_report_data(run_dir: str | Path) -> ReportData:
    """All that lies in a run's folder: a pipeline's, a training run's or an evaluation's.

    Training runs are recognised by ``metrics.jsonl`` and evaluations by ``metrics.json`` beside ``images.jsonl``, in the folder
    or up to two levels below. Evaluations come in the order in which the pipeline's config lists them, else by name.

    Raises:
        DataError: the folder holds neither.
    """
    root = Path(run_dir)
    folders = list(_folders(root, _DEPTH)) if root.is_dir() else []
    stages = [folder for folder in folders if (folder / _TRAINING).is_file()]
    evaluations = [
        folder for folder in folders if (folder / files.METRICS).is_file() and (folder / files.IMAGES).is_file()
    ]
    answered = [folder for folder in folders if (folder / files.METRICS).is_file() and (folder / ANSWERS).is_file()]
    if not stages and not evaluations and not answered:
        raise DataError(
            f"{root} holds no training run and no evaluation" if root.is_dir() else f"folder {root} does not exist",
            "name the folder of a run, such as runs/demo",
        )
    config = _read_yaml(root / files.CONFIG)
    listed = [str(request.get("name")) for request in config.get("evaluate") or []]
    for found in (evaluations, answered):
        found.sort(key=lambda folder: (listed.index(folder.name) if folder.name in listed else len(listed), folder))
    stages.sort(key=_started)
    reports = tuple(_evaluation(folder) for folder in evaluations)
    setokim = tuple(
        SetokimReport(
            label=folder.name, metrics=_read_json(folder / files.METRICS), examples=tuple(read_examples(folder))
        )
        for folder in answered
    )
    measured: list[Mapping[str, Any]] = [report.metrics for report in reports] + [report.metrics for report in setokim]
    total = _read_json(root / files.METRICS).get("total_seconds")
    return ReportData(
        title=str(config.get("title") or "SeTok"),
        name=str(config.get("name") or root.name),
        stages=tuple(_stage(folder) for folder in stages),
        evaluations=reports,
        setokim=setokim,
        facts=(("Everything, from nothing to this page", duration(total)),) if isinstance(total, (int, float)) else (),
        versions=measured[0].get("run", {}).get("versions", {}) if measured else {},
    )


def duration(seconds: float) -> str:
    """Seconds for people: ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _folders(root: Path, depth: int) -> Iterable[Path]:
    yield root
    if depth:
        for child in sorted(root.iterdir()):
            if child.is_dir() and not child.name.startswith("."):
                yield from _folders(child, depth - 1)


def _started(folder: Path) -> tuple[float, str]:
    """When a run logged its first numbers: the order of the stages."""
    lines = read_metrics(folder)
    return (float(lines[0].get("time", 0.0)) if lines else 0.0, folder.name)


def _evaluation(folder: Path) -> EvaluationReport:
    images = [image for image in tokenizer_files.read_images(folder) if image.get("valid")]
    return EvaluationReport(
        label=folder.name,
        metrics=_read_json(folder / files.METRICS),
        pictures=tuple(tokenizer_files.read_pictures(folder)),
        token_counts=tuple(float(image["tokens"]) for image in images),
        object_counts=tuple(image.get("num_objects") for image in images),
    )


def _stage(folder: Path) -> StageReport:
    lines = read_metrics(folder)
    names = dict.fromkeys(name for line in lines for name in line if "/" in name)
    steps = [float(line["step"]) for line in lines]
    curves = tuple(Curve(name=name, steps=steps, values=[line.get(name) for line in lines]) for name in names)
    config = _read_yaml(folder / files.CONFIG)
    settings = [(key, _at(config, key)) for key in SETTINGS]
    return StageReport(
        name=str(config.get("name") or folder.name),
        curves=curves,
        settings=tuple((key, _plain(value)) for key, value in settings if value not in (None, 0.0) or key == "seed"),
        facts=_stage_facts(curves, config),
    )


def _stage_facts(curves: Sequence[Curve], config: Mapping[str, Any]) -> Facts:
    known = {curve.name: [v for v in curve.values if v is not None and math.isfinite(v)] for curve in curves}
    facts: list[tuple[str, str]] = []
    steps = max((step for curve in curves for step in curve.steps), default=None)
    batch = _at(config, "train.global_batch_size")
    if steps is not None:
        facts.append(("Steps", f"{steps:,.0f}"))
        if isinstance(batch, int):
            facts.append(("Images seen", f"{steps * batch:,.0f} ({batch} a step)"))
    workers = _at(config, "scaling.num_workers")
    if isinstance(workers, int):
        facts.append(("Workers", f"{workers}" if workers else "1, without Ray"))
    elif isinstance(workers, list):
        facts.append(("Workers", " to ".join(map(str, workers))))
    if known.get("perf/train_seconds"):
        facts.append(("Training", duration(max(known["perf/train_seconds"]))))
    for name, label, unit, factor in (
        ("perf/images_per_second", "Speed, median", " images/s", 1),
        ("perf/data_wait_fraction", "Time spent waiting for data, median", " %", 100),
    ):
        if known.get(name):
            facts.append((label, f"{factor * sorted(known[name])[len(known[name]) // 2]:.0f}{unit}"))
    bad = known.get("data/bad_samples")
    if bad:
        facts.append(("Samples that could not be read", f"{bad[-1]:.0f}"))
    return tuple(facts)


def _at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read_yaml(path: Path) -> dict[str, Any]:
    tree = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    return tree if isinstance(tree, dict) else {}


def _read_json(path: Path) -> dict[str, Any]:
    tree = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return tree if isinstance(tree, dict) else {}
