"""Metrics of trained models on an ingested set: tasks by name or group, over any number of replicas, checkpoints side by side.

    python -m ray_jobs.evaluate --checkpoints runs/a runs/b --data data/test --tasks vqav2,pope --limit 1000
    python -m ray_jobs.evaluate --config evaluate --set checkpoint=runs/a data=data/test tasks='[vqav2, pope]' limit=1000
    python -m ray_jobs.evaluate --tasks list
    python -m ray_jobs.evaluate score --help

Writes into the run's folder what ``ray_jobs.evaluation.measure`` says, in a folder of its own for each of several checkpoints,
and over all of them ``table.md`` and ``report.html``. What was stopped goes on with the same command.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from ray_jobs import launch
from ray_jobs.evaluation.files import METRICS, write_metrics
from ray_jobs.evaluation.measure import measure
from ray_jobs.evaluation.preflight import labels_of, works_of
from ray_jobs.evaluation.replicas import check_resources
from ray_jobs.reporting.comparison import lines_of, on_console
from ray_jobs.reporting.evaluation import REPORT, TABLE, write_evaluation
from ray_jobs.scoring import command as scoring_command
from ray_jobs.scoring.listing import print_tasks
from setok.config import EvaluateConfig


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measure checkpoints and write the run's files; see the module's docstring.

    Returns:
        What ``metrics.json`` holds: of several checkpoints, under ``checkpoints``, those of each.

    Raises:
        CheckpointError, DataError, ConfigError: something is missing, does not fit, or the cluster is too small; of several
            such things all are told.
    """
    works = works_of(config)
    launch.start_ray()
    check_resources(config)
    found = {label: measure(work) for label, work in works.items()}
    metrics = {"checkpoints": found} if config.beside else next(iter(found.values()))
    if config.beside:
        write_metrics(config, metrics)
    write_evaluation(config.run_dir, found)
    return metrics


# ---------------------------------------------------------------- command


def _checkpoints(given: Sequence[str]) -> list[str]:
    return [f"checkpoint={given[0]}", f"beside={json.dumps(given[1:])}"]


def _tasks(given: Sequence[str]) -> list[str]:
    names = [name for part in given for name in part.split(",") if name]
    if names == ["list"]:
        print_tasks()
        raise SystemExit(0)
    return [f"tasks={json.dumps(names)}"]


SHORTCUTS = (
    launch.Shortcut(
        flag="--checkpoints",
        metavar="RUN",
        help="runs, checkpoints or exported folders, measured side by side",
        overrides=_checkpoints,
        several=True,
        must="checkpoint",
    ),
    launch.Shortcut(
        flag="--data",
        metavar="SET",
        help="the ingested set",
        overrides=lambda given: [f"data={given[0]}"],
        must="data",
    ),
    launch.Shortcut(
        flag="--tasks",
        metavar="TASK,TASK",
        help="tasks and groups; `list` shows all with what each needs",
        overrides=_tasks,
        several=True,
    ),
    launch.Shortcut(
        flag="--limit",
        metavar="N",
        help="only the first N records of the set",
        overrides=lambda given: [f"limit={given[0]}"],
    ),
)


def describe(config: EvaluateConfig) -> None:
    """What the job would do, for ``--dry-run``; everything is looked at that a run looks at before it starts Ray."""
    from ray_jobs.planning.serving import show_here  # with what it takes to go through models without memory

    for label, work in works_of(config).items():
        launch.console().print(
            f"{label}: {', '.join(work.tasks)}; {work.num_rows} of {work.manifest.num_rows} rows of {config.data} with"
            f" {work.trained.path}, {config.num_replicas} replica(s) → {work.config.run_dir / METRICS}"
        )
        show_here(work.config)


def main() -> None:
    """The command ``python -m ray_jobs.evaluate``; with ``score`` as first argument it scores a file of predictions."""
    if sys.argv[1:2] == ["score"]:
        scoring_command.main(sys.argv[2:])
        return
    config = launch.parse(EvaluateConfig, __doc__ or "", dry_run=describe, shortcuts=SHORTCUTS, preset="evaluate")
    metrics = evaluate(config)
    found = metrics["checkpoints"] if config.beside else {labels_of([config.checkpoint])[0]: metrics}
    on_console(lines_of(found), list(found))
    launch.console().print(f"→ {config.run_dir}: {METRICS}, {TABLE}, {REPORT}")


if __name__ == "__main__":
    launch.run(main)
