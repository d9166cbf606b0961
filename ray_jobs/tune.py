"""Many training runs that differ in a few settings: which is best, and what each setting is worth.

    python -m ray_jobs.tune --config sweep_scenes --dry-run     # the trials that there would be
    python -m ray_jobs.tune --config mine.yaml                  # README.md, Sweeps, says what stands in it

Every trial is a training run of its own. A sweep that was killed goes on when the same command is given again: finished trials
stay as they are, and those under way go on from their newest checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from ray_jobs import launch
from ray_jobs.pipeline import prepare_data
from ray_jobs.reporting.sweep import write_sweep_report
from ray_jobs.train import train
from ray_jobs.training.stopping import forget_request, stop_on_signal
from ray_jobs.tuning.averages import write_averages
from ray_jobs.tuning.before_start import check_before_start
from ray_jobs.tuning.resources import most_at_a_time, this_node
from ray_jobs.tuning.results import BEST, BEST_THEN, best_of, write_best, write_table
from ray_jobs.tuning.running import check_room, run_trials
from ray_jobs.tuning.space import changes_of, known_values, train_config, with_absolute_base
from ray_jobs.tuning.trials import Trial, Trials
from setok.config import THEN, Dimension, TuneConfig, differences, dump_config, load_config
from setok.errors import ConfigError, TrainingError

CONFIG = "config.yaml"
_MOST_SHOWN = 12
_SAME = (
    *("stage", "model", "concepts", "discriminator", "loss", "setokim", "setokim_loss", "sequence", "data", "optim"),
    *("train", "validation", "seed"),
)
"""What must not change while a sweep goes on, or its trials could not be compared."""


def tune(sweep: TuneConfig) -> Path:
    """Run what is left of a sweep, and write its table, its page and the winner's settings.

    Returns:
        The sweep's folder.

    Raises:
        ConfigError: the space has impossible trials, nothing logs an objective, the cluster has no room, or the folder holds
            another sweep.
        DataError: a set is missing that the sweep does not make itself.
        TrainingError: every trial failed.
        Stopped: the sweep was asked to stop; its trials have saved.
    """
    sweep = with_absolute_base(sweep)
    check_before_start(sweep)
    check_same_sweep(sweep)
    sweep.run_dir.mkdir(parents=True, exist_ok=True)
    (sweep.run_dir / CONFIG).write_text(dump_config(sweep), encoding="utf-8")
    launch.start_ray()
    check_room(sweep)
    prepare_data(sweep.run_dir, sweep.scenes, sweep.ingest, sweep.words)
    forget_request(sweep.run_dir)
    try:
        with stop_on_signal(sweep.run_dir):
            run_trials(sweep, num_trials(sweep), train)
    finally:
        trials = Trials(sweep).all()
        write_results(sweep, trials)
    if trials and all(trial.result is not None and trial.result.state == "failed" for trial in trials):
        reason = trials[0].result.reason if trials[0].result else ""
        raise TrainingError(f"all {len(trials)} trials failed, the first one by: {reason}", f"see {trials[0].folder}")
    return sweep.run_dir


def num_trials(sweep: TuneConfig) -> int:
    """How many trials there will be; a search that learns may find nothing new before that."""
    if sweep.search == "optuna":
        assert sweep.num_trials is not None  # the config has seen to it
        return int(min(sweep.num_trials, sweep.num_combinations))
    return len(known_values(sweep))


def check_same_sweep(sweep: TuneConfig) -> None:
    """Refuse to go on with trials that would not compare with those that are there.

    Raises:
        ConfigError: naming what has changed.
    """
    file = sweep.run_dir / CONFIG
    if not file.is_file() or not Trials(sweep).all():
        return
    old = load_config(TuneConfig, file)
    changed = differences(list(old.space), list(sweep.space), "the keys of the space")
    for key in old.space.keys() & sweep.space.keys():
        changed |= _lost_choices(old.space[key], sweep.space[key], f"space.{key}")
    for section in ("scenes", "ingest", "words"):
        changed |= differences(getattr(old, section), getattr(sweep, section), section)
    if (old.then is None) != (sweep.then is None):
        before, now = ("nothing" if one.then is None else f"stage {one.then.stage}" for one in (old, sweep))
        changed["then"] = (before, now)
    stages = [("", old.train, sweep.train)]
    if old.then is not None and sweep.then is not None:
        stages.append((f"{THEN}.", old.then, sweep.then))
    for prefix, was, is_now in stages:
        for section in _SAME:
            changed |= differences(getattr(was, section), getattr(is_now, section), f"{prefix}{section}")
        changed.pop(f"{prefix}data.features", None)  # losses are the same with and without
        begins = (was.checkpoint.init_from, is_now.checkpoint.init_from)
        changed |= differences(*begins, f"{prefix}checkpoint.init_from")
    if changed:
        listed = ", ".join(f"{key} {before!r} → {after!r}" for key, (before, after) in sorted(changed.items()))
        raise ConfigError(
            f"{sweep.run_dir} holds a sweep of other settings: {listed}",
            f"give this one another name (--set name={sweep.name}-2), or delete {sweep.run_dir}",
        )


def _lost_choices(old: Dimension, new: Dimension, key: str) -> dict[str, tuple[Any, Any]]:
    """Choices that trials may have been made for, and that are gone or mean something else now; more of them are welcome."""
    was, now = _choices(old), _choices(new)
    return {
        f"{key}.{name}": (what, now.get(name)) for name, what in was.items() if name not in now or now[name] != what
    }


def _choices(dimension: Dimension) -> dict[str, Any]:
    """What the choices of a dimension mean, by the name of a variant, or as JSON, for a value may be a list or a mapping."""
    return dict(dimension.variants) or {json.dumps(value, sort_keys=True): value for value in dimension.values}


def write_results(sweep: TuneConfig, trials: Sequence[Trial]) -> None:
    """Write what is known so far into the sweep's folder."""
    if not any(trial.result is not None for trial in trials):
        return
    write_table(sweep, trials)
    write_averages(sweep, trials)
    if (best := best_of(sweep, trials)) is not None:
        write_best(sweep, best)
    write_sweep_report(sweep, trials)


def dry_run(sweep: TuneConfig) -> None:
    """Show what the trials would be, and refuse what ``tune`` would refuse before the first one."""
    check_before_start(sweep)
    if launch.joins_cluster():
        launch.start_ray()
        check_room(sweep)
    else:
        for stage in sweep.stages:
            most_at_a_time(stage, [this_node()])
    console = launch.console()
    steps = " and ".join(f"{stage.train.steps} steps of {stage.stage}" for stage in sweep.stages)
    table = Table(*sweep.space, title=f"{sweep.name}: {num_trials(sweep)} trials of {steps}")
    if sweep.search != "optuna":
        shown = known_values(sweep)[:_MOST_SHOWN]
        for values in shown:
            table.add_row(*(str(value) for value in values.values()))
    else:
        shown = []
        table.add_row(*(_range_of(sweep, key) for key in sweep.space))
    console.print(table)
    if len(shown) < num_trials(sweep) and shown:
        console.print(f"and {num_trials(sweep) - len(shown)} more")
    if shown:
        first = train_config(sweep, shown[0], name="0000", output_dir=str(sweep.run_dir))
        console.print(f"The first one sets {changes_of(sweep, shown[0])}, for stage {first.stage}.")


def _range_of(sweep: TuneConfig, key: str) -> str:
    dimension = sweep.space[key]
    return f"{dimension.low:g} to {dimension.high:g}" if dimension.is_range else ", ".join(map(str, dimension.choices))


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    sweep = launch.parse(TuneConfig, __doc__ or "", argv, dry_run=dry_run)
    folder = tune(sweep)
    best = best_of(sweep, Trials(sweep).all())
    show = launch.console().print
    if best is not None and best.result is not None:
        values = ", ".join(f"{key}={value}" for key, value in best.values.items())
        show(f"\n[bold]best[/bold]    {best.name}: {values}")
        for objective in sweep.objectives:
            show(f"        {objective.metric} {best.result.metrics[objective.metric]:.4g}")
        for file in (BEST, BEST_THEN)[: len(sweep.stages)]:
            show(f"[bold]train[/bold]   python -m ray_jobs.train --config {folder / file}")
    show(f"[bold]report[/bold]  {folder / 'report.html'}")


if __name__ == "__main__":
    launch.run(main)
