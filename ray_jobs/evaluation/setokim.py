"""Figures of a Setokim on an ingested set, over any number of replicas.

Writes into the run's folder::

    metrics.json     the set's figures by task, references beside them, and what ran
    answers.jsonl    what was said to every record, and how good it was
    examples.jsonl   some records with what was said, drawn and marked, pictures as PNG
    config.yaml      what was asked
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ray_jobs import launch
from ray_jobs.evaluation.files import METRICS
from ray_jobs.evaluation.setokim_files import ANSWERS, EXAMPLES, write_lines
from ray_jobs.evaluation.setokim_replica import EXAMPLE, ROW, SetokimReplica, SetokimTask
from setok import checkpoint
from setok.config import EvaluateConfig
from setok.data.images import mask_map
from setok.data.schema import Record
from setok.data.shards import ShardReader
from setok.errors import DataError
from setok.metrics.language import AnswerTable
from setok.metrics.running import INDEX
from setok.metrics.segmentation import best_constant_mask
from setok.metrics.setokim import summarise
from setok.models.generation import GenerationOptions
from setok.predictor.exercises import MODES

REFERENCE_MASKS = 2000
"""Masks of the training set, evenly spaced, that the constant mask is made of."""
_ROWS = 1024
_TEXT_COLUMNS = ("id", "task", "conversation", "answers", "choices", "provenance")


def measure(
    config: EvaluateConfig, *, path: Path, image_size: int, num_rows: int, mean_image: np.ndarray | None, cpus: float
) -> dict[str, Any]:
    """Ask everything and mark it; Ray must be running.

    Args:
        path: the checkpoint.
        num_rows: how many of the set's rows, from the first on.
        mean_image: of the training set.
        cpus: of a replica.

    Returns:
        Figures by task; the files of answers and examples are written.

    Raises:
        DataError: the set has no record that can be asked.
    """
    task = task_of(config, path=path, image_size=image_size, num_rows=num_rows, mean_image=mean_image)
    rows, examples = _ask_all(config, task, num_rows, cpus)
    figures = summarise(rows)
    if not figures:
        raise DataError(
            f"data set {config.data!r} has nothing to ask",
            f"use a set with records of: {', '.join(task.tasks)}",
        )
    figures["num_skipped"] = sum(row["task"] == "unreadable" for row in rows)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    (config.run_dir / METRICS).unlink(missing_ok=True)
    write_lines(config.run_dir / ANSWERS, rows)
    write_lines(config.run_dir / EXAMPLES, examples)
    return figures


def task_of(
    config: EvaluateConfig, *, path: Path, image_size: int, num_rows: int, mean_image: np.ndarray | None
) -> SetokimTask:
    """What every replica must know; arguments as of ``measure``."""
    train = config.train_data or config.data
    drawn = np.random.default_rng(config.seed).permutation(num_rows)[: config.num_pictures]
    return SetokimTask(
        path=checkpoint.pin(config.checkpoint, path),
        data=config.data,
        device="cuda" if config.use_gpu else "cpu",
        weights=config.weights,
        tasks=config.tasks or tuple(MODES),
        options=GenerationOptions(
            max_new_tokens=config.max_new_tokens,
            guidance=config.guidance,
            image_temperature=config.image_temperature,
            sampling_steps=config.sampling_steps,
        ),
        seed=config.seed,
        references=config.references,
        answers=AnswerTable(_answers_of(train) if config.references else ()),
        things=things_of(config.data, num_rows),
        mean_image=mean_image,
        constant_mask=_constant_mask(train, image_size) if config.references else None,
        shown=frozenset(drawn.tolist()),
        batch_size=config.batch_size,
        num_threads=max(1, (os.cpu_count() or 1) // config.num_replicas),
    )


def things_of(folder: str, num_rows: int) -> tuple[str, ...]:
    """What the things on a set's pictures are called: the concepts, without those of backgrounds where segments tell them."""
    reader = ShardReader(folder, columns=("concepts", "segments"))
    concepts, stuff = set[str](), set[str]()
    for start in range(0, num_rows, _ROWS):
        for row in reader.take(np.arange(start, min(start + _ROWS, num_rows))).to_pylist():
            concepts.update(row["concepts"] or ())
            stuff.update(segment["category"] for segment in row["segments"] or () if not segment["is_thing"])
    return tuple(sorted(concepts - stuff))


def _answers_of(folder: str) -> Iterator[tuple[str, str, str]]:
    """Type, question and answer of everything that a training set asks."""
    reader = ShardReader(folder, columns=_TEXT_COLUMNS)
    for start in range(0, reader.num_rows, _ROWS):
        for row in reader.take(np.arange(start, min(start + _ROWS, reader.num_rows))).to_pylist():
            if row["task"] == "vqa":
                yield from questions_in(row)


def questions_in(row: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The questions of a stored record, be it one or a conversation of several."""
    provenance = json.loads(row["provenance"] or "{}")
    several = json.loads(provenance["questions"]) if "questions" in provenance else []
    turns = row["conversation"] or []
    asked = [turn["text"].replace("<image>", "").strip() for turn in turns if turn["role"] == "user"]
    said = [turn["text"].strip() for turn in turns if turn["role"] == "assistant"]
    for number, (question, answer) in enumerate(zip(asked, said, strict=False)):
        facts = several[number] if number < len(several) else provenance
        yield str(facts.get("question_type", "all")), question, answer


def _constant_mask(folder: str, image_size: int) -> np.ndarray | None:
    """The best one mask for all, of the training set's; ``None`` where it has none."""
    reader = ShardReader(folder, columns=("masks",))
    numbers = np.unique(
        np.linspace(0, reader.num_rows - 1, min(reader.num_rows, REFERENCE_MASKS)).round().astype(np.int64)
    )
    masks = []
    for part in np.array_split(numbers, max(1, len(numbers) // _ROWS)):
        for row in reader.take(part).to_pylist():
            record = Record.from_row(Record(id="", source="").to_row() | row)
            masks += [mask_map(mask, image_size) for mask in record.masks[:1]]
    return best_constant_mask(masks) if masks else None


def _ask_all(
    config: EvaluateConfig, task: SetokimTask, num_rows: int, cpus: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    import ray.data

    starts = range(0, num_rows, config.batch_size)
    blocks = [pa.table({INDEX: np.arange(s, min(s + config.batch_size, num_rows))}) for s in starts]
    dataset = ray.data.from_arrow(blocks).map_batches(
        SetokimReplica,
        fn_constructor_args=(task,),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=config.num_replicas),
        num_cpus=cpus,
        num_gpus=1 if config.use_gpu else None,
    )
    rows: list[dict[str, Any]] = []
    examples: list[dict[str, Any]] = []
    columns = (TextColumn("evaluate {task.fields[name]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=launch.console(), transient=True) as progress:
        line = progress.add_task("evaluate", total=num_rows, name=config.name)
        for part in dataset.iter_batches(batch_size=None, batch_format="numpy"):
            rows += [json.loads(text) for text in part[ROW]]
            examples += [json.loads(text) for text in part[EXAMPLE] if text]
            progress.advance(line, len(set(part[INDEX].tolist())))
    return sorted(rows, key=lambda row: (row[INDEX], row["task"])), examples
