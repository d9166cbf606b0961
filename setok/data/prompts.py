"""From a record to a conversation: which exercise it gives in an epoch, and in which words.

A record with a conversation keeps it; that of a ``caption`` record may give way to drawing the picture from the caption.
``vqa`` records may have bare questions: how to answer is said behind them, and an answer that is missing is taken from
``answers`` and ``choices``. For a record without conversation:

| task | exercise |
|---|---|
| ``caption`` | describe the picture, or draw it from its caption; of several captions (``answers``) one is taken |
| ``classify`` | name the picture's class (the first concept), or draw one of the class |
| ``image`` | draw something, without being told what |
| ``generate`` | draw the target image from the caption |
| ``edit`` | make the target image from the input images by the instruction, which is the caption |
| ``segment`` | mark what the caption, or one of several expressions (``answers``), refers to |

Wording, direction and whether a condition is dropped come from a counter-based generator over (seed, epoch, record), so
they are the same whoever asks, in whatever order.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from setok.config import SequenceConfig
from setok.data import wordings
from setok.data.chat import Message, Slot, message_of
from setok.data.plan import derive_key
from setok.data.schema import IMAGE_SLOT, MASK_SLOT, Record
from setok.errors import DataError

_STREAM = 3
"""Tells this use of a run's seed from those of setok/data/plan.py."""
_DIRECTION, _WORDING, _TEXT, _DROP, _PART = range(5)
_REMEDY = "correct the record, or leave it out of this stage"


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Turns, and which of the record's pictures stand in the image slots, in their order."""

    messages: tuple[Message, ...]
    images: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """A thing that a record can teach: some wordings, of which each takes any of some texts."""

    wordings: tuple[wordings.Wording, ...]
    texts: tuple[str, ...]
    images: tuple[int, ...]

    def conversation(self, wording: int, text: int) -> Conversation:
        asked, said = self.wordings[wording]
        filled = self.texts[text].strip()
        messages = (_message("user", asked, filled), _message("assistant", said, filled))
        return Conversation(messages=messages, images=self.images)


def conversation(record: Record, config: SequenceConfig, *, seed: int, epoch: int) -> Conversation:
    """The conversation that a record gives in an epoch.

    Raises:
        DataError: the record lacks what its task needs, or its slots differ in number from its images or masks.
    """
    draw = RecordDraw(record, seed=seed, epoch=epoch)
    say, generate = lessons(record, config)
    wants_image = say is None or (generate is not None and draw.share(_DIRECTION) < config.generation_share)
    chosen = generate if wants_image else say
    assert chosen is not None  # lessons gives at least one
    if isinstance(chosen, Exercise):
        wording, text = draw.below(_WORDING, len(chosen.wordings)), draw.below(_TEXT, len(chosen.texts))
        chosen = chosen.conversation(wording, text)
    if asks_for_image(chosen.messages) and draw.share(_DROP) < config.drop_condition:
        return replace(chosen, messages=without_condition(chosen.messages))
    return chosen


def lessons(record: Record, config: SequenceConfig) -> tuple[Conversation | Exercise | None, Exercise | None]:
    """What a record teaches: its own conversation, or an exercise in its place; and to draw its picture from its caption.

    One of them is None where the record has only the other, or ``generation_share`` leaves it out.

    Raises:
        DataError: as ``conversation``.
    """
    if not record.conversation:
        return exercises(record, config)
    own = own_conversation(record, config)
    if record.task != "caption" or len(record.images) != 1 or asks_for_image(own.messages):
        return own, None
    _, generate = exercises(record, config)
    return own if generate is None or config.generation_share < 1 else None, generate


def request(record: Record, config: SequenceConfig, *, draw: bool = False) -> Conversation:
    """What a model is asked in an evaluation: everything before the assistant's last turn, in the first wording.

    Args:
        record: its answer may be missing.
        config: how questions are put.
        draw: ask for the picture of a ``caption`` or ``classify`` record, and not for its description.

    Raises:
        DataError: as ``conversation``.
    """
    if record.conversation and not (draw and record.task == "caption"):
        record.check()
        messages = [message_of(turn) for turn in record.conversation]
        while messages and messages[-1].role == "assistant":
            messages.pop()
        if record.task == "vqa":
            messages = _with_manner(record, messages, config)
    else:
        found = exercises(record, config.model_copy(update={"generation_share": float(draw)}))
        exercise = found[0] or found[1]
        assert exercise is not None  # exercises gives at least one
        asked = exercise.conversation(0, 0)
        slots = asked.messages[0].parts.count(Slot.IMAGE)
        return Conversation(messages=asked.messages[:1], images=asked.images[:slots])
    return Conversation(messages=tuple(messages), images=_images_in_order(record, messages))


def asks_for_image(messages: Sequence[Message]) -> bool:
    """Whether the assistant is to draw."""
    return any(Slot.IMAGE in message.parts for message in messages if message.role == "assistant")


def without_condition(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The same request without its words, for classifier-free guidance: pictures that were given stay."""
    return tuple(
        replace(message, parts=tuple(part for part in message.parts if isinstance(part, Slot)))
        if message.role == "user"
        else message
        for message in messages
    )


def exercises(record: Record, config: SequenceConfig) -> tuple[Exercise | None, Exercise | None]:
    """What a record without conversation teaches: to say something about its picture, and to draw it.

    One of them is None where the task has only the other, or ``generation_share`` leaves it out.

    Raises:
        DataError: the record lacks what its task needs.
    """
    varied = config.instructions == "varied"
    inputs = tuple(index for index, image in enumerate(record.images) if image.role == "input")
    targets = tuple(index for index, image in enumerate(record.images) if image.role == "target")
    if record.task in ("caption", "classify"):
        return _both_directions(record, config, inputs[:1] or targets[:1])
    if record.task == "image":
        drawn = inputs[:1] or targets[:1]
        _need(record, images=bool(drawn))
        return None, Exercise(wordings=wordings.UNCONDITIONAL, texts=("",), images=drawn)
    texts = _texts(record)
    if record.task == "generate":
        _need(record, a_text=bool(texts), a_target_image=len(targets) == 1)
        choices = wordings.GENERATE if varied else wordings.GENERATE_BARE
        return None, Exercise(wordings=choices, texts=texts, images=targets)
    if record.task == "edit":
        _need(record, an_instruction=bool(texts), one_input_image=len(inputs) == 1, one_target_image=len(targets) == 1)
        choices = wordings.EDIT if varied else wordings.EDIT_BARE
        return None, Exercise(wordings=choices, texts=texts, images=inputs + targets)
    if record.task == "segment":
        _need(record, an_expression=bool(texts), one_input_image=len(inputs) == 1, one_mask=len(record.masks) == 1)
        choices = wordings.SEGMENT if varied else wordings.SEGMENT_BARE
        return Exercise(wordings=choices, texts=texts, images=inputs), None
    raise DataError(f"no conversation: a record of task {record.task!r} without one", _REMEDY)


def _both_directions(
    record: Record, config: SequenceConfig, images: tuple[int, ...]
) -> tuple[Exercise | None, Exercise | None]:
    """Describing a picture and drawing it from the description."""
    varied = config.instructions == "varied"
    if record.task == "caption":
        texts, describe, generate = _texts(record), wordings.CAPTION, wordings.GENERATE
        _need(record, a_caption=bool(texts), an_image=bool(images))
    else:
        texts, describe, generate = _class_name(record), wordings.CLASSIFY, wordings.GENERATE_CLASS
        _need(record, a_class_name=bool(texts), an_image=bool(images))
    if not varied:
        describe, generate = wordings.CAPTION_BARE, wordings.GENERATE_BARE
    return (
        Exercise(wordings=describe, texts=texts, images=images) if config.generation_share < 1 else None,
        Exercise(wordings=generate, texts=texts, images=images) if config.generation_share > 0 else None,
    )


def _texts(record: Record) -> tuple[str, ...]:
    """The captions, instructions or expressions of a record."""
    found = dict.fromkeys(text.strip() for text in (*record.answers, record.caption))
    return tuple(text for text in found if text)


def _class_name(record: Record) -> tuple[str, ...]:
    names = [name.strip() for name in (*record.concepts[:1], *record.answers[:1], record.caption)]
    return tuple(name for name in names if name)[:1]


def _need(record: Record, **parts: bool) -> None:
    missing = [name.replace("_", " ") for name, there in parts.items() if not there]
    if missing:
        raise DataError(f"nothing to learn from: a record of task {record.task!r} needs {', '.join(missing)}", _REMEDY)


def _message(role: str, wording: str, text: str) -> Message:
    """A turn of a wording; the space before ``{}`` goes with the text, as tokenizers take it."""
    parts: list[str | Slot] = []
    for part in re.split(rf"( ?{{}}|{IMAGE_SLOT}|{MASK_SLOT})", wording):
        if part in (IMAGE_SLOT, MASK_SLOT):
            parts.append(Slot(part))
        elif part.endswith("{}"):
            parts.append(part[:-2] + text)
        elif part:
            parts.append(part)
    return Message(role=role, parts=tuple(parts))


# ---------------------------------------------------------------- records with a conversation


def own_conversation(record: Record, config: SequenceConfig) -> Conversation:
    """A record's own turns; questions of ``vqa`` with how to answer, and an answer where the last turn lacks one.

    Raises:
        DataError: slots differ in number from images or masks, or the assistant says nothing.
    """
    record.check()
    messages = [message_of(turn) for turn in record.conversation]
    if record.task == "vqa":
        messages = _answered(record, messages, config)
    if not any(message.role == "assistant" for message in messages):
        raise DataError("nothing to learn from: a conversation in which the assistant says nothing", _REMEDY)
    return Conversation(messages=tuple(messages), images=_images_in_order(record, messages))


def _answered(record: Record, messages: list[Message], config: SequenceConfig) -> list[Message]:
    """Questions with how to answer them; of a multiple choice the answer is a letter, whatever was answered in words."""
    while record.choices and messages and messages[-1].role == "assistant":
        messages.pop()
    messages = _with_manner(record, messages, config)
    given = [answer for answer in record.answers if answer.strip()]
    if messages and messages[-1].role == "user" and given:
        said = Counter(given).most_common(1)[0][0]
        if record.choices:
            if record.answers[0] not in record.choices:
                raise DataError(f"no right choice: {record.answers[0]!r} is none of {record.choices}", _REMEDY)
            said = wordings.LETTERS[record.choices.index(record.answers[0])]
        messages.append(Message(role="assistant", parts=(said,)))
    return messages


def _with_manner(record: Record, messages: list[Message], config: SequenceConfig) -> list[Message]:
    """Questions with their choices and with how to answer them: in short, or by a letter."""
    if len(record.choices) > len(wordings.LETTERS):
        raise DataError(f"too many choices: {len(record.choices)}, and there are 26 letters", _REMEDY)
    lines = [f"{letter}. {choice}" for letter, choice in zip(wordings.LETTERS, record.choices, strict=False)]
    if config.short_answer:
        lines.append(wordings.LETTER if record.choices else wordings.SHORT_ANSWER)
    asked = [number for number, message in enumerate(messages) if message.role == "user"]
    changed = asked[-1:] if record.choices else asked
    return [_with_lines(message, lines) if number in changed else message for number, message in enumerate(messages)]


def _with_lines(message: Message, lines: list[str]) -> Message:
    """A question with lines below it, but where it already ends in the last one."""
    *before, last = message.parts or ("",)
    text = last.rstrip() if isinstance(last, str) else ""
    if not lines or text.endswith(lines[-1]):
        return message
    kept = before if isinstance(last, str) else [*before, last]
    return replace(message, parts=(*kept, "\n".join([text, *lines])))


def _images_in_order(record: Record, messages: Sequence[Message]) -> tuple[int, ...]:
    """Which picture stands in each slot: the user's have the input images, the assistant's the target images."""
    waiting = {
        role: iter([index for index, image in enumerate(record.images) if image.role == role])
        for role in ("input", "target")
    }
    return tuple(
        next(waiting["target" if message.role == "assistant" else "input"])
        for message in messages
        for part in message.parts
        if part is Slot.IMAGE
    )


class RecordDraw:
    """Random numbers of a record in an epoch, one for every purpose, in no particular order."""

    def __init__(self, record: Record, *, seed: int, epoch: int) -> None:
        name = hashlib.blake2b(f"{record.source}\0{record.id}".encode(), digest_size=8).digest()
        self._seed, self._words = seed, (_STREAM, epoch, int.from_bytes(name, "little"))

    def below(self, purpose: int, count: int) -> int:
        """A whole number from 0 to ``count`` − 1."""
        return int(self._key(purpose) % np.uint64(count))

    def share(self, purpose: int) -> float:
        """A number in [0, 1)."""
        return int(self._key(purpose) >> np.uint64(11)) / 2**53

    def part(self, count: int) -> int:
        """Which of ``count`` parts of a long text is taken."""
        return self.below(_PART, count)

    def _key(self, purpose: int) -> np.uint64:
        return np.uint64(derive_key(self._seed, *self._words, purpose)[0])
