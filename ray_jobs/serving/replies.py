"""From what the model gives to what OpenAI's clients expect: whole answers, chunks of a stream, usage."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from setok.predictor import Ended, MaskPart, PicturePart, TextPart
from setok.predictor.replies import Part
from setok.serving.engine import Event
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


@dataclass
class Writer:
    """Writes one reply down, as a whole or chunk by chunk."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, parts: Sequence[Part], ended: Ended) -> ChatCompletion:
        """A complete answer."""
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

    async def chunks(self, events: AsyncIterator[Event], *, include_usage: bool) -> AsyncIterator[str]:
        """An answer as server-sent events."""
        yield self._line(Delta(role="assistant", content=""))
        async for event in events:
            if isinstance(event, TextPart):
                yield self._line(Delta(content=event.text))
            elif isinstance(event, PicturePart):
                yield self._line(Delta(images=[_image(event)]))
            elif isinstance(event, MaskPart):
                yield self._line(Delta(masks=[_mask(event)]))
            elif isinstance(event, Ended):
                yield self._line(Delta(), reason=event)
                if include_usage:
                    yield self._format(self._chunk([], usage_of(event)))
        yield DONE

    def _line(self, delta: Delta, *, reason: Ended | None = None) -> str:
        choice = ChunkChoice(delta=delta, finish_reason=None if reason is None else reason.reason)
        return self._format(self._chunk([choice], None))

    def _chunk(self, choices: list[ChunkChoice], usage: ChatUsage | None) -> ChatChunk:
        return ChatChunk(id=self.id, created=self.created, model=self.model, choices=choices, usage=usage)

    @staticmethod
    def _format(chunk: ChatChunk) -> str:
        return f"data: {chunk.model_dump_json(exclude_none=True)}\n\n"
