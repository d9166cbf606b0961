"""Stored records as things to be asked and marked: the prompt as it was trained, and what would have been right."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from setok.config import SequenceConfig
from setok.data.chat import Message, Slot, message_of
from setok.data.prompts import request
from setok.data.schema import Record
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
