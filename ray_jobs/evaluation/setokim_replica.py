"""What the workers of an evaluation of Setokim do: read records, ask the model, and mark its answers."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from setok.data.images import decode_and_resize, mask_map
from setok.data.schema import Record
from setok.data.shards import ShardReader
from setok.errors import DataError
from setok.metrics.language import AnswerTable, answer_accuracy, caption_scores
from setok.metrics.reconstruction import mean_absolute_error, psnr
from setok.metrics.running import INDEX
from setok.metrics.segmentation import cluster_mask, intersection_and_union
from setok.models.generation import GenerationOptions
from setok.predictor import Predictor, Reply
from setok.predictor.exercises import Question, questions_of, tasks_of

ROW, EXAMPLE = "row", "example"
GRAY = 127
"""Brightness of the picture that is shown to find out what can be answered blind."""


@dataclass(frozen=True, kw_only=True)
class SetokimTask:
    """What every replica must know."""

    path: str
    data: str
    device: str
    weights: Literal["ema", "raw"]
    tasks: tuple[str, ...]
    options: GenerationOptions
    seed: int
    references: bool
    answers: AnswerTable
    """Of the training set."""
    things: tuple[str, ...]
    """Phrases that captions are searched for."""
    mean_image: np.ndarray | None
    """In [0, 1]."""
    constant_mask: np.ndarray | None
    shown: frozenset[int]
    """Numbers of the records that become examples."""
    batch_size: int
    num_threads: int


@dataclass
class _Asked:
    index: int
    record: Record
    question: Question
    pictures: list[Tensor]


class SetokimReplica:
    """One copy of the model: numbers of records to rows of figures, as JSON, with examples for some of them."""

    def __init__(self, task: SetokimTask) -> None:
        torch.set_num_threads(task.num_threads)
        self.task = task
        self.reader = ShardReader(task.data)
        self.predictor = Predictor.from_pretrained(
            task.path, device=task.device, weights=task.weights, batch_size=task.batch_size
        )

    def __call__(self, numbers: Mapping[str, np.ndarray]) -> dict[str, Any]:
        made: list[tuple[int, dict[str, Any], dict[str, Any] | None]] = []
        by_task: defaultdict[str, list[_Asked]] = defaultdict(list)
        for index, fields in zip(numbers[INDEX].tolist(), self.reader.take(numbers[INDEX]).to_pylist(), strict=True):
            record = Record.from_row(fields)
            wanted = [name for name in tasks_of(record) if name in self.task.tasks]
            try:
                own = [one for name in wanted for one in self._asked(index, record, name)]
            except DataError as error:
                made.append((index, {"task": "unreadable", "error": error.problem}, None))
                continue
            for one in own:
                by_task[one.question.task].append(one)
        for name, asked in by_task.items():
            seeds = [self.task.seed * 1_000_003 + one.index for one in asked]
            replies = self.predictor.ask(
                [one.question for one in asked], [one.pictures for one in asked], options=self.task.options, seeds=seeds
            )
            made += getattr(self, f"_{name}")(asked, replies)
        return {
            INDEX: np.array([index for index, _, _ in made], np.int64),
            ROW: np.array([json.dumps({INDEX: index, **row}) for index, row, _ in made], dtype=object),
            EXAMPLE: np.array([json.dumps(shown) if shown else "" for _, _, shown in made], dtype=object),
        }

    def _asked(self, index: int, record: Record, task: str) -> list[_Asked]:
        asked = questions_of(record, task, self.predictor.sequence)
        pictures = {number: self._picture(record, number) for question in asked for number in question.images}
        return [_Asked(index, record, one, [pictures[number] for number in one.images]) for one in asked]

    def _picture(self, record: Record, number: int) -> Tensor:
        return torch.from_numpy(decode_and_resize(record.images[number].data, self.predictor.image_size))

    # ------------------------------------------------------------ by task

    def _vqa(self, asked: Sequence[_Asked], replies: Sequence[Reply]) -> list[Any]:
        gray = [[torch.full_like(picture, GRAY) for picture in one.pictures] for one in asked]
        blind = self.predictor.ask([one.question for one in asked], gray, options=self.task.options)
        made = []
        for one, reply, unseen in zip(asked, replies, blind, strict=True):
            kind = one.record.provenance.get("question_type", "all")
            question, references = one.question.text, one.record.answers
            row: dict[str, Any] = {
                "task": "vqa",
                "id": one.record.id,
                "kind": kind,
                "said": reply.text,
                "accuracy": answer_accuracy(reply.text, references),
                "blind": answer_accuracy(unseen.text, references),
            }
            if self.task.references:
                row["constant"] = answer_accuracy(self.task.answers.constant(kind), references)
                row["by_question"] = answer_accuracy(self.task.answers.blind(kind, question), references)
            truth = Counter(references).most_common(1)[0][0]
            made.append((one.index, row, self._example(one, said=reply.text, truth=truth, asked=question)))
        return made

    def _caption(self, asked: Sequence[_Asked], replies: Sequence[Reply]) -> list[Any]:
        made = []
        for one, reply in zip(asked, replies, strict=True):
            scores = caption_scores(reply.text, one.record.caption, self.task.things)
            row = {"task": "caption", "id": one.record.id, "said": reply.text, **scores}
            made.append((one.index, row, self._example(one, said=reply.text, truth=one.record.caption)))
        return made

    def _segment(self, asked: Sequence[_Asked], replies: Sequence[Reply]) -> list[Any]:
        size = self.predictor.image_size
        maps: list[np.ndarray] = []
        if self.task.references:
            tokenizer = self.predictor.model.tokenizer
            pixels = torch.stack([one.pictures[0] for one in asked]).to(self.predictor.device)
            for part in pixels.split(self.task.batch_size):
                with torch.no_grad():
                    visual = tokenizer.tokenize(part)
                maps += [a.cpu().numpy().reshape(visual.grid) for a in visual.assignment]
        made = []
        for number, (one, reply) in enumerate(zip(asked, replies, strict=True)):
            assert one.question.mask is not None
            truth = mask_map(one.record.masks[one.question.mask], size)
            found = reply.masks[0].numpy()
            row: dict[str, Any] = {
                "task": "segment",
                "id": one.record.id,
                "said": one.question.text,
                "overlap": intersection_and_union(found, truth),
            }
            if maps:
                for name, rank in (("largest_cluster", 0), ("second_cluster", 1)):
                    guess = cluster_mask(maps[number], (size, size), rank=rank)
                    row[f"overlap_{name}"] = intersection_and_union(guess, truth)
            if self.task.constant_mask is not None:
                row["overlap_constant"] = intersection_and_union(self.task.constant_mask, truth)
            shown = None
            if one.question.mask == 0:  # the first phrase stands for the record
                shown = self._example(one, asked=one.question.text, masks={"mask": found, "true mask": truth})
            made.append((one.index, row, shown))
        return made

    def _generate(self, asked: Sequence[_Asked], replies: Sequence[Reply]) -> list[Any]:
        return self._drawn(asked, replies)

    def _edit(self, asked: Sequence[_Asked], replies: Sequence[Reply]) -> list[Any]:
        return self._drawn(asked, replies)

    def _drawn(self, asked: Sequence[_Asked], replies: Sequence[Reply]) -> list[Any]:
        truths = torch.stack([self._picture(one.record, one.question.target or 0) for one in asked])
        painted = torch.stack([reply.pictures[0] for reply in replies])
        figures = {"": painted}
        if self.task.references:
            figures["tokenizer"] = torch.cat(
                [
                    self.predictor.model.tokenizer.reconstruct(part.to(self.predictor.device)).cpu()
                    for part in truths.split(self.task.batch_size)
                ]
            )
            if asked[0].question.task == "edit":
                figures["unchanged"] = torch.stack([one.pictures[-1] for one in asked])
            if self.task.mean_image is not None:
                mean = torch.from_numpy(np.array(self.task.mean_image) * 255).round().to(torch.uint8)
                figures["mean_image"] = mean.expand_as(truths)
        target = truths.float() / 255
        columns = {}
        for name, pixels in figures.items():
            suffix = f"_{name}" if name else ""
            columns[f"psnr{suffix}"] = psnr(pixels.float() / 255, target).tolist()
            columns[f"l1{suffix}"] = mean_absolute_error(pixels.float() / 255, target).tolist()
        made = []
        for number, (one, reply) in enumerate(zip(asked, replies, strict=True)):
            row: dict[str, Any] = {"task": one.question.task, "id": one.record.id, "said": one.question.text}
            row |= {name: values[number] for name, values in columns.items()}
            row["tokens"] = next(part.num_tokens for part in reply.parts if hasattr(part, "num_tokens"))
            pictures = {"drawn": painted[number], "truth": truths[number]}
            made.append((one.index, row, self._example(one, asked=one.question.text, pictures=pictures)))
        return made

    def _example(
        self,
        one: _Asked,
        *,
        said: str = "",
        truth: str = "",
        asked: str = "",
        pictures: Mapping[str, Tensor] | None = None,
        masks: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, Any] | None:
        """What a report shows of a record, if it is one of those to be shown."""
        if one.index not in self.task.shown:
            return None
        shown = {"given": one.pictures[-1]} if one.pictures else {}
        images = {name: pixels.permute(1, 2, 0).numpy() for name, pixels in (shown | dict(pictures or {})).items()}
        images |= {name: lit(images["given"], mask) for name, mask in (masks or {}).items()}
        return {
            "task": one.question.task,
            "id": one.record.id,
            "asked": asked,
            "said": said,
            "truth": truth,
            "images": {name: png(pixels) for name, pixels in images.items()},
        }


def lit(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A picture that is dark and gray but for a region."""
    gray = pixels.mean(-1, keepdims=True) * 0.3
    return np.where(mask[..., None], pixels, gray).astype(np.uint8)


def png(pixels: np.ndarray) -> str:
    """A picture as text: PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
