"""What the routes do: understand a request, ask the model, write the answer down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np

from ray_jobs.serving.backend import Backend
from ray_jobs.serving.decoding import Decoder
from ray_jobs.serving.errors import Problem, ProblemError, no_such_model
from ray_jobs.serving.figures import Figures
from ray_jobs.serving.replies import Writer, image_usage_of, picture_png
from ray_jobs.serving.together import together
from setok.config import ServeConfig
from setok.data.schema import Turn
from setok.errors import DataError
from setok.models.generation import GenerationOptions
from setok.predictor import Ask, Ended, MaskPart, PicturePart
from setok.predictor.asking import drawing, editing, pointing
from setok.predictor.replies import Part
from setok.serving.edit_mask import EditMask, read_edit_mask
from setok.serving.fetching import fetch
from setok.serving.images import ImageReader, Shown, png
from setok.serving.model import Card, Look, Seen
from setok.serving.schemas import (
    ChatCompletion,
    ChatRequest,
    ImageDatum,
    ImageRequest,
    ImagesAnswer,
    LookRequest,
    ModelAnswer,
    ReconstructAnswer,
    SegmentAnswer,
    SegmentRequest,
    SetokDetails,
    TokenizeRequest,
    TokensAnswer,
)
from setok.serving.translation import (
    FieldError,
    clustering_of,
    conversation_of,
    number_of,
    options_of,
    seeds_of,
    stops_of,
)


class Service:
    """Answers requests with a model.

    Args:
        backend: where the model is.
    """

    def __init__(self, backend: Backend, config: ServeConfig, figures: Figures) -> None:
        self.backend, self.config, self.figures = backend, config, figures
        self._card: Card | None = None
        batching = config.batching
        self._decoder = Decoder(
            max_waiting=max(1, config.replicas.max) * (batching.max_rows + batching.max_waiting)
        )  # who gets through here finds room at the model, too

    async def card(self) -> Card:
        """The model; waits until it is ready."""
        if self._card is None:
            self._card = await self.backend.card()
        return self._card

    async def model(self) -> ModelAnswer:
        """The model as clients are told of it."""
        card = await self.card()
        name, value, bounds = card.threshold or (None, None, None)
        return ModelAnswer(
            id=card.name,
            created=card.created,
            setok=SetokDetails(
                image_size=card.image_size,
                method=card.clustering.method,
                min_tokens=card.clustering.min_tokens,
                max_tokens=card.clustering.num_tokens,
                threshold=name,
                threshold_value=value,
                threshold_range=bounds,
                talks=card.talks,
                points=card.points,
            ),
        )

    # ------------------------------------------------------------ chat

    async def asks_of(self, request: ChatRequest) -> list[Ask]:
        """What a conversation asks of the model, once for every reply that it is to have."""
        card = await self._card_of(request.model, talks=True)
        options = options_of(request, self.config.limits)
        number = number_of(request.n, self.config.max_choices)
        turns, urls = conversation_of(request.messages)
        shown = await self._pictures(urls, card)
        ask = Ask(
            conversation=turns,
            pictures=[one.pixels for one in shown],
            size=shown[0].size if shown else None,
            options=options,
            stop=stops_of(request),
        )
        return [replace(ask, seed=seed) for seed in seeds_of(request.seed, number)]

    async def chat(self, request: ChatRequest) -> ChatCompletion:
        """A whole answer."""
        replies = await self._replies(await self.asks_of(request))
        return Writer((await self.card()).name).whole(replies)

    async def chat_stream(self, request: ChatRequest) -> AsyncIterator[str]:
        """An answer as it comes, as server-sent events."""
        asks = await self.asks_of(request)
        usage = request.stream_options is not None and request.stream_options.include_usage
        writer = Writer((await self.card()).name, num_choices=len(asks), include_usage=usage)
        async with aclosing(together([self._events(ask) for ask in asks])) as events:
            async for index, event in events:
                lines = writer.lines(event, index)
                if lines:
                    yield lines

    # ------------------------------------------------------------ pictures

    async def generate(self, request: ImageRequest) -> ImagesAnswer:
        """Pictures from words."""
        card = await self._card_of(request.model, talks=True)
        return await self._draw(request, card, drawing(request.prompt, varied=card.varied), [])

    async def edit(self, request: ImageRequest, files: Sequence[bytes], mask: bytes | None = None) -> ImagesAnswer:
        """A picture changed, or made from several.

        Args:
            mask: what of the first one may change.
        """
        card = await self._card_of(request.model, talks=True)
        reader = ImageReader(self.config.limits, size=card.image_size)
        self._check_number(len(files))
        with self._decoder.place():
            shown = [await self._decoder.run(reader.from_bytes, data) for data in files]
            stays = (
                None
                if mask is None
                else await self._decoder.run(read_edit_mask, mask, reader, shown[0], card.patch_side)
            )
        return await self._draw(request, card, editing(request.prompt, num_pictures=len(shown)), shown, stays)

    async def _draw(
        self, request: ImageRequest, card: Card, talk: list[Turn], shown: Sequence[Shown], stays: EditMask | None = None
    ) -> ImagesAnswer:
        side = card.image_size
        if request.stream:
            raise FieldError("stream", "stream is not supported for pictures", "leave it out")
        if request.size not in (None, "auto", f"{side}x{side}"):
            raise FieldError("size", f"size={request.size[:20]!r} is not possible", f"use 'auto' or '{side}x{side}'")
        seeds = seeds_of(request.seed, number_of(request.n, self.config.max_choices))
        options = GenerationOptions(mode="picture", guidance=1.0 if request.guidance is None else request.guidance)
        ask = Ask(conversation=talk, pictures=[one.pixels for one in shown], options=options)
        replies = await self._replies([replace(ask, seed=seed) for seed in seeds])
        data = [
            ImageDatum(b64_json=await asyncio.to_thread(picture_png, part, stays), seed=seed)
            for seed, (parts, _) in zip(seeds, replies, strict=True)
            for part in parts
            if isinstance(part, PicturePart)
        ]
        usage = image_usage_of([ended for _, ended in replies])
        return ImagesAnswer(created=int(time.time()), data=data, usage=usage)

    # ------------------------------------------------------------ our own

    async def tokenize(self, request: TokenizeRequest) -> TokensAnswer:
        """A picture's tokens."""
        card, seen = await self._look(request, paint=False)
        return TokensAnswer(**_tokens(card, seen, vectors=request.vectors))

    async def reconstruct(self, request: LookRequest) -> ReconstructAnswer:
        """What a picture's tokens hold of it."""
        card, seen = await self._look(request, paint=True)
        assert seen.painted is not None
        painted = await asyncio.to_thread(png, np.ascontiguousarray(seen.painted.transpose(1, 2, 0)))
        return ReconstructAnswer(**_tokens(card, seen, vectors=False), b64_json=painted)

    async def _look(self, request: LookRequest, *, paint: bool) -> tuple[Card, Seen]:
        card = await self._card_of(request.model)
        clustering = clustering_of(request, card)
        (shown,) = await self._pictures([request.image], card)
        look = Look(pixels=shown.pixels, clustering=clustering, paint=paint)
        events = [event async for event in self.backend.run(look)]
        assert isinstance(events[0], Seen)
        self.figures.tokens.labels("visual_read").inc(len(events[0].tokens))
        return card, events[0]

    async def segment(self, request: SegmentRequest) -> SegmentAnswer:
        """The region that an expression means."""
        card = await self._card_of(request.model, talks=True)
        (shown,) = await self._pictures([request.image], card)
        ask = Ask(
            conversation=pointing(request.expression),
            pictures=[shown.pixels],
            size=shown.size,
            options=GenerationOptions(mode="mask"),
        )
        ((parts, _),) = await self._replies([ask])
        found = next(part for part in parts if isinstance(part, MaskPart))
        mask = found.mask.numpy()
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1) if len(rows) else None
        return SegmentAnswer(
            model=card.name,
            b64_json=await asyncio.to_thread(png, mask),
            height=mask.shape[0],
            width=mask.shape[1],
            area=int(mask.sum()),
            box=box,
            score=round(float(found.score), 4),
        )

    # ------------------------------------------------------------ how it is done

    async def _card_of(self, asked: str | None, *, talks: bool = False) -> Card:
        card = await self.card()
        if asked is not None and asked != card.name:
            raise ProblemError(no_such_model(asked, card.name))
        if talks and not card.talks:
            raise ProblemError(
                Problem(
                    status=400,
                    kind="invalid_request_error",
                    message=f"{card.name} is a tokenizer alone, without a language model: use /v1/tokenize or /v1/reconstruct",
                )
            )
        return card

    def _check_number(self, number: int) -> None:
        if number > self.config.limits.max_images:
            raise DataError(f"{number} pictures are above {self.config.limits.max_images}", "send fewer")

    async def _pictures(self, urls: Sequence[str], card: Card) -> list[Shown]:
        self._check_number(len(urls))
        reader = ImageReader(self.config.limits, size=card.image_size)
        small = [reader.small_from_data_url(url) for url in urls]
        if all(one is not None for one in small):
            return [one for one in small if one is not None]
        with self._decoder.place():
            return [one or await self._picture(url, reader) for one, url in zip(small, urls, strict=True)]

    async def _picture(self, url: str, reader: ImageReader) -> Shown:
        hosts = self.config.access.image_hosts
        if hosts and url[:8].lower().startswith(("http://", "https://")):
            data = await asyncio.to_thread(fetch, url, hosts, max_bytes=self.config.limits.max_image_bytes)
            return await self._decoder.run(reader.from_bytes, data)
        return await self._decoder.run(reader.from_data_url, url)

    async def _replies(self, asks: Sequence[Ask]) -> list[tuple[list[Part], Ended]]:
        """All replies, complete."""
        parts: list[list[Part]] = [[] for _ in asks]
        ends: dict[int, Ended] = {}
        async with aclosing(together([self._events(ask) for ask in asks])) as events:
            async for index, event in events:
                if isinstance(event, Ended):
                    ends[index] = event
                else:
                    parts[index].append(event)
        return [(own, ends[index]) for index, own in enumerate(parts)]

    async def _events(self, ask: Ask) -> AsyncGenerator[Part | Ended, None]:
        """A reply as it comes, counted."""
        started = time.perf_counter()
        waiting = True
        async with aclosing(self.backend.run(ask)) as events:  # type: ignore[type-var]
            async for event in events:
                if waiting:
                    waiting = False
                    self.figures.first_token.observe(time.perf_counter() - started)
                if isinstance(event, Ended):
                    self._count(event)
                yield event  # type: ignore[misc]

    def _count(self, ended: Ended) -> None:
        counted = {
            "text_read": ended.prompt_tokens - ended.prompt_visual_tokens,
            "visual_read": ended.prompt_visual_tokens,
            "text_made": ended.text_tokens,
            "visual_made": ended.visual_tokens,
        }
        for kind, number in counted.items():
            self.figures.tokens.labels(kind).inc(number)


def _tokens(card: Card, seen: Seen, *, vectors: bool) -> dict[str, Any]:
    rows, columns = seen.grid
    return {
        "model": card.name,
        "count": len(seen.tokens),
        "grid": seen.grid,
        "assignment": seen.assignment.reshape(rows, columns).tolist(),
        "sizes": np.bincount(seen.assignment, minlength=len(seen.tokens)).tolist(),
        "tokens": seen.tokens.tolist() if vectors else None,
        "image_size": card.image_size,
    }
