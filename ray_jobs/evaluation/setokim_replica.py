"""What the workers of an evaluation of Setokim do: read records, ask the model, and mark its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ray_jobs.evaluation.journal import Row
from ray_jobs.evaluation.pictures import png
from setok.data import rle
from setok.data.images import decode_and_resize, mask_map
from setok.data.schema import Mask, Record
from setok.data.shards import ShardReader
from setok.errors import DataError
from setok.metrics.answers import AnswerTable, answer_accuracy
from setok.metrics.mask_references import cluster_mask
from setok.metrics.mentions import caption_scores
from setok.metrics.reconstruction import mean_absolute_error, psnr
from setok.metrics.referring import intersection_and_union
from setok.metrics.running import INDEX
from setok.models.generation import GenerationOptions
from setok.predictor import MaskPart, PicturePart, Predictor, Reply
from setok.predictor.exercises import Question, right_answers, samples_of
from setok.predictor.replies import mask_part

UNREADABLE = "unreadable"
"""The ``task`` of rows about records that could not be asked."""
GRAY = 127
"""Brightness of the picture that is shown to find out what can be answered blind."""


@dataclass(frozen=True, kw_only=True)
class SetokimTask:
    """What every replica must know."""

    path: str
    data: str
    device: str
    weights: Literal["ema", "raw"]
    options: GenerationOptions
    seed: int
    references: bool
    blind: bool
    """Ask every question a second time, with a gray picture."""
    keep_pictures: bool
    """Keep the pictures that should have been drawn, as files need them."""
    answers: AnswerTable
    """Of the training set."""
    things: tuple[str, ...]
    """Phrases that captions are searched for."""
    mean_image: np.ndarray | None
    """In [0, 1]."""
    constant_mask: np.ndarray | None
    batch_size: int
    num_threads: int


@dataclass
class _Asked:
    index: int
    number: int
    asks: str
    record: Record
    question: Question
    pictures: list[Tensor]

    def row(self, **figures: Any) -> Row:
        return {INDEX: self.index, "number": self.number, "task": self.asks, "id": self.record.id, **figures}


class SetokimReplica:
    """One copy of the model: numbers of records and of their questions to rows of figures."""

    def __init__(self, task: SetokimTask) -> None:
        torch.set_num_threads(task.num_threads)
        self.task = task
        self.reader = ShardReader(task.data)
        self.predictor = Predictor.from_pretrained(
            task.path, device=task.device, weights=task.weights, batch_size=task.batch_size
        )

    def __call__(self, block: Mapping[str, Any]) -> list[Row]:
        """Rows with what was said, pointed at or drawn, and how good it is.

        Args:
            block: columns ``index``, ``number`` and ``asks``, the last the same in all rows.
        """
        numbers, asks = np.asarray(block[INDEX]), str(block["asks"][0])
        rows, asked = [], []
        for index, number, fields in zip(
            numbers.tolist(), np.asarray(block["number"]).tolist(), self.reader.take(numbers).to_pylist(), strict=True
        ):
            record = Record.from_row(fields)
            try:
                asked.append(self._asked(index, number, asks, record))
            except DataError as error:
                rows.append(refused(index, number, record, error))
        if not asked:
            return rows
        seeds = [self.task.seed * 1_000_003 + one.index + 7919 * one.number for one in asked]
        pictures = [one.pictures for one in asked]
        replies = self.predictor.ask([one.question for one in asked], pictures, options=self.task.options, seeds=seeds)
        mark = {"vqa": self._vqa, "direct": self._vqa, "caption": self._caption, "segment": self._segment}
        return rows + mark.get(asks, self._drawn)(asked, replies)

    def _asked(self, index: int, number: int, asks: str, record: Record) -> _Asked:
        own, question = samples_of(record, asks, self.predictor.sequence)[number]
        return _Asked(index, number, asks, own, question, [self._picture(own, which) for which in question.images])

    def _picture(self, record: Record, number: int) -> Tensor:
        return torch.from_numpy(decode_and_resize(record.images[number].data, self.predictor.image_size))

    # ------------------------------------------------------------ by task

    def _vqa(self, asked: Sequence[_Asked], replies: Sequence[Reply]) -> list[Row]:
        blind: Sequence[Reply | None] = [None] * len(asked)
        if self.task.blind and asked[0].asks == "vqa":
            gray = [[torch.full_like(picture, GRAY) for picture in one.pictures] for one in asked]
            blind = self.predictor.ask([one.question for one in asked], gray, options=self.task.options)
        made = []
        for one, reply, unseen in zip(asked, replies, blind, strict=True):
            kind = one.record.provenance.get("question_type", "all")
            row = one.row(kind=kind, said=reply.text)
            if right_answers(one.record):
                row["accuracy"] = self._accuracy(reply.text, one.record)
                if unseen is not None:
                    row["blind"] = self._accuracy(unseen.text, one.record)
                if self.task.references:
                    row["constant"] = self._accuracy(self.task.answers.constant(kind), one.record)
                    row["by_question"] = self._accuracy(self.task.answers.blind(kind, one.question.text), one.record)
            made.append(row)
        return made

    @staticmethod
    def _accuracy(said: str, record: Record) -> float:
        return answer_accuracy(said, right_answers(record), record.choices)

    def _caption(self, asked: Sequence[_Asked], replies: Sequence[Reply]) -> list[Row]:
        return [
            one.row(said=reply.text, **caption_scores(reply.text, one.record.caption, self.task.things))
            for one, reply in zip(asked, replies, strict=True)
        ]

    def _segment(self, asked: Sequence[_Asked], replies: Sequence[Reply]) -> list[Row]:
        size = self.predictor.image_size
        maps: list[np.ndarray] = []
        if self.task.references:
            tokenizer = self.predictor.model.tokenizer
            pixels = torch.stack([one.pictures[0] for one in asked]).to(self.predictor.device)
            with torch.no_grad():
                visual = tokenizer.tokenize(pixels)
            maps = [a.cpu().numpy().reshape(visual.grid) for a in visual.assignment]
        made = []
        for number, (one, reply) in enumerate(zip(asked, replies, strict=True)):
            assert one.question.mask is not None
            stored = one.record.masks[one.question.mask]
            truth = mask_map(stored, size)
            row = one.row(said=one.question.text, overlap=intersection_and_union(reply.masks[0].numpy(), truth))
            row["mask"] = _in_own_size(reply, stored)
            if maps:
                for name, rank in (("largest_cluster", 0), ("second_cluster", 1)):
                    guess = cluster_mask(maps[number], (size, size), rank=rank)
                    row[f"overlap_{name}"] = intersection_and_union(guess, truth)
            if self.task.constant_mask is not None:
                row["overlap_constant"] = intersection_and_union(self.task.constant_mask, truth)
            made.append(row)
        return made

    def _drawn(self, asked: Sequence[_Asked], replies: Sequence[Reply]) -> list[Row]:
        truths = torch.stack([self._picture(one.record, one.question.target or 0) for one in asked])
        painted = torch.stack([reply.pictures[0] for reply in replies])
        figures = {"": painted} | (self._drawn_references(asked, truths) if self.task.references else {})
        target = truths.float() / 255
        columns = {}
        for name, pixels in figures.items():
            suffix = f"_{name}" if name else ""
            columns[f"psnr{suffix}"] = psnr(pixels.float() / 255, target).tolist()
            columns[f"l1{suffix}"] = mean_absolute_error(pixels.float() / 255, target).tolist()
        made = []
        for i, (one, reply) in enumerate(zip(asked, replies, strict=True)):
            row = one.row(said=one.question.text, **{name: values[i] for name, values in columns.items()})
            row["tokens"] = next(part.num_tokens for part in reply.parts if isinstance(part, PicturePart))
            row["drawn"] = png(painted[i])
            if self.task.keep_pictures:
                row["truth"] = png(truths[i])
            made.append(row)
        return made

    def _drawn_references(self, asked: Sequence[_Asked], truths: Tensor) -> dict[str, Tensor]:
        """What the tokenizer makes of the true pictures, the picture that was to be changed, and the mean one."""
        found = {"tokenizer": self.predictor.model.tokenizer.reconstruct(truths.to(self.predictor.device)).cpu()}
        if asked[0].asks == "edit":
            found["unchanged"] = torch.stack([one.pictures[-1] for one in asked])
        if self.task.mean_image is not None:
            mean = torch.from_numpy(np.array(self.task.mean_image) * 255).round().to(torch.uint8)
            found["mean_image"] = mean.expand_as(truths)
        return found


def refused(index: int, number: int, record: Record, error: DataError) -> Row:
    """The row of something that could not be asked."""
    return {INDEX: index, "number": number, "task": UNREADABLE, "id": record.id, "error": error.problem}


def _in_own_size(reply: Reply, stored: Mask) -> dict[str, Any]:
    """What was pointed at, in the size of the picture that the true mask is of."""
    part = next(part for part in reply.parts if isinstance(part, MaskPart))
    mask = mask_part(part.logits, (stored.height, stored.width)).mask.numpy()
    return asdict(Mask(counts=rle.encode(mask), height=stored.height, width=stored.width))
