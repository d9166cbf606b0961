"""The evaluation of a Setokim: every record is asked what the tasks want to know of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ray_jobs.evaluation.batches import Batch, Item, batches_of
from ray_jobs.evaluation.journal import Row
from ray_jobs.evaluation.pictures import drawn_sample
from ray_jobs.evaluation.references import answers_of, constant_mask, things_of
from ray_jobs.evaluation.setokim_replica import UNREADABLE, SetokimTask, refused
from ray_jobs.evaluation.work import Work
from ray_jobs.scoring.samples import Sample
from ray_jobs.scoring.tasks import Run
from setok.data.schema import Mask, Record
from setok.data.sequences import SequenceBuilder
from setok.data.special_tokens import text_tokenizer
from setok.errors import DataError
from setok.metrics.answers import AnswerTable
from setok.metrics.running import INDEX
from setok.metrics.setokim import summarise
from setok.models.generation import GenerationOptions
from setok.models.text_tokens import load_text_tokenizer
from setok.predictor.exercises import MODES, samples_of

_BLOBS = ("drawn", "truth", "mask")


def batches(work: Work) -> tuple[list[Batch], list[Row]]:
    """What is to be asked, and rows for what cannot be."""
    trained, config = work.trained, work.config
    assert trained.text_tokenizer is not None
    words = text_tokenizer(load_text_tokenizer(trained.text_tokenizer))
    builder = SequenceBuilder(words, trained.sequence, seed=0)
    room = {"text": config.max_new_tokens, "picture": trained.sequence.max_image_tokens, "mask": 1}
    runs = [task.run for task in work.tasks.values() if task.run is not None]
    items: list[Item] = []
    unasked: list[Row] = []
    for index, record in work.records():
        for asks in dict.fromkeys(asks for run in runs if run.takes(record) for asks in run.asks):
            try:
                asked = [question for _, question in samples_of(record, asks, trained.sequence)]
            except DataError as error:
                unasked.append(refused(index, 0, record, error))
                continue
            for number, question in enumerate(asked):
                try:
                    length = len(builder.prompt(question.messages)) + room[MODES["vqa" if asks == "direct" else asks]]
                except DataError as error:
                    unasked.append(refused(index, number, record, error))
                    continue
                items.append(Item(index=index, number=number, asks=asks, length=length))
    return batches_of(items, batch_size=config.batch_size, max_tokens=config.max_batch_tokens), unasked


def task_of(work: Work, mean_image: np.ndarray | None) -> SetokimTask:
    """What every replica must know."""
    config = work.config
    train = config.train_data or config.data
    return SetokimTask(
        path=work.trained.place,
        data=config.data,
        device="cuda" if config.use_gpu else "cpu",
        weights=config.weights,
        options=GenerationOptions(
            max_new_tokens=config.max_new_tokens,
            guidance=config.guidance,
            image_temperature=config.image_temperature,
            sampling_steps=config.sampling_steps,
        ),
        seed=config.seed,
        references=config.references,
        blind="vqa" in work.tasks,
        keep_pictures=not work.tasks.keys().isdisjoint(("editing", "fid")),
        answers=AnswerTable(answers_of(train) if config.references else ()),
        things=things_of(config.data, work.num_rows),
        mean_image=mean_image,
        constant_mask=constant_mask(train, work.trained.model.image_size) if config.references else None,
        batch_size=config.batch_size,
        num_threads=config.num_threads,
    )


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Rows in the order of the set, without what is big."""
    small = ({name: value for name, value in row.items() if name not in _BLOBS} for row in rows)
    return sorted(small, key=lambda row: (row[INDEX], row["task"], row["number"]))


def figures_of(work: Work, rows: Sequence[Row]) -> dict[str, Any]:
    """Figures of the tasks without official format, and how many things could not be asked."""
    found = {name: figures for name, figures in summarise(rows).items() if name in work.tasks}
    return found | {"num_skipped": sum(row["task"] == UNREADABLE for row in rows)}


def samples(work: Work, rows: Iterable[Row], run: Run) -> Iterator[Sample]:
    """What was said, pointed at and drawn, as a benchmark takes it; in the order of the set, but for pictures."""
    if is_drawn(run):
        for row in rows:
            if row["task"] in run.asks and "truth" in row:
                yield drawn_sample(row)
        return
    said: dict[int, list[Row]] = {}
    for row in rows:
        if row["task"] in run.asks:
            kept: Row = {name: row[name] for name in ("task", "number", "said", "mask") if name in row}
            said.setdefault(row[INDEX], []).append(kept)
    for index, record in work.records(regions="segment" in run.asks):
        if index in said and run.takes(record):
            yield from _samples_of(record, said[index], work)


def is_drawn(run: Run) -> bool:
    """Whether what it asks is answered by drawing."""
    return run.asks[0] in ("generate", "edit")


def _samples_of(record: Record, rows: Sequence[Mapping[str, Any]], work: Work) -> Iterator[Sample]:
    for row in sorted(rows, key=lambda row: (row["task"], row["number"])):
        part, question = samples_of(record, row["task"], work.trained.sequence)[row["number"]]
        mask = None
        if "mask" in row:
            assert question.mask is not None
            mask = Mask(**row["mask"])
            part = replace(part, masks=[part.masks[question.mask]])
        yield Sample(record=part, asks=row["task"], said=row.get("said", ""), mask=mask)
