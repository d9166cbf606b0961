"""Before a run starts: where it goes on from, and the refusal of all that cannot work."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ray_jobs.launch import console
from ray_jobs.training import preflight
from ray_jobs.training.room import check_cluster
from setok import checkpoint
from setok.config import TrainConfig, differences
from setok.data.schema import Manifest
from setok.errors import CheckpointError

logger = logging.getLogger(__name__)

BEST_OF_SWEEP = "-best"
"""What a sweep's name has behind it in the name of its best trial's run."""


def find_start(config: TrainConfig) -> Path | None:
    """The checkpoint that a run goes on from, told to whoever started it; ``None`` for a new run.

    Raises:
        CheckpointError: there are checkpoints and none is good, or they are of another model.
    """
    home = checkpoint.home_of(config)
    store, start = checkpoint.Store.of_run(home), checkpoint.newest_good(home)
    if start is None and store.steps():
        raise CheckpointError(
            f"none of the checkpoints in {store.storage.name} can be used; what is wrong with each is said above",
            f"to start over, delete them or give the run another name (--set name={config.name}-2)",
        )
    if start is not None:
        check_same_run(config, start)
        if checkpoint.step_of(start) < config.train.steps:
            console().print(f"Going on from {store.shown(checkpoint.step_of(start))}.")
    return start


def check_before_start(config: TrainConfig, start: Path | None) -> None:
    """Refuse what cannot work before anything heavy is started: sets, stores, weights, the cluster, the run's folder."""
    beside = (config.validation.data, config.validation.references) if config.validation is not None else ()
    for folder in filter(None, (*(entry.path for entry in config.data.train), *beside)):
        Manifest.load(folder)
    checkpoint.Store.of_run(checkpoint.home_of(config)).probe()
    if start is None:
        check_beginning(config)
    if config.scaling.num_workers:
        check_cluster(config)
    preflight.check_folder(config.run_dir)
    if config.data.features is not None:
        preflight.check_features(Path(config.data.features))
    if config.scaling.num_workers:
        preflight.check_nodes(config)


def check_same_run(config: TrainConfig, start: Path) -> None:
    """Refuse to go on with another model or optimizer; warn where the order of the data changes."""
    old = checkpoint.read_config(start)
    changed = {
        key: values
        for section in ("stage", "model", "concepts", "discriminator", "setokim")
        for key, values in differences(getattr(old, section), getattr(config, section), section).items()
    } | differences(old.optim.kind, config.optim.kind, "optim.kind")
    if changed:
        listed = ", ".join(f"{key} {before!r} → {after!r}" for key, (before, after) in sorted(changed.items()))
        raise CheckpointError(
            f"{config.run_dir} holds a run of another model: {listed}",
            f"give this run another name (--set name={config.name}-2), or delete {config.run_dir}",
        )
    order = differences(old.data.train, config.data.train, "data.train") | differences(old.seed, config.seed, "seed")
    if old.train.global_batch_size != config.train.global_batch_size:
        order["train.global_batch_size"] = (old.train.global_batch_size, config.train.global_batch_size)
    for key, (before, after) in order.items():
        logger.warning(
            "%s was %s and is %s: from here on, samples come in another order", key, _shown(before), _shown(after)
        )


def _shown(value: Any) -> str:
    """A setting as people write it."""
    if isinstance(value, BaseModel):
        return str(value.model_dump(exclude_defaults=True))
    return f"[{', '.join(map(_shown, value))}]" if isinstance(value, (list, tuple)) else repr(value)


def check_beginning(config: TrainConfig) -> None:
    """Refuse a new run whose ``checkpoint.init_from`` is missing, or is of another model."""
    if config.checkpoint.init_from is None:
        return
    try:
        source = checkpoint.resolve(config.checkpoint.init_from)
    except CheckpointError as error:
        if (best := _sweeps_best(config.checkpoint.init_from)) is None:
            raise
        raise CheckpointError(error.problem, f"train it first: python -m ray_jobs.train --config {best}") from error
    if config.stage != "tokenizer":
        from setok.stages.setokim import check_source  # brings in torch

        check_source(source, config)


def _sweeps_best(run: str) -> Path | None:
    """The config of a run that a sweep has named but not trained, its best one; ``None`` for all other runs."""
    folder = Path(run)
    best = folder.with_name(folder.name.removesuffix(BEST_OF_SWEEP)) / "best.yaml"
    return best if folder.name.endswith(BEST_OF_SWEEP) and best.is_file() else None


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """The same run with paths that mean the same in Ray's processes, whose working directory is another."""

    def absolute(path: str) -> str:
        return path if "://" in path else str(Path(path).absolute())

    setokim = config.setokim and config.setokim.model_copy(
        update={
            "text_tokenizer": _existing(config.setokim.text_tokenizer),
            "language_model": config.setokim.language_model.model_copy(
                update={"path": _existing(config.setokim.language_model.path)}
            ),
        }
    )
    init_from, store = config.checkpoint.init_from, config.checkpoint.store
    perceptual, features = config.loss.perceptual_path, config.data.features
    validation = config.validation and config.validation.model_copy(
        update={
            "data": absolute(config.validation.data),
            "references": config.validation.references and absolute(config.validation.references),
        }
    )
    entries = tuple(entry.model_copy(update={"path": absolute(entry.path)}) for entry in config.data.train)
    return config.model_copy(
        update={
            "output_dir": absolute(config.output_dir),
            "data": config.data.model_copy(update={"train": entries, "features": features and absolute(features)}),
            "loss": config.loss.model_copy(update={"perceptual_path": perceptual and absolute(perceptual)}),
            "setokim": setokim,
            "validation": validation,
            "checkpoint": config.checkpoint.model_copy(
                update={"init_from": init_from and absolute(init_from), "store": store and absolute(store)}
            ),
        }
    )


def _existing(path: str | None) -> str | None:
    """A local folder's absolute path; a hub id stays what it is."""
    return str(Path(path).absolute()) if path and Path(path).exists() else path
