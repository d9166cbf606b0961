"""Predictions in the official formats of the benchmarks, scored from the files that were written, as ``score`` does it."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ray_jobs.evaluation.work import Work
from ray_jobs.scoring.files import Given
from ray_jobs.scoring.samples import Sample
from ray_jobs.scoring.tasks import Run, Task
from setok.config import NetworksConfig

PREDICTIONS, ANNOTATIONS = "predictions", "annotations"
NO_ANSWERS = "the records have no answers: hand the predictions in where the set comes from"


def write_and_score(work: Work, samples: Callable[[Run], Iterable[Sample]]) -> dict[str, dict[str, Any]]:
    """Write every benchmark's files below the run's folder, and score them.

    Args:
        samples: of a task, each call anew.

    Returns:
        Figures by task. Of a benchmark of several files, means of the headline figures, and each file's under ``by_part``.
    """
    folder = work.config.run_dir
    for old in (PREDICTIONS, ANNOTATIONS):
        shutil.rmtree(folder / old, ignore_errors=True)
    figures = {}
    for name, task in work.tasks.items():
        if task.run is None or task.run.write is None:
            continue
        parts = {
            part: _scored(name, task, own, folder, f"{name}-{part}" if part else name, work.config.networks)
            for part, own in _parts(task.run, samples(task.run))
        }
        figures[name] = _together(task, parts)
    return figures


def _parts(run: Run, samples: Iterable[Sample]) -> Iterator[tuple[str, Iterable[Sample]]]:
    """Samples by the official file that they belong to; one part has no name."""
    if run.part is None:
        yield "", samples
        return
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(run.part(sample), []).append(sample)
    if len(found) == 1:
        yield "", next(iter(found.values()))
        return
    yield from sorted(found.items())


def _scored(
    name: str, task: Task, samples: Iterable[Sample], folder: Path, file: str, networks: NetworksConfig
) -> dict[str, Any]:
    assert task.run is not None and task.run.write is not None and task.score is not None
    there = iter(samples)
    first = next(there, None)
    if first is None:
        return {"num_samples": 0}
    files = task.run.write(itertools.chain([first], there), folder, file)
    if files.annotations is None:
        return {"num_samples": None, "note": NO_ANSWERS}
    options: dict[str, Any] = {
        option: Path(value) if option != "variant" else value
        for option, value in networks.model_dump().items()
        if option in task.options and value is not None
    }
    return task.score(Given(task=name, predictions=files.predictions, annotations=files.annotations, **options))


def _together(task: Task, parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if list(parts) == [""]:
        return parts[""]
    means = {
        figure: sum(part[figure] for part in parts.values()) / len(parts)
        for figure in task.headline
        if parts and all(figure in part for part in parts.values())
    }
    return means | {"num_samples": sum(part["num_samples"] for part in parts.values()), "by_part": parts}
