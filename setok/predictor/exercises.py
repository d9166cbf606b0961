"""Stored records as things to be asked and marked: the prompt as it was trained, and what would have been right."""

from __future__ import annotations

from dataclasses import dataclass

from setok.config import SequenceConfig
from setok.data.chat import Message, Slot
from setok.data.prompts import exercises, own_conversation
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
    """What is asked, in words."""
    target: int | None = None
    """Which of the record's pictures is to be drawn."""
    mask: int | None = None
    """Which of the record's masks is to be found."""


def tasks_of(record: Record) -> tuple[str, ...]:
    """What a record can be asked: a captioned picture can be described, and drawn from its caption."""
    if record.task == "caption":
        return ("caption", "generate")
    return (record.task,) if record.task in MODES else ()


def question_of(record: Record, task: str, config: SequenceConfig) -> Question:
    """The question of a record; of a conversation the last one, with what came before it.

    Raises:
        DataError: the record lacks what its task needs.
    """
    if record.conversation:
        talk = own_conversation(record, config)
        last = max(number for number, message in enumerate(talk.messages) if message.role == "assistant")
        messages, answer, images = talk.messages[:last], talk.messages[last], talk.images
    else:
        describe, generate = exercises(record, config)
        chosen = generate if task in ("generate", "edit") else describe
        if chosen is None:
            raise DataError(f"{record.id} cannot be asked for {task!r}", "leave it out of this evaluation")
        talk = chosen.conversation(0, 0)
        messages, answer, images = talk.messages[:-1], talk.messages[-1], talk.images
    slots = sum(part is Slot.IMAGE for message in messages for part in message.parts)
    draws = Slot.IMAGE in answer.parts
    masks = sum(part is Slot.MASK for message in messages for part in message.parts)
    asked = [part for part in messages[-1].parts if isinstance(part, str)]
    return Question(
        task=task,
        messages=messages,
        images=images[:slots],
        text=" ".join("".join(asked).split()),
        target=images[slots] if draws else None,
        mask=masks if Slot.MASK in answer.parts else None,
    )
