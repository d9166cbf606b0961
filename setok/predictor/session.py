"""Conversations that come and go while others go on, each by its own options: what streaming and serving are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from setok.data.processor import Picture, to_pixels
from setok.models.generation import (
    Continuation,
    Event,
    Finished,
    GenerationOptions,
    ImageEnd,
    ImageToken,
    Joined,
    MaskFound,
    TextToken,
)
from setok.predictor.inference import Inference
from setok.predictor.inputs import check_seeds, check_turns
from setok.predictor.prompting import Conversation
from setok.predictor.replies import Part, TextPart
from setok.predictor.text_flow import TextFlow


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A conversation that the assistant is to go on with."""

    conversation: Conversation
    pictures: Sequence[Picture] = ()
    """In the order of the conversation's slots."""
    size: tuple[int, int] | None = None
    """Height and width that a region of the first picture is to have; ``None``: the picture's own."""
    options: GenerationOptions | None = None
    """As of ``Predictor.chat``; ``use_cache`` is the session's own."""
    seed: int = 0
    stop: tuple[str, ...] = ()
    """Texts that end the reply, and are not part of it."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A reply is complete."""

    reason: Literal["stop", "length"]
    prompt_tokens: int
    """Places of the prompt, visual tokens included."""
    prompt_visual_tokens: int
    text_tokens: int
    """What was said, special tokens not included."""
    visual_tokens: int
    """What was drawn."""


@dataclass
class _Reply:
    joined: Joined
    size: tuple[int, int] | None
    text: TextFlow
    text_tokens: int = 0
    visual_tokens: int = 0
    stopped: bool = False

    def ended(self, reason: Literal["stop", "length"]) -> Ended:
        return Ended(
            reason=reason,
            prompt_tokens=self.joined.num_places,
            prompt_visual_tokens=self.joined.num_visual,
            text_tokens=self.text_tokens,
            visual_tokens=self.visual_tokens,
        )


class Session:
    """Replies under way.

    Args:
        use_cache: without, every step reads everything again.
    """

    def __init__(self, inference: Inference, *, use_cache: bool = True) -> None:
        self._inference = inference
        self._continuation = Continuation(inference.model, use_cache=use_cache)
        self._replies: dict[int, _Reply] = {}

    def __len__(self) -> int:
        """Replies that are not complete."""
        return len(self._continuation)

    @property
    def num_places(self) -> int:
        """Places that every reply takes in the cache: those of the longest."""
        return self._continuation.num_places

    @property
    def can_be_joined(self) -> bool:
        """Whether more may come now; see ``Continuation.can_be_joined``."""
        return self._continuation.can_be_joined

    def join(self, asks: Sequence[Ask]) -> list[int]:
        """Begin replies; gives what ``step`` calls them. Where it raises, none has begun.

        Raises:
            DataError: slots and pictures differ in number, a conversation is too long, or what is given is none.
            ConfigError: an option does not fit the model.
        """
        check_seeds([ask.seed for ask in asks])
        for ask in asks:
            check_turns(ask.conversation)
        pixels = [[to_pixels(one) for one in ask.pictures] for ask in asks]
        options = [self._inference.stopping(ask.options) for ask in asks]
        batch, unguided = self._inference.prompts(
            [ask.conversation for ask in asks], pixels, guided=any(own.guidance != 1.0 for own in options)
        )
        with self._inference.autocast():
            joined = self._continuation.join(batch, options, seeds=[ask.seed for ask in asks], unguided=unguided)
        for ask, own, one in zip(asks, pixels, joined, strict=True):
            size = ask.size or (own[0].shape[:2] if own else None)
            self._replies[one.row] = _Reply(one, size, TextFlow(self._inference.decode, stop=ask.stop))
        return [one.row for one in joined]

    def step(self) -> list[tuple[int, Part | Ended]]:
        """One place further in every reply: what is new, by reply."""
        with self._inference.autocast():
            events = list(self._continuation.step())
        told: list[tuple[int, Part | Ended]] = []
        for event in events:
            reply = self._replies[event.row]
            if not reply.stopped:
                told += [(event.row, part) for part in self._tell(reply, event)]
            if isinstance(event, Finished):
                del self._replies[event.row]
        stopped = [row for row, reply in self._replies.items() if reply.stopped]
        if stopped:
            self.leave(stopped)
        return told

    def leave(self, replies: Sequence[int]) -> None:
        """Give up replies; those that are complete already do not matter."""
        self._continuation.leave(replies)
        for reply in replies:
            self._replies.pop(reply, None)

    def _tell(self, reply: _Reply, event: Event) -> list[Part | Ended]:
        told: list[Part | Ended] = []
        text = ""
        if isinstance(event, TextToken):
            reply.text_tokens += 1
            text = reply.text.add(event.token)
        elif isinstance(event, ImageToken):
            reply.visual_tokens += 1
        else:
            text = reply.text.flush()
        if text:
            told.append(TextPart(text=text))
        if reply.text.stopped:
            reply.stopped = True
            told.append(reply.ended("stop"))
        elif isinstance(event, Finished):
            told.append(reply.ended(event.reason))
        elif isinstance(event, (ImageEnd, MaskFound)):
            told.append(self._inference.part_of(event, reply.size))
        return told
