"""Stored records as things to be asked and marked: the prompt as it was trained, and what would have been right."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from typing import Any

from setok.config import SequenceConfig
from setok.data.chat import Message, Slot, message_of
from setok.data.prompts import request
from setok.data.schema import IMAGE_SLOT, MASK_SLOT, Record, Turn
from setok.errors import DataError

MODES = {"vqa": "text", "caption": "text", "segment": "mask", "generate": "picture", "edit": "picture"}
"""What can be asked, and how the model goes on (``GenerationOptions.mode``)."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One thing to ask."""

    task: str
    messages: tuple[Message, ...]
    """Up to where the assistant is to speak."""
    images: tuple[int, ...]
    """Which of the record's pictures stand in the slots of ``messages``."""
    text: str
    """What is asked, in the record's own words."""
    target: int | None = None
    """Which of the record's pictures is to be drawn."""
    mask: int | None = None
    """Which of the record's masks is to be found."""


def apart(record: Record) -> list[Record]:
    """Of a conversation that an ingest made of several questions or phrases, every one as the record that it was before.

    So it does not matter whether a set was ingested with ``turns: each`` or ``turns: all``. Other records stay as they are.
    """
    facts = record.provenance
    if record.task == "vqa" and "questions" in facts:
        shared = {name: value for name, value in facts.items() if name != "questions"}
        return [_question_of(record, row, shared) for row in json.loads(facts["questions"])]
    if record.task == "segment" and "phrases" in facts:
        shared = {name: value for name, value in facts.items() if name != "phrases"}
        rows = json.loads(facts["phrases"])
        return [_phrase_of(record, number, shared | row) for number, row in enumerate(rows)]
    return [record]


def _question_of(record: Record, row: dict[str, Any], facts: dict[str, str]) -> Record:
    own = {name: value for name, value in row.items() if name not in ("question", "answers", "choices")}
    slots = IMAGE_SLOT + "\n" if record.images else ""
    return replace(
        record,
        id=f"{record.id}#{row['question_id']}",
        conversation=[Turn(role="user", text=slots + row["question"])],
        answers=list(row["answers"]),
        choices=list(row.get("choices", ())),
        provenance=facts | own,
    )


def _phrase_of(record: Record, number: int, facts: dict[str, str]) -> Record:
    asked = [turn.text for turn in record.conversation if turn.role == "user"][number].replace(IMAGE_SLOT, "").strip()
    return replace(
        record,
        id=f"{record.id}#{facts.get('sent_id', number)}",
        conversation=[
            Turn(role="user", text=f"{IMAGE_SLOT}\n{asked}"),
            Turn(role="assistant", text=MASK_SLOT),
        ],
        masks=record.masks[number : number + 1],
        boxes=record.boxes[number : number + 1],
        provenance=facts,
    )


def tasks_of(record: Record) -> tuple[str, ...]:
    """What a record can be asked: a captioned picture can be described, and drawn from its caption."""
    if record.task == "caption":
        return ("caption", "generate")
    return (record.task,) if record.task in MODES else ()


def questions_of(record: Record, task: str, config: SequenceConfig) -> list[Question]:
    """The question of a record; of a conversation the last one, with what came before it.

    Of a conversation of masks every phrase is a question of its own, asked as if it were the first.

    Raises:
        DataError: the record lacks what its task needs.
    """
    if task == "segment" and record.conversation:
        return _phrases(record)
    asked = request(record, config, draw=task == "generate")
    last = asked.messages[-1]
    if record.conversation and task != "generate":  # without the words on how to answer
        last = [message_of(turn) for turn in record.conversation if turn.role == "user"][-1]
    texts = [part for part in last.parts if isinstance(part, str)]
    return [
        Question(
            task=task,
            messages=asked.messages,
            images=asked.images,
            text=" ".join("".join(texts).split()),
            target=_target(record, asked.images, task),
            mask=0 if task == "segment" else None,
        )
    ]


def _phrases(record: Record) -> list[Question]:
    record.check()
    messages = [message_of(turn) for turn in record.conversation]
    given = next((part for message in messages for part in message.parts if part is Slot.IMAGE), None)
    if given is None:
        raise DataError("nothing to point at: a conversation of masks without a picture", "correct the record")
    questions, seen = [], 0
    for before, message in itertools.pairwise(messages):
        if message.role != "assistant" or Slot.MASK not in message.parts:
            continue
        text = "".join(part for part in before.parts if isinstance(part, str)).strip()
        alone = Message(role="user", parts=(Slot.IMAGE, f"\n{text}"))
        questions.append(Question(task="segment", messages=(alone,), images=(0,), text=text, mask=seen))
        seen += message.parts.count(Slot.MASK)
    return questions


def _target(record: Record, shown: tuple[int, ...], task: str) -> int | None:
    """The picture that is to be drawn: the caption's own, or the first target that was not shown."""
    if task not in ("generate", "edit"):
        return None
    targets = [number for number, image in enumerate(record.images) if image.role == "target" and number not in shown]
    return targets[0] if targets else 0


def samples_of(record: Record, asks: str, config: SequenceConfig) -> list[tuple[Record, Question]]:
    """Everything that a record asks, each with the part of the record that it is about.

    Args:
        asks: one of ``MODES``, or ``direct``: a question without its choices, whose answers are those behind the right choice.
        config: how questions are put.

    Raises:
        DataError: the record lacks what its task needs.
    """
    parts = apart(record)
    if asks == "direct":
        parts = [replace(part, choices=[], answers=part.answers[1:]) for part in parts if part.choices]
    task = "vqa" if asks == "direct" else asks
    return [(part, question) for part in parts for question in questions_of(part, task, config)]


def right_answers(record: Record) -> list[str]:
    """What may be answered to a question: the references, or else what the conversation says; empty where nobody knows."""
    if record.answers:
        return record.answers
    last = record.conversation[-1] if record.conversation else None
    return [last.text.strip()] if last is not None and last.role == "assistant" else []
