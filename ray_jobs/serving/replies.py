"""From what the model gives to what OpenAI's clients expect: whole answers, chunks of a stream, usage."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Literal

from ray_jobs.serving.gate import unique_id
from setok.predictor import Ended, MaskPart, PicturePart, TextPart
from setok.predictor.replies import Part
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
    TokenDetails,
)

DONE = "data: [DONE]\n\n"


def usage_of(ended: Ended) -> ChatUsage:
    """Tokens of a reply, visual ones included and told apart."""
    completion = ended.text_tokens + ended.visual_tokens
    return ChatUsage(
        prompt_tokens=ended.prompt_tokens,
        completion_tokens=completion,
        total_tokens=ended.prompt_tokens + completion,
        prompt_tokens_details=TokenDetails(image_tokens=ended.prompt_visual_tokens),
        completion_tokens_details=TokenDetails(image_tokens=ended.visual_tokens),
    )


def picture_png(part: PicturePart) -> str:
    """A picture that was drawn, as PNG in base64."""
    return png(part.pixels.permute(1, 2, 0).numpy())


def _image(part: PicturePart) -> AnswerImage:
    url = f"data:image/png;base64,{picture_png(part)}"
    return AnswerImage(image_url=ImageUrl(url=url), num_tokens=part.num_tokens)


def _mask(part: MaskPart) -> AnswerMask:
    return AnswerMask(mask_url=f"data:image/png;base64,{png(part.mask.numpy())}", score=round(float(part.score), 4))


def failure_line(body: dict[str, object]) -> str:
    """A problem in the midst of a stream."""
    return _event(json.dumps(body))


class Writer:
    """Writes one reply down, as a whole or event by event.

    Args:
        model: what clients call it.
        include_usage: a stream ends with the usage.
    """

    def __init__(self, model: str, *, include_usage: bool = False) -> None:
        self.model, self.include_usage = model, include_usage
        self.id, self.created = f"chatcmpl-{unique_id()}", int(time.time())
        self._begun, self._said, self._held = False, False, ""

    def whole(self, parts: Sequence[Part], ended: Ended) -> ChatCompletion:
        """A complete answer, without the white space around its text."""
        text = "".join(part.text for part in parts if isinstance(part, TextPart)).strip()
        images = [_image(part) for part in parts if isinstance(part, PicturePart)]
        masks = [_mask(part) for part in parts if isinstance(part, MaskPart)]
        message = AnswerMessage(content=text or None, images=images or None, masks=masks or None)
        if not (images or masks):
            message.content = text
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[Choice(message=message, finish_reason=ended.reason)],
            usage=usage_of(ended),
        )

    def lines(self, event: Part | Ended) -> str:
        """What a stream says of an event: one line or, at the end, all that are left. The first one also names the role.

        White space waits for the text that follows it, so that a stream says what ``whole`` does; "" where nothing is left.
        """
        if isinstance(event, Ended):
            lines = self._line(Delta(), reason=event.reason)
            if self.include_usage:
                lines += _event(self._chunk([], usage_of(event)))
            return lines + DONE
        if isinstance(event, TextPart):
            text = self._within(event.text)
            return self._line(Delta(content=text)) if text else ""
        if isinstance(event, PicturePart):
            return self._line(Delta(images=[_image(event)]))
        return self._line(Delta(masks=[_mask(event)]))

    def _within(self, text: str) -> str:
        """What is known to stand between the first and the last of an answer's text that is no white space."""
        text = self._held + text if self._said else text.lstrip()
        told = text.rstrip()
        self._held = text[len(told) :]
        self._said = self._said or bool(told)
        return told

    def _line(self, delta: Delta, *, reason: Literal["stop", "length"] | None = None) -> str:
        if not self._begun:
            self._begun = True
            delta.role = "assistant"
            if delta.content is None:
                delta.content = ""
        return _event(self._chunk([ChunkChoice(delta=delta, finish_reason=reason)], None))

    def _chunk(self, choices: list[ChunkChoice], usage: ChatUsage | None) -> str:
        chunk = ChatChunk(id=self.id, created=self.created, model=self.model, choices=choices, usage=usage)
        return chunk.model_dump_json(exclude_none=True)


def _event(data: str) -> str:
    return f"data: {data}\n\n"
