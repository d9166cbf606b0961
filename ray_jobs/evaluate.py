"""Metrics of a trained tokenizer on an ingested set, over any number of replicas.

Writes into the run's folder::

    metrics.json     the set's figures, references beside them, and what ran
    images.jsonl     every image's figures
    pictures.npz     the best, the worst and some random pictures: original, reconstruction, token map
    config.yaml      what was asked
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ray_jobs import launch
from ray_jobs.evaluation import files
from ray_jobs.evaluation import setokim as setokim_evaluation
from ray_jobs.evaluation.replica import Read, Replica, ReplicaTask, concept_vocabulary
from ray_jobs.evaluation.room import DECODE_CPUS, REPLICA_CPUS, check_room
from ray_jobs.scoring import command as scoring_command
from setok import checkpoint
from setok.config import EvaluateConfig, TokenizerConfig
from setok.data.collate import decode_rows, rows_to_batch
from setok.data.schema import Manifest
from setok.data.shards import ShardReader
from setok.data.storage import Storage
from setok.errors import ConfigError, DataError
from setok.metrics import scoring
from setok.metrics.running import INDEX, ImageRows, MeanImage

MEAN_IMAGE_ROWS = 4096
"""The mean training image is taken over at most this many rows, evenly spaced."""
_ROWS_AT_ONCE = 1024


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measure a checkpoint and write the run's files; see the module's docstring.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        CheckpointError, DataError, ConfigError: there is no such checkpoint or set, or the cluster is too small.
    """
    started = time.monotonic()
    path = checkpoint.resolve(config.checkpoint)
    trained = checkpoint.read_config(path)
    model = trained.model
    image_size = model.image_size
    check_settings(config, trained.stage)
    manifest = Manifest.load(config.data)
    num_rows = min(manifest.num_rows, config.limit or manifest.num_rows)
    if num_rows == 0:
        raise DataError(f"data set {config.data!r} has no rows", "ingest some, or name another set")
    fingerprints = {"checkpoint": _digest(path), "data": manifest.fingerprint}
    finished = files.read_finished(config, fingerprints)
    if finished is not None:
        launch.console().print(f"{config.run_dir} is finished: this checkpoint is measured on this set already.")
        return finished
    launch.start_ray()
    check_room(num_replicas=config.num_replicas, use_gpu=config.use_gpu)
    mean_image = _mean_image(config.train_data or config.data, model) if config.references else None
    if trained.stage != "tokenizer":
        figures: dict[str, Any] = setokim_evaluation.measure(
            config, path=path, image_size=image_size, num_rows=num_rows, mean_image=mean_image, cpus=REPLICA_CPUS
        )
        seconds = time.monotonic() - started
        figures["run"] = _what_ran(config, path, fingerprints, image_size, num_rows, seconds)
        files.write_metrics(config, figures)
        return figures
    vocabulary = concept_vocabulary(config.data, num_rows)
    drawn = np.random.default_rng(config.seed).permutation(num_rows)[: 3 * config.num_pictures]
    task = ReplicaTask(
        path=checkpoint.pin(config.checkpoint, path),
        device="cuda" if config.use_gpu else "cpu",
        weights=config.weights,
        sampling_steps=config.sampling_steps,
        mean_image=mean_image,
        vocabulary=vocabulary,
        drawn=frozenset(drawn.tolist()),
        num_extremes=config.num_pictures // 3,
        num_threads=max(1, (os.cpu_count() or 1) // config.num_replicas),
    )
    rows, pictures = _measure(config, task, model, num_rows)
    seconds = time.monotonic() - started
    metrics = scoring.summarise(rows)
    metrics["run"] = _what_ran(config, path, fingerprints, image_size, num_rows, seconds)
    files.write(config, metrics, rows.table(), pictures, drawn.tolist())
    return metrics


def check_settings(config: EvaluateConfig, stage: str) -> None:
    """Refuse settings of Setokim for a tokenizer, which has no use for them.

    Raises:
        ConfigError: naming the first of them.
    """
    for key in ("tasks", "max_new_tokens", "guidance", "image_temperature"):
        value, default = getattr(config, key), EvaluateConfig.model_fields[key].default
        if stage == "tokenizer" and value != default:
            raise ConfigError(
                f"{key}={value} has no part in the evaluation of stage=tokenizer",
                f"leave {key} out, or name the checkpoint of a pretrain or instruct run",
            )


def _what_ran(
    config: EvaluateConfig, path: Path, fingerprints: dict[str, str], image_size: int, num_rows: int, seconds: float
) -> dict[str, Any]:
    return {
        "checkpoint": Storage(checkpoint.pin(config.checkpoint, path)).name,
        "stage": checkpoint.read_config(path).stage,
        "step": checkpoint.read_state(path).step,
        "data": config.data,
        "fingerprints": fingerprints,
        "image_size": image_size,
        "weights": config.weights,
        "num_replicas": config.num_replicas,
        "seconds": round(seconds, 2),
        "images_per_second": round(num_rows / seconds, 1),
        "versions": versions(),
    }


def _digest(path: Path) -> str:
    """Identifies the contents of a checkpoint, by its manifest of checksums."""
    return hashlib.sha256((path / checkpoint.MANIFEST).read_bytes()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    import ray

    packages = {"torch": torch.__version__, "ray": ray.__version__, "numpy": np.__version__}
    return {"python": platform.python_version(), **packages}


# ---------------------------------------------------------------- over the cluster


def _mean_of_rows(folder: str, rows: np.ndarray, image_size: int, fit_multiple: int | None) -> MeanImage:
    mean = MeanImage()
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        table = ShardReader(folder).take(rows[start : start + _ROWS_AT_ONCE])
        columns = decode_rows(table, image_size=image_size, with_segments=False, fit_multiple=fit_multiple)
        batch = rows_to_batch(columns)
        real = batch.pixel_mask
        mean.update(batch.pixel_values[batch.valid].numpy(), None if real is None else real[batch.valid].numpy())
    return mean


def _mean_image(folder: str, model: TokenizerConfig) -> np.ndarray:
    """Mean picture of a set, in [0, 1], over at most ``MEAN_IMAGE_ROWS`` of its rows."""
    import ray

    num_rows = Manifest.load(folder).num_rows
    rows = np.unique(np.linspace(0, num_rows - 1, min(num_rows, MEAN_IMAGE_ROWS)).round().astype(np.int64))
    task = ray.remote(_mean_of_rows).options(num_cpus=REPLICA_CPUS)
    geometry = (model.image_size, model.fit_multiple)
    parts = [task.remote(folder, part, *geometry) for part in np.array_split(rows, 8) if len(part)]
    total = MeanImage()
    for part in ray.get(parts):
        total.merge(part)
    return total.compute()


def _measure(
    config: EvaluateConfig, task: ReplicaTask, model: TokenizerConfig, num_rows: int
) -> tuple[ImageRows, dict[int, bytes]]:
    """All images' rows of figures, and the packed pictures that may be shown, by row number."""
    import ray

    starts = range(0, num_rows, config.batch_size)
    blocks = [pa.table({INDEX: np.arange(s, min(s + config.batch_size, num_rows))}) for s in starts]
    dataset = ray.data.from_arrow(blocks).map_batches(
        Read(config.data, model.image_size, model.fit_multiple).__call__, batch_size=None, num_cpus=DECODE_CPUS
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # max_restarts has no named parameter in Ray 2.60 yet
        dataset = dataset.map_batches(
            Replica,
            fn_constructor_args=(task,),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=config.num_replicas),
            num_cpus=REPLICA_CPUS,
            num_gpus=1 if config.use_gpu else None,
            max_restarts=0,  # else Ray warns that the task, in the object store, might be gone at a restart
        )
    rows, pictures = ImageRows(), dict[int, bytes]()
    columns = (TextColumn("evaluate {task.fields[name]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=launch.console(), transient=True) as progress:
        line = progress.add_task("evaluate", total=num_rows, name=config.name)
        for part in dataset.iter_batches(batch_size=None, batch_format="numpy"):
            packed = part.pop(files.PICTURE)
            pictures |= {int(i): bytes(p) for i, p in zip(part[INDEX], packed, strict=True) if len(p)}
            rows.update(part)
            progress.advance(line, len(part[INDEX]))
            _forget(pictures, rows, task)
    return rows, pictures


def _forget(pictures: dict[int, bytes], rows: ImageRows, task: ReplicaTask) -> None:
    """Drop pictures that are no longer among the best or worst, so that memory does not grow with the set."""
    if len(pictures) <= 8 * (task.num_extremes + len(task.drawn) + 1):
        return
    ranked = files.ranked(rows.table())
    keep = {*ranked[: task.num_extremes], *ranked[len(ranked) - task.num_extremes :], *task.drawn}
    for index in set(pictures) - keep:
        del pictures[index]


def headlines(metrics: dict[str, Any]) -> list[str]:
    """The figures of Setokim that matter most, a line for each task."""
    known = {
        "vqa": ("accuracy", "blind", "constant"),
        "caption": ("recall", "precision", "exact"),
        "segment": ("giou", "ciou"),
        "generate": ("psnr", "l1"),
        "edit": ("psnr", "l1"),
    }
    return [
        f"{task:>10}  "
        + " · ".join(f"{name} {metrics[task][name]:.3f}" for name in names if metrics[task].get(name) is not None)
        for task, names in known.items()
        if task in metrics
    ]


# ---------------------------------------------------------------- command


def describe(config: EvaluateConfig) -> None:
    """What the job would do, for ``--dry-run``."""
    path = checkpoint.resolve(config.checkpoint)
    num_rows = Manifest.load(config.data).num_rows
    launch.console().print(
        f"{config.name}: {min(num_rows, config.limit or num_rows)} of {num_rows} rows of {config.data} with {path},"
        f" {config.num_replicas} replica(s) → {config.run_dir / files.METRICS}"
    )


def main() -> None:
    """The command ``python -m ray_jobs.evaluate``; with ``score`` as first argument it scores a file of predictions."""
    if sys.argv[1:2] == ["score"]:
        scoring_command.main(sys.argv[2:])
        return
    config = launch.parse(
        EvaluateConfig,
        "Measure a trained tokenizer on an ingested set. `score --help`: score a file of predictions.",
        dry_run=describe,
    )
    metrics = evaluate(config)
    show = launch.console().print
    if "psnr" not in metrics:
        for line in headlines(metrics):
            show(line)
        show(f"→ {config.run_dir / files.METRICS}")
        return
    for name in ("psnr", "psnr_gain_over_mean_image", "ssim", "foreground_ari", "ari", "mean_tokens"):
        value = metrics[name]
        show(f"{name:>28}  {'–  ' + metrics['notes'][name] if value is None else f'{value:.3f}'}")
    show(f"{metrics['num_images']} images, {metrics['num_skipped']} skipped → {config.run_dir / files.METRICS}")


if __name__ == "__main__":
    launch.run(main)
