"""What a run would be: its parts, the arithmetic of its batches, its data, and what it needs of this machine."""

from __future__ import annotations

from pathlib import Path

from ray_jobs.launch import console
from ray_jobs.training.before_start import check_beginning
from ray_jobs.training.preflight import check_features
from setok import checkpoint
from setok.config import TrainConfig
from setok.errors import SetokError


def dry_run(config: TrainConfig, made_in: Path | None = None) -> None:
    """Show what the run would train, on how many samples, and whether this machine can run it, as ``ray_jobs.plan`` does.

    Args:
        made_in: the folder of a job that makes the run's data, and what it starts from, before the run.

    Raises:
        CheckpointError: what the run is to start from is missing, or is of another model.
    """
    from rich.table import Table

    from ray_jobs.planning.samples import RealBatches
    from ray_jobs.planning.table import show
    from setok.planning import Traces, describe, estimate, load_hardware, suggest, this_machine

    begins_made = made_in is not None and Path(config.checkpoint.init_from or "").is_relative_to(made_in)
    if checkpoint.newest_good(checkpoint.home_of(config)) is None and not begins_made:
        check_beginning(config)
    if config.data.features is not None:
        check_features(Path(config.data.features))
    parts = describe(config)
    table = Table("part", "parameters", "trainable", title=f"{config.name}: stage {config.stage}")
    for part in parts:
        table.add_row(part.name, f"{part.parameters:,}", f"{part.trainable:,}")
    total, trainable = sum(part.parameters for part in parts), sum(part.trainable for part in parts)
    table.add_section()
    table.add_row("all", f"{total:,}", f"{trainable:,}")
    console().print(table)
    samples = config.train.steps * config.train.global_batch_size
    what = "images" if config.stage == "tokenizer" else f"rows of up to {config.sequence.max_length} tokens"
    for size in _sizes(config):
        console().print(_arithmetic(config.with_workers(size), what))
    console().print(f"{config.train.steps} steps = {samples:,} {what}.")
    for entry in config.data.train:
        share = entry.weight / sum(e.weight for e in config.data.train)
        # How many samples a row holds is known once the sets' lengths are counted, which a dry run does not do.
        console().print(_epochs(entry.path, share * samples if config.stage == "tokenizer" else None, made_in))
    if config.validation is not None:
        console().print("Evaluated beside it: " + _epochs(config.validation.data, None, made_in))
    cluster, hardware, traces = this_machine(), load_hardware(), Traces(RealBatches())
    plan = estimate(config, cluster, hardware, traces)
    show(console(), plan, hardware, None if plan.fits else suggest(config, cluster, hardware, traces))


def _sizes(config: TrainConfig) -> list[int]:
    """The numbers of workers that a run may have; of a wide range some, the ends among them."""
    fewest, most = max(1, config.scaling.min_workers), max(1, config.scaling.max_workers)
    return sorted({*range(fewest, min(most, fewest + 8)), most})


def _arithmetic(config: TrainConfig, what: str) -> str:
    """How a global batch is shared, and how much of the work is padding."""
    batch, micro, steps = (
        config.train.global_batch_size,
        config.train.micro_batch_size,
        config.gradient_accumulation_steps,
    )
    places = config.num_ranks * micro * steps
    wasted = f", of which {places - batch} ({(places - batch) / places:.0%}) are padding" if places > batch else ""
    return f"Global batch {batch} = {config.num_ranks} worker(s) × {micro} {what} × {steps} micro-batch(es)" + (
        f" = {places} places{wasted}." if wasted else "."
    )


def _epochs(path: str, samples: float | None, made_in: Path | None) -> str:
    """How large one data set is, and how often a run goes through it where that is known."""
    from setok.data.schema import Manifest

    try:
        rows = Manifest.load(path).num_rows
    except SetokError as error:
        if made_in is not None and Path(path).is_relative_to(made_in):
            return f"Data {path}: made before, by this job."
        return f"Data {path}: {error.problem}"
    return f"Data {path}: {rows:,} records" + (f", {samples / rows:.2f} epochs." if samples is not None else ".")
