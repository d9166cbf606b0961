"""The runs of several files: each has its own name, starts from one that another file makes, and is served alike everywhere."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ray_jobs.manifests import served
from ray_jobs.manifests.pods import jobs_of
from ray_jobs.manifests.problems import Problem, items, join, shown
from ray_jobs.manifests.together import Placed, objects
from setok.config import EvaluateConfig, IngestConfig, Job, ServeConfig, TrainConfig
from setok.errors import did_you_mean


class _Run(NamedTuple):
    """A job of a RayJob."""

    file: str
    path: str
    job: Job

    @property
    def folder(self) -> str:
        return f"{self.job.output_dir.rstrip('/')}/{self.job.name}"


def problems(placed: Sequence[Placed], *, root: Path) -> Iterator[Problem]:
    """Runs that would write into each other's folder, or start from one that nobody makes; servers that differ."""
    runs = [
        _Run(file, path, job)
        for file, tree in objects(placed, "RayJob")
        for path, job in jobs_of(tree, root)
        if not isinstance(job, ServeConfig)
    ]
    seen: dict[str, _Run] = {}
    for run in runs:
        first = seen.setdefault(run.folder, run)
        if first is not run:
            yield Problem(run.path, f"the run {run.folder} is also that of {first.file}", "another name=…", run.file)
    if len([run for run in runs if isinstance(run.job, TrainConfig)]) > 1:  # one alone starts from something of before
        yield from _starts(runs)
    yield from _servers(placed)


def _starts(runs: list[_Run]) -> Iterator[Problem]:
    made = {run.folder for run in runs if not isinstance(run.job, (EvaluateConfig, IngestConfig))}
    folders = {posixpath.dirname(folder) for folder in made}
    for run in runs:
        for key, place in _sources(run.job):
            start = place.partition("@")[0].rstrip("/")
            if any(start == folder or start.startswith(f"{folder}/") for folder in made):
                continue
            if any(start.startswith(f"{folder}/") for folder in folders):
                yield Problem(run.path, f"{key}={place}, a run that none of these files makes",
                              f"{did_you_mean(start, made)} What is not made here belongs elsewhere",
                              run.file)  # fmt: skip


def _sources(job: Job) -> Iterator[tuple[str, str]]:
    if isinstance(job, TrainConfig) and job.checkpoint.init_from:
        yield "checkpoint.init_from", job.checkpoint.init_from
    if isinstance(job, EvaluateConfig):
        yield "checkpoint", job.checkpoint
        for place in job.beside:
            yield "beside", place


def _servers(placed: Sequence[Placed]) -> Iterator[Problem]:
    """An application of one name is the same in files for ``serve deploy`` and in RayServices."""
    files = [(file, document.tree) for file, document in placed if document.kind == "serve"]
    for file, tree in objects(placed, "RayService"):
        try:
            inner = yaml.safe_load(served.text_of(tree))
        except yaml.YAMLError:
            continue  # told elsewhere
        for other, whole in files:
            if _names(inner) & _names(whole):
                for problem in _differences(inner, whole, other):
                    yield replace(problem, path=join(served.AT, problem.path), file=file)


def _names(tree: Any) -> set[str]:
    return {str(application.get("name")) for application in (tree or {}).get("applications") or ()}


def _differences(one: Any, other: Any, file: str, at: str = "") -> Iterator[Problem]:
    if type(one) is type(other) and isinstance(one, (dict, list)):
        ours, theirs = dict(items(one)), dict(items(other))
        for key in dict.fromkeys([*ours, *theirs]):
            yield from _differences(ours.get(key), theirs.get(key), file, join(at, key))
    elif one != other:
        yield Problem(
            at, f"{shown(one)} here, and {shown(other)} in {file}", "the same in both: they describe one server"
        )
