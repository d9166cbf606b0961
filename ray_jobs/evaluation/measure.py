"""From what is to be done to figures and files: one checkpoint on one set, over replicas on Ray.

Writes into the run's folder::

    metrics.json      the set's figures, references beside them, and what ran
    images.jsonl      of a tokenizer: every picture's figures
    pictures.npz      the best, the worst and some random pictures: original, reconstruction, token map
    answers.jsonl     of a Setokim: what was said to every record, and how good it was
    examples.jsonl    the best, the worst and some random cases, pictures as PNG
    predictions/ annotations/      benchmarks in their official formats, which ``score`` reads
    config.yaml       what was asked
"""

from __future__ import annotations

import platform
import time
from typing import Any

import numpy as np
import torch

from ray_jobs import launch
from ray_jobs.evaluation import cases, files, official, setokim, tokenizer, tokenizer_files
from ray_jobs.evaluation.files import ANSWERS, EXAMPLES
from ray_jobs.evaluation.journal import Journal
from ray_jobs.evaluation.references import mean_image
from ray_jobs.evaluation.replicas import ask_all
from ray_jobs.evaluation.setokim_files import write_lines
from ray_jobs.evaluation.setokim_replica import SetokimReplica
from ray_jobs.evaluation.tokenizer_replica import TokenizerReplica
from ray_jobs.evaluation.work import Work
from setok.data.storage import Storage
from setok.metrics import scoring


def measure(work: Work) -> dict[str, Any]:
    """Measure a checkpoint and write its files; what was found out before is not asked again. Ray must be running.

    Returns:
        What ``metrics.json`` holds.
    """
    finished = files.read_finished(work.config, work.fingerprints)
    if finished is not None:
        Journal(work.config.run_dir, {}).clear()
        launch.console().print(f"{work.config.run_dir} is finished: this checkpoint is measured on this set already.")
        return finished
    started = time.monotonic()
    config, model = work.config, work.trained.model
    mean = mean_image(config.train_data or config.data, model) if config.references else None
    figures = _tokenizer(work, mean) if work.trained.stage == "tokenizer" else _setokim(work, mean)
    figures["run"] = _what_ran(work, time.monotonic() - started)
    files.write_metrics(config, figures)
    Journal(config.run_dir, {}).clear()
    return figures


def _begin(work: Work, journal: Journal) -> None:
    journal.begin(work.request)
    files.forget(work.config)


def _tokenizer(work: Work, mean: np.ndarray | None) -> dict[str, Any]:
    config, batches = work.config, tokenizer.batches(work)
    journal = Journal(config.run_dir, {batch.number: len(batch.items) for batch in batches})
    _begin(work, journal)
    read = tokenizer.read_of(work).__call__
    ask_all(config, TokenizerReplica, tokenizer.task_of(work, mean), batches, journal, read=read)
    rows = tokenizer.image_rows(journal.rows())
    chosen = tokenizer_files.choose(rows.table(), tokenizer.drawn_rows(work), config.num_pictures)
    packed = tokenizer.packed_pictures(journal.rows(), {row for _, row in chosen})
    tokenizer_files.write_pictures(config, rows.table(), chosen, packed)
    figures = scoring.summarise(rows) if "tokens" in work.tasks else {}
    return figures | official.write_and_score(work, lambda _: tokenizer.samples(journal.rows()))


def _setokim(work: Work, mean: np.ndarray | None) -> dict[str, Any]:
    config, (batches, unasked) = work.config, setokim.batches(work)
    journal = Journal(config.run_dir, {batch.number: len(batch.items) for batch in batches})
    _begin(work, journal)
    ask_all(config, SetokimReplica, setokim.task_of(work, mean), batches, journal)
    rows = setokim.in_order([*unasked, *journal.rows()])

    write_lines(config.run_dir / ANSWERS, rows)
    write_lines(config.run_dir / EXAMPLES, cases.examples(work, rows, journal.rows()))
    figures = setokim.figures_of(work, rows)
    return figures | official.write_and_score(work, lambda run: setokim.samples(work, journal.rows(), run))


def _what_ran(work: Work, seconds: float) -> dict[str, Any]:
    config = work.config
    return {
        "checkpoint": Storage(work.trained.place).name,
        "stage": work.trained.stage,
        "step": work.trained.step,
        "data": config.data,
        "tasks": list(work.tasks),
        "fingerprints": work.fingerprints,
        "image_size": work.trained.model.image_size,
        "weights": config.weights,
        "num_replicas": config.num_replicas,
        "seconds": round(seconds, 2),
        "images_per_second": round(work.num_rows / seconds, 1),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    import ray

    packages = {"torch": torch.__version__, "ray": ray.__version__, "numpy": np.__version__}
    return {"python": platform.python_version(), **packages}
