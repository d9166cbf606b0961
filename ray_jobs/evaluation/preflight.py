"""Looks at everything that an evaluation needs, before anything heavy starts, and says all that is wrong at once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_jobs.evaluation.clustering import changed
from ray_jobs.evaluation.files import read_finished, refuse_another
from ray_jobs.evaluation.journal import check
from ray_jobs.evaluation.networks import check_networks
from ray_jobs.evaluation.problems import Problems
from ray_jobs.evaluation.trained import Trained, trained_of
from ray_jobs.evaluation.work import Work, bare_records
from ray_jobs.scoring.tasks import OWN, RUN, Run, Task, expanded
from setok.config import EvaluateConfig
from setok.data.schema import Manifest, Record
from setok.errors import CheckpointError, ConfigError, DataError

ONLY_SETOKIM = ("max_new_tokens", "guidance", "image_temperature")


def works_of(config: EvaluateConfig) -> dict[str, Work]:
    """What is to be done for every checkpoint, by the name under which its figures stand.

    Raises:
        ConfigError, DataError, CheckpointError: something is missing or does not fit; see ``Problems``.
    """
    problems = Problems()
    tasks = _tasks(config, problems)
    manifest = _manifest(config, problems)
    specs = (config.checkpoint, *config.beside)
    found: dict[str, Trained] = {}
    named: dict[Path, str] = {}
    for label, spec in zip(labels_of(specs), specs, strict=True):
        try:
            trained = trained_of(spec)
        except CheckpointError as error:
            problems.add(error)
            continue
        found[label] = trained
        place = trained.path.resolve()
        if place in named:
            problem = f"{named[place]} and {spec} are one checkpoint, named twice"
            problems.add(ConfigError(problem, "name every checkpoint once"))
        named[place] = spec
    _check_stages(config, list(found.values()), tasks, problems)
    works = {}
    for label, trained in found.items():
        own = _alone(config, label, trained) if config.beside else config
        if manifest is not None:
            fitting = _fitting(own, trained, manifest, tasks, problems)
            works[label] = Work(config=own, trained=trained, manifest=manifest, tasks=fitting)
    problems.settle()
    for work in works.values():
        if read_finished(work.config, work.fingerprints) is None:
            refuse_another(work.config)
            check(work.config.run_dir, work.request)
    return works


def labels_of(specs: Sequence[str]) -> list[str]:
    """A short name for every checkpoint: the last parts of its path that tell it from the others."""
    # A checkpoint is known by its run; its step alone says little.
    short = [re.sub(r"[/\\]checkpoints[/\\]step_0*(\d+)[/\\]*$", r"-step-\1", spec) for spec in specs]
    parts = [[p for p in re.split(r"[/\\]+", spec) if p not in ("", ".", "..")] or ["checkpoint"] for spec in short]
    while len(parts) > 1 and min(map(len, parts)) > 1 and len({own[-1] for own in parts}) == 1:
        parts = [own[:-1] for own in parts]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = [re.sub(r"[^A-Za-z0-9._@-]", "_", "-".join(own[-depth:])).lstrip("._@-") for own in parts]
        if len(set(labels)) == len(labels):
            break
    # What no part of the path tells apart, a number does: "a+b" and "a_b" are written alike.
    return [
        label if labels.count(label) == 1 else f"{label}-{labels[:place].count(label) + 1}"
        for place, label in enumerate(labels)
    ]


def _alone(config: EvaluateConfig, label: str, trained: Trained) -> EvaluateConfig:
    """What is asked of one of several; a tokenizer's evaluation does not depend on what is only Setokim's."""
    changes = {"name": label, "output_dir": str(config.run_dir), "checkpoint": trained.spec, "beside": ()}
    foreign = ONLY_SETOKIM if trained.stage == "tokenizer" else ()
    return config.model_copy(update=changes | {key: _default(key) for key in foreign})


def _default(key: str) -> Any:
    return EvaluateConfig.model_fields[key].default


# ---------------------------------------------------------------- one thing after the other


def _tasks(config: EvaluateConfig, problems: Problems) -> Mapping[str, Task]:
    """What is asked for, with the networks that it needs."""
    tasks, unknown = expanded(config.tasks)
    for problem in unknown:
        problems.add(ConfigError(problem, "`python -m ray_jobs.evaluate --tasks list` shows all tasks and groups"))
    if not config.tasks:
        tasks = OWN
    for name, value in config.networks.model_dump().items():
        if value is None:
            continue
        takers = [task for task in RUN if name in RUN[task].options]
        if not any(task in tasks for task in takers):
            remedy = f"add one of: {', '.join(takers)}; or leave it out"
            problems.add(ConfigError(f"networks.{name} has no part in these tasks", remedy))
    for name, run in _named(config).items():
        for need in (need for need in run.needs if getattr(config.networks, need) is None):
            remedy = f"--set networks.{need}=FILE networks.variant=…"
            problems.add(ConfigError(f"task {name!r} needs the weights of {need}", remedy))
    check_networks(config.networks, problems)
    return tasks


def _named(config: EvaluateConfig) -> dict[str, Run]:
    """The tasks that were named one by one: if one of them cannot be run, that is an error."""
    return {name: run for name in config.tasks if name in RUN and (run := RUN[name].run) is not None}


def _manifest(config: EvaluateConfig, problems: Problems) -> Manifest | None:
    manifest = None
    for folder in dict.fromkeys((config.data, config.train_data or config.data)):
        try:
            found = Manifest.load(folder)
        except DataError as error:
            problems.add(error)
            continue
        if found.num_rows == 0:
            problems.add(DataError(f"data set {folder!r} has no rows", "ingest some, or name another set"))
        elif folder == config.data:
            manifest = found
    return manifest


def _check_stages(
    config: EvaluateConfig, trained: Sequence[Trained], tasks: Mapping[str, Task], problems: Problems
) -> None:
    """Refuse settings and tasks that none of the checkpoints has a use for, and checkpoints that no task takes."""
    if not trained:
        return
    given = " and ".join(f"{one.spec} (stage={one.stage})" for one in trained)
    for key in ONLY_SETOKIM:
        value = getattr(config, key)
        if value != _default(key) and all(one.stage == "tokenizer" for one in trained):
            problem = f"{key}={value} has no part in the evaluation of stage=tokenizer"
            problems.add(ConfigError(problem, f"leave {key} out, or name a pretrain or instruct run beside {given}"))
    for name, run in _named(config).items():
        if not any(run.of_stage(one.stage) for one in trained):
            problem = f"task {name!r} needs the checkpoint of {run.stage}, and there is {given}"
            problems.add(ConfigError(problem, "name another checkpoint, or leave the task out"))
    for one in trained:
        others = {other.stage for other in trained if other is not one}
        told = _named(config) and not any(_takes(tasks, stage) for stage in others)
        if tasks and not _takes(tasks, one.stage) and not told:
            problem = f"none of the tasks takes {one.spec}, which is of stage={one.stage}"
            remedy = f"leave it out, or add a task that does: {', '.join(_takes(OWN, one.stage))}"
            problems.add(ConfigError(problem, remedy))
        if config.clustering:
            _check_clustering(config, one, problems)
        if one.is_exported and config.weights == "raw":
            problem = f"weights=raw has no part in {one.spec}: what is exported is the running average, where the run kept one"
            problems.add(ConfigError(problem, "leave weights out, or name the run"))


def _check_clustering(config: EvaluateConfig, trained: Trained, problems: Problems) -> None:
    """Refuse another clustering for a model that has been trained on the tokens of its own, or that cannot have it."""
    if trained.stage != "tokenizer":
        problem = f"clustering={config.clustering} is for tokenizers, and {trained.spec} is of stage={trained.stage}"
        problems.add(ConfigError(problem, "leave clustering out, or name the tokenizer run that it started from"))
        return
    try:
        changed(trained.model.clustering, config.clustering)
    except ConfigError as error:
        problems.add(error.about(trained.spec))


def _takes(tasks: Mapping[str, Task], stage: str) -> list[str]:
    """The tasks that take a checkpoint of a stage."""
    return [name for name, task in tasks.items() if task.run is not None and task.run.of_stage(stage)]


def _fitting(
    config: EvaluateConfig, trained: Trained, manifest: Manifest, tasks: Mapping[str, Task], problems: Problems
) -> dict[str, Task]:
    """The tasks that the checkpoint, the set and the networks allow; those named one by one must be among them."""
    num_rows = min(manifest.num_rows, config.limit or manifest.num_rows)
    kinds = _kinds(config.data, manifest, num_rows)
    records = [Record(id="", source=source, task=task) for source, task in kinds]
    allowed = {
        name: task.run
        for name, task in tasks.items()
        if task.run is not None
        and task.run.of_stage(trained.stage)
        and all(getattr(config.networks, need) is not None for need in task.run.needs)
    }
    fitting = {name for name, run in allowed.items() if any(map(run.takes, records))}
    there = ", ".join(f"{count} {task} of {source}" for (source, task), count in sorted(kinds.items()))
    where = f"the first {num_rows} records of {config.data!r}" if num_rows < manifest.num_rows else f"{config.data!r}"
    named = _named(config)
    for name in (name for name in named if name in allowed and name not in fitting):
        sources = f" of {' or '.join(named[name].sources)}" if named[name].sources else ""
        problem = f"task {name!r} finds nothing in {where}: it takes {named[name].asks[0]} records{sources}"
        problems.add(DataError(problem, f"name another set or task; there are {there}"))
    takes = _takes(tasks, trained.stage)
    if takes and not fitting and named.keys().isdisjoint(takes):
        remedy = f"use a set with records for: {', '.join(takes)}"
        problems.add(DataError(f"{where} has nothing to ask {trained.spec}: there are {there}", remedy))
    return {name: task for name, task in tasks.items() if name in fitting}


def _kinds(folder: str, manifest: Manifest, num_rows: int) -> Counter[tuple[str, str]]:
    """How many records there are of each source and task."""
    if manifest.records_by_task and num_rows == manifest.num_rows:
        by_source = manifest.records_by_task.items()
        return Counter({(source, task): count for source, tasks in by_source for task, count in tasks.items()})
    return Counter((record.source, record.task) for _, record in bare_records(folder, num_rows))
