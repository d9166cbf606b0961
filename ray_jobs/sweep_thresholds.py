"""What a trained tokenizer makes of a set under hundreds of clustering thresholds, from one pass and without training.

    python -m ray_jobs.sweep_thresholds --config sweep_thresholds --set checkpoint=runs/tokenizer data=data/test

Writes into the run's folder::

    thresholds.parquet   a row for every value: tokens, mIoU, ARI, PSNR, … as python -m ray_jobs.evaluate measures them
    report.html          the curves
    config.yaml          what was asked
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ray_jobs import launch
from ray_jobs.evaluation.clustering import changed
from ray_jobs.evaluation.replicas import DECODE_CPUS, REPLICA_CPUS, check_resources
from ray_jobs.evaluation.thresholds import ThresholdReplica, ThresholdRows, ThresholdTask
from ray_jobs.evaluation.tokenizer_replica import Read
from ray_jobs.evaluation.trained import Trained, trained_of
from ray_jobs.reporting.thresholds import FIGURES, write_thresholds_report
from ray_jobs.tuning.space import points_of
from setok.config import ClusteringConfig, ThresholdsConfig, dump_config
from setok.data.schema import Manifest
from setok.errors import ConfigError, DataError
from setok.metrics.running import INDEX
from setok.models.clustering.interface import BY_DISTANCE

_READERS = {
    "stop_mass": ("stick_breaking",),
    "stop_scope": ("stick_breaking",),
    "sharpness": ("stick_breaking",),
    "score_threshold": ("dpc_knn",),
    "num_clusters": ("dpc_knn",),
    "similarity_threshold": ("cosine_graph",),
    "num_neighbors": ("stick_breaking", "dpc_knn"),
}
"""Methods of ``BY_DISTANCE`` that read a setting; what is missing here all of them read."""
TABLE, CONFIG = "thresholds.parquet", "config.yaml"


def sweep_thresholds(config: ThresholdsConfig) -> pa.Table:
    """Measure every value, and write the run's files.

    Returns:
        A row for every value, as ``thresholds.parquet`` has them.

    Raises:
        CheckpointError, DataError, ConfigError: there is no such tokenizer or set, it cannot be clustered so, or the cluster
            is too small.
    """
    started = time.monotonic()
    trained = tokenizer_of(config)
    settings = settings_of(config, trained.model.clustering)
    num_rows = num_rows_of(config)
    launch.start_ray()
    check_resources(config)
    task = ThresholdTask(
        path=trained.place,
        device="cuda" if config.use_gpu else "cpu",
        weights=config.weights,
        sampling_steps=config.sampling_steps,
        settings=tuple(settings),
        num_threads=max(1, (os.cpu_count() or 1) // config.num_replicas),
    )
    rows = _measure(config, task, trained, num_rows)
    table = _table(config, settings, rows)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    (config.run_dir / CONFIG).write_text(dump_config(config), encoding="utf-8")
    _write(config.run_dir / TABLE, table)
    trained_value = getattr(trained.model.clustering, config.vary) if not config.clustering else None
    write_thresholds_report(
        config, table, num_images=num_rows, seconds=time.monotonic() - started, trained_value=trained_value
    )
    return table


def tokenizer_of(config: ThresholdsConfig) -> Trained:
    """The tokenizer whose thresholds are gone through.

    Raises:
        CheckpointError, ConfigError: there is none.
    """
    trained = trained_of(config.checkpoint)
    if trained.stage != "tokenizer":
        raise ConfigError(
            f"{config.checkpoint} is of stage={trained.stage}, and thresholds are those of a tokenizer",
            "name the tokenizer run that it started from",
        )
    if trained.is_exported and config.weights == "raw":
        raise ConfigError(
            f"weights=raw has no part in {config.checkpoint}: what is exported is the running average, where the run kept one",
            "leave weights out, or name the run",
        )
    return trained


def num_rows_of(config: ThresholdsConfig) -> int:
    """Pictures that are gone through.

    Raises:
        DataError: there is no such set, or it is empty.
    """
    stored = Manifest.load(config.data).num_rows
    if stored == 0:
        raise DataError(f"data set {config.data!r} has no rows", "ingest some, or name another set")
    return min(stored, config.limit or stored)


def settings_of(config: ThresholdsConfig, trained: ClusteringConfig) -> list[ClusteringConfig]:
    """The clustering at every value.

    Raises:
        ConfigError: a value is impossible, or the method has no such setting or does not read it.
    """
    settings = [changed(trained, config.clustering | {config.vary: value}) for value in points_of(config.over)]
    if settings[0].method not in BY_DISTANCE:
        raise ConfigError(
            f"clustering.method={settings[0].method} has no threshold to go through",
            f"--set 'clustering={{method: {BY_DISTANCE[0]}}}', or one of {', '.join(BY_DISTANCE[1:])}",
        )
    readers = _READERS.get(config.vary, BY_DISTANCE)
    if settings[0].method not in readers:
        raise ConfigError(
            f"clustering.method={settings[0].method} does not read vary={config.vary}: all values would give the same",
            f"vary what it reads ({', '.join(key for key, who in _READERS.items() if settings[0].method in who)}), or"
            f" --set 'clustering={{method: {readers[0]}}}'",
        )
    if config.vary == "score_threshold" and (count := settings[0].num_clusters) is not None:
        raise ConfigError(
            f"clustering.num_clusters={count} ignores vary=score_threshold: all values would give the same",
            "--set 'clustering={method: dpc_knn, num_clusters: null}', or vary=num_clusters",
        )
    return settings


def _measure(config: ThresholdsConfig, task: ThresholdTask, trained: Trained, num_rows: int) -> ThresholdRows:
    import ray

    starts = range(0, num_rows, config.batch_size)
    blocks = [pa.table({INDEX: np.arange(s, min(s + config.batch_size, num_rows))}) for s in starts]
    model = trained.model
    dataset = ray.data.from_arrow(blocks).map_batches(
        Read(config.data, model.image_size, model.fit_multiple).__call__, batch_size=None, num_cpus=DECODE_CPUS
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # max_restarts has no named parameter in Ray 2.60 yet
        dataset = dataset.map_batches(
            ThresholdReplica,
            fn_constructor_args=(task,),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=config.num_replicas),
            num_cpus=REPLICA_CPUS,
            num_gpus=1 if config.use_gpu else None,
            max_restarts=0,
        )
    rows = ThresholdRows(len(task.settings))
    columns = (TextColumn("{task.fields[name]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=launch.console(), transient=True) as progress:
        line = progress.add_task("thresholds", total=num_rows, name=config.name)
        for part in dataset.iter_batches(batch_size=None, batch_format="numpy"):
            rows.update(part)
            progress.advance(line, len(np.unique(part[INDEX])))
    return rows


def _table(config: ThresholdsConfig, settings: Sequence[ClusteringConfig], rows: ThresholdRows) -> pa.Table:
    figures: list[dict[str, Any]] = [rows.summarise(number) for number in range(len(settings))]
    columns: dict[str, Any] = {config.vary: [getattr(setting, config.vary) for setting in settings]}
    for name in (*FIGURES, "num_images"):
        columns[name] = [row[name] for row in figures]
    return pa.table(columns)


def _write(path: Path, table: pa.Table) -> None:
    temporary = path.with_suffix(".tmp")
    pq.write_table(table, temporary)
    temporary.replace(path)


def describe(config: ThresholdsConfig) -> None:
    """What the job would do, for ``--dry-run``."""
    trained = tokenizer_of(config)
    settings = settings_of(config, trained.model.clustering)
    first, last = (getattr(setting, config.vary) for setting in (settings[0], settings[-1]))
    launch.console().print(
        f"{config.name}: {len(settings)} values of {config.vary} from {first:g} to {last:g}, clustering by"
        f" {settings[0].method}, on {num_rows_of(config):,} pictures of {config.data} → {config.run_dir / TABLE}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    config = launch.parse(ThresholdsConfig, __doc__ or "", argv, dry_run=describe)
    table = sweep_thresholds(config)
    show = launch.console().print
    rows = table.to_pylist()
    for row in rows[:: max(1, len(rows) // 10)]:
        told = " · ".join(
            f"{name} {row[key]:.3g}"
            for key, name in (("mean_tokens", "tokens"), ("miou", "mIoU"), ("ari", "ARI"), ("psnr", "PSNR"))
            if row[key] is not None
        )
        show(f"{config.vary} {row[config.vary]:<8.4g} {told}")
    show(f"[bold]table[/bold]   {config.run_dir / TABLE}\n[bold]report[/bold]  {config.run_dir / 'report.html'}")


if __name__ == "__main__":
    launch.run(main)
