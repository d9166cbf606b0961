"""From what the model gives to what OpenAI's clients expect: whole answers, chunks of a stream, usage."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ray_jobs.serving.gate import unique_id
from setok.predictor import Ended, MaskPart, PicturePart, TextPart
from setok.predictor.replies import Part
from setok.serving.edit_mask import EditMask
from setok.serving.images import png
from setok.serving.schemas import (
    AnswerImage,
    AnswerMask,
    AnswerMessage,
    ChatChunk,
    ChatCompletion,
    ChatUsage,
    Choice,
    ChunkChoice,
    Delta,
    ImageUrl,
    ImageUsage,
    TokenDetails,
)

DONE = "data: [DONE]\n\n"


def usage_of(ends: Sequence[Ended]) -> ChatUsage:
    """Tokens of all replies to one request, visual ones included and told apart; of the prompt, which is the same, once."""
    prompt = ends[0]
    drawn = sum(end.visual_tokens for end in ends)
    completion = sum(end.text_tokens for end in ends) + drawn
    return ChatUsage(
        prompt_tokens=prompt.prompt_tokens,
        completion_tokens=completion,
        total_tokens=prompt.prompt_tokens + completion,
        prompt_tokens_details=TokenDetails(image_tokens=prompt.prompt_visual_tokens),
        completion_tokens_details=TokenDetails(image_tokens=drawn),
    )


def image_usage_of(ends: Sequence[Ended]) -> ImageUsage:
    """The same of pictures."""
    usage = usage_of(ends)
    visual = usage.prompt_tokens_details.image_tokens
    return ImageUsage(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        input_tokens_details={"text_tokens": usage.prompt_tokens - visual, "image_tokens": visual},
    )


def picture_png(part: PicturePart, stays: EditMask | None = None) -> str:
    """A picture that was drawn, as PNG in base64.

    Args:
        stays: what is put back of the picture that was edited.
    """
    pixels = part.pixels.numpy() if stays is None else stays.applied(part.pixels.numpy())
    return png(pixels.transpose(1, 2, 0))


def _image(part: PicturePart) -> AnswerImage:
    url = f"data:image/png;base64,{picture_png(part)}"
    return AnswerImage(image_url=ImageUrl(url=url), num_tokens=part.num_tokens)


def _mask(part: MaskPart) -> AnswerMask:
    return AnswerMask(mask_url=f"data:image/png;base64,{png(part.mask.numpy())}", score=round(float(part.score), 4))


def failure_line(body: dict[str, object]) -> str:
    """A problem in the midst of a stream."""
    return _event(json.dumps(body))


@dataclass
class _Told:
    """How far a stream has told one choice."""

    begun: bool = False
    said: bool = False
    """Something that is no white space."""
    held: str = ""
    """White space that waits for the text that follows it."""

    def within(self, text: str) -> str:
        """What is known to stand between the first and the last of an answer's text that is no white space."""
        text = self.held + text if self.said else text.lstrip()
        told = text.rstrip()
        self.held = text[len(told) :]
        self.said = self.said or bool(told)
        return told


class Writer:
    """Writes the replies to one request down, as a whole or event by event.

    Args:
        model: what clients call it.
        num_choices: replies of a stream.
        include_usage: a stream ends with the usage.
    """

    def __init__(self, model: str, *, num_choices: int = 1, include_usage: bool = False) -> None:
        self.model, self.include_usage = model, include_usage
        self.id, self.created = f"chatcmpl-{unique_id()}", int(time.time())
        self._told = [_Told() for _ in range(num_choices)]
        self._ends: list[Ended] = []

    def whole(self, replies: Sequence[tuple[Sequence[Part], Ended]]) -> ChatCompletion:
        """A complete answer, without the white space around its texts."""
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[
                Choice(index=index, message=_message(parts), finish_reason=ended.reason)
                for index, (parts, ended) in enumerate(replies)
            ],
            usage=usage_of([ended for _, ended in replies]),
        )

    def lines(self, event: Part | Ended, index: int = 0) -> str:
        """What a stream says of an event of a choice: one line or, when all have ended, all that are left. The first one of every
        choice also names the role.

        White space waits for the text that follows it, so that a stream says what ``whole`` does; "" where nothing is left.
        """
        if isinstance(event, Ended):
            lines = self._line(index, Delta(), reason=event.reason)
            self._ends.append(event)
            if len(self._ends) < len(self._told):
                return lines
            if self.include_usage:
                lines += _event(self._chunk([], usage_of(self._ends)))
            return lines + DONE
        if isinstance(event, TextPart):
            text = self._told[index].within(event.text)
            return self._line(index, Delta(content=text)) if text else ""
        if isinstance(event, PicturePart):
            return self._line(index, Delta(images=[_image(event)]))
        return self._line(index, Delta(masks=[_mask(event)]))

    def _line(self, index: int, delta: Delta, *, reason: Literal["stop", "length"] | None = None) -> str:
        if not self._told[index].begun:
            self._told[index].begun = True
            delta.role = "assistant"
            if delta.content is None:
                delta.content = ""
        return _event(self._chunk([ChunkChoice(index=index, delta=delta, finish_reason=reason)], None))

    def _chunk(self, choices: list[ChunkChoice], usage: ChatUsage | None) -> str:
        chunk = ChatChunk(id=self.id, created=self.created, model=self.model, choices=choices, usage=usage)
        return chunk.model_dump_json(exclude_none=True)


def _message(parts: Sequence[Part]) -> AnswerMessage:
    text = "".join(part.text for part in parts if isinstance(part, TextPart)).strip()
    images = [_image(part) for part in parts if isinstance(part, PicturePart)]
    masks = [_mask(part) for part in parts if isinstance(part, MaskPart)]
    content = text if text or not (images or masks) else None
    return AnswerMessage(content=content, images=images or None, masks=masks or None)


def _event(data: str) -> str:
    return f"data: {data}\n\n"
