"""What a task of lmms-eval asks, as conversations and options of ours. Without the harness's own types."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from setok.data.chat import Message, Slot, message_of
from setok.data.processor import Picture
from setok.data.schema import IMAGE_SLOT, Turn
from setok.errors import ConfigError, DataError
from setok.models.generation import GenerationOptions

logger = logging.getLogger(__name__)
T = TypeVar("T")

KNOWN_SETTINGS = frozenset("until max_new_tokens max_gen_toks do_sample temperature top_p top_k num_beams".split())
"""Of a task's ``generation_kwargs``; the others are for other models."""
_told: set[str] = set()


# ---------------------------------------------------------------- conversations


def chat_conversation(turns: Iterable[Mapping[str, Any]]) -> tuple[list[Message], list[Picture]]:
    """A conversation in the form of OpenAI's messages, and its pictures in their order.

    Args:
        turns: ``{role, content}`` with a text or a list of ``{type: text, text}`` and ``{type: image, url}``, where
            ``url`` is a PIL picture or a path. Every part stands on a line of its own, as in training.

    Raises:
        DataError: a part is a video or a sound.
    """
    messages, pictures = [], list[Picture]()
    for turn in turns:
        content = turn["content"]
        parts: list[str | Slot] = []
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "image":
                pictures.append(part["url"])
                parts.append(Slot.IMAGE)
            elif part["type"] == "text":
                parts.append(part["text"])
            else:
                raise _no_picture(part["type"])
        messages.append(Message(role=turn["role"], parts=_lines(parts)))
    return messages, pictures


def simple_conversation(context: str, visuals: Sequence[Any] | None) -> tuple[list[Message], list[Picture]]:
    """One question with pictures: in the places of ``<image>`` where the context has as many, else in front of it.

    Raises:
        DataError: a visual is no picture.
    """
    pictures = [_picture(visual) for visual in visuals or ()]
    if pictures and context.count(IMAGE_SLOT) == len(pictures):
        return [message_of(Turn(role="user", text=context))], pictures
    text = context.replace(IMAGE_SLOT, " ").strip()
    return [Message(role="user", parts=_lines([*[Slot.IMAGE] * len(pictures), text]))], pictures


def _picture(visual: Any) -> Picture:
    if isinstance(visual, Mapping):  # a sound, as datasets decode it
        raise _no_picture("audio")
    if isinstance(visual, str) and not visual.lower().endswith((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")):
        raise _no_picture(visual)
    chosen: Picture = visual
    return chosen


def _no_picture(what: str) -> DataError:
    return DataError(f"Setokim reads pictures, and the task shows something else: {what}", "choose tasks on pictures")


def _lines(parts: Sequence[str | Slot]) -> tuple[str | Slot, ...]:
    """Parts with line breaks between them; texts that meet are one, so that they are tokenized together."""
    joined: list[str | Slot] = []
    for part in parts:
        if joined and isinstance(joined[-1], str):
            joined[-1] += "\n"
        elif joined:
            joined.append("\n")
        if joined and isinstance(joined[-1], str) and isinstance(part, str):
            joined[-1] += part
        else:
            joined.append(part)
    return tuple(joined)


# ---------------------------------------------------------------- options


def options_of(settings: Mapping[str, Any], *, max_new_tokens: int) -> GenerationOptions:
    """How a task wants to be answered. Without ``temperature`` the most likely words are taken.

    Args:
        settings: its ``generation_kwargs``.
        max_new_tokens: where the task says nothing.

    Raises:
        ConfigError: it wants several beams.
    """
    beams = settings.get("num_beams") or 1
    if beams != 1:
        raise ConfigError(
            f"num_beams={beams}: Setokim says the most likely words one after the other",
            "--gen_kwargs num_beams=1, with the task's other settings",
        )
    for name in sorted(set(settings) - KNOWN_SETTINGS - _told):
        _told.add(name)
        logger.warning("the task's generation setting %s=%r has no meaning here", name, settings[name])
    sampled = settings.get("do_sample", True) and (settings.get("temperature") or 0) > 0
    return GenerationOptions(
        mode="text",
        max_new_tokens=int(settings.get("max_new_tokens") or settings.get("max_gen_toks") or max_new_tokens),
        temperature=float(settings["temperature"]) if sampled else 0.0,
        top_p=float(settings.get("top_p") or 1.0) if sampled else 1.0,
        top_k=int(settings.get("top_k") or 0) if sampled else 0,
    )


def stops_of(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts that end an answer (``until``)."""
    until = settings.get("until") or ()
    return tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop)


def cut(text: str, stops: Sequence[str]) -> str:
    """An answer up to the first of the texts that end it."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]


# ---------------------------------------------------------------- batches


def batches_by_length(items: Sequence[tuple[T, int]], size: int) -> Iterator[list[int]]:
    """Numbers of the items in batches of one kind each, the longest first, so that little is padded.

    Args:
        items: kind (hashable) and length of every item.
        size: most items in a batch.
    """
    kinds: dict[T, list[int]] = {}
    for number, (kind, _) in enumerate(items):
        kinds.setdefault(kind, []).append(number)
    for numbers in kinds.values():
        numbers.sort(key=lambda number: -items[number][1])
        for start in range(0, len(numbers), size):
            yield numbers[start : start + size]
