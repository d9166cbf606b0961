"""Saying, drawing and pointing in one stream, with a cache of keys and values, over a batch of prompts in lockstep.

At every step each row takes one place: a text token, or a visual token that the denoising network draws from the hidden
state. ``[Img]`` opens a picture; then the logits of ``[/Img]`` and ``[Img]`` say before every further token whether it ends,
within its least and largest number of tokens. ``[Seg]`` becomes a mask of the row's first picture.

A row depends on its prompt and its seed only, not on its batch mates: each has a generator of its own.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from setok.batch import SequenceBatch
from setok.errors import ConfigError, DataError
from setok.models.setokim import EncodedImages, Setokim

Mode = Literal["free", "text", "picture", "mask"]


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How to continue prompts."""

    mode: Mode = "free"
    """``text`` says nothing but text; ``picture`` draws one picture at once, ``mask`` points once, and both stop there."""
    max_new_tokens: int = 64
    """Most text tokens, special ones included; visual tokens are bounded by ``max_image_tokens`` a picture."""
    temperature: float = 0.0
    """Of text; 0 takes the most likely token."""
    top_k: int = 0
    """Choose among so many most likely tokens; 0 for all."""
    top_p: float = 1.0
    """Choose among the most likely tokens that together have this probability."""
    min_image_tokens: int | None = None
    """``None``: the tokenizer's ``min_tokens``."""
    max_image_tokens: int | None = None
    """``None``: the most that the tokenizer makes."""
    stop_threshold: float = 0.5
    """A picture ends where [/Img] is at least so likely, against [Img] (that it goes on)."""
    guidance: float = 1.0
    """How closely pictures follow their condition (classifier-free guidance); 1 for none."""
    image_temperature: float = 1.0
    """Factor on the noise of drawing; 0 draws without."""
    sampling_steps: int | None = None
    """Denoising steps of a visual token; ``None``: those of the model's config."""
    stop_ids: tuple[int, ...] = ()
    """Tokens that end a row; empty takes the text tokenizer's end-of-sequence."""
    use_cache: bool = True
    """Without, every step reads the whole row again: slow, and the same."""

    def __post_init__(self) -> None:
        low, high = self.min_image_tokens, self.max_image_tokens
        for name, value, wrong, allowed in (
            ("max_new_tokens", self.max_new_tokens, self.max_new_tokens < 1, "1 or more"),
            ("temperature", self.temperature, self.temperature < 0, "0 or more"),
            ("top_k", self.top_k, self.top_k < 0, "0 (all) or more"),
            ("top_p", self.top_p, not 0 < self.top_p <= 1, "a share above 0, at most 1"),
            ("stop_threshold", self.stop_threshold, not 0 < self.stop_threshold <= 1, "a share above 0, at most 1"),
            ("image_temperature", self.image_temperature, self.image_temperature < 0, "0 or more"),
            (
                "sampling_steps",
                self.sampling_steps,
                self.sampling_steps is not None and self.sampling_steps < 1,
                "1 or more",
            ),
            ("min_image_tokens", low, low is not None and low < 1, "1 or more"),
            ("max_image_tokens", high, high is not None and high < (low or 1), f"{low or 1} or more"),
        ):
            if wrong:
                raise ConfigError(f"{name}={value} is not possible", f"use {allowed}")


# ---------------------------------------------------------------- what comes out


@dataclass(frozen=True, kw_only=True)
class TextToken:
    """A token of text was said; the one that ends a row is not among them."""

    row: int
    token: int


@dataclass(frozen=True, kw_only=True)
class ImageToken:
    """A visual token was drawn."""

    row: int
    token: Float[Tensor, " width"]


@dataclass(frozen=True, kw_only=True)
class ImageEnd:
    """A picture is complete."""

    row: int
    tokens: Float[Tensor, "tokens width"]


@dataclass(frozen=True, kw_only=True)
class MaskFound:
    """A region of the row's first picture."""

    row: int
    logits: Float[Tensor, "height width"]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The row has ended: by itself or as its mode asks (``stop``), or because there was no more room (``length``)."""

    row: int
    reason: Literal["stop", "length"]


Event = TextToken | ImageToken | ImageEnd | MaskFound | Finished


@dataclass(frozen=True, kw_only=True)
class Text:
    """Tokens of text in a row, special ones left out."""

    ids: tuple[int, ...]


Segment = Text | ImageEnd | MaskFound


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What one row said, drew and pointed at, in its order."""

    segments: tuple[Segment, ...]
    reason: Literal["stop", "length"]

    @property
    def ids(self) -> tuple[int, ...]:
        """All text."""
        return tuple(token for part in self.segments if isinstance(part, Text) for token in part.ids)

    @property
    def images(self) -> tuple[Float[Tensor, "tokens width"], ...]:
        """The tokens of every picture."""
        return tuple(part.tokens for part in self.segments if isinstance(part, ImageEnd))

    @property
    def masks(self) -> tuple[Float[Tensor, "height width"], ...]:
        """The logits of every mask."""
        return tuple(part.logits for part in self.segments if isinstance(part, MaskFound))


def generate(
    model: Setokim,
    batch: SequenceBatch,
    options: GenerationOptions,
    *,
    seeds: Sequence[int],
    unguided: SequenceBatch | None = None,
    images: EncodedImages | None = None,
) -> list[Generated]:
    """Continue every row to its end; arguments and errors as of ``stream``."""
    segments: list[list[Segment]] = [[] for _ in range(len(batch))]
    reasons: dict[int, Literal["stop", "length"]] = {}
    for event in stream(model, batch, options, seeds=seeds, unguided=unguided, images=images):
        own = segments[event.row]
        if isinstance(event, TextToken):
            last = own[-1] if own else None
            if isinstance(last, Text):
                own[-1] = Text(ids=(*last.ids, event.token))
            else:
                own.append(Text(ids=(event.token,)))
        elif isinstance(event, (ImageEnd, MaskFound)):
            own.append(event)
        elif isinstance(event, Finished):
            reasons[event.row] = event.reason
    return [Generated(segments=tuple(own), reason=reasons[row]) for row, own in enumerate(segments)]


@torch.no_grad()
def stream(
    model: Setokim,
    batch: SequenceBatch,
    options: GenerationOptions,
    *,
    seeds: Sequence[int],
    unguided: SequenceBatch | None = None,
    images: EncodedImages | None = None,
) -> Iterator[Event]:
    """Continue prompts, and tell of everything as it happens.

    Args:
        batch: one prompt a row, up to where the model is to go on.
        seeds: of every row's random choices.
        unguided: prompts of the same number from which guidance moves away, such as those with the text left out; ``None`` for
            the condition that the denoising network has learned.
        images: of ``model.encode_images(batch.pixel_values)``, where they are there already.

    Raises:
        ConfigError: an option does not fit the model.
        DataError: a row is empty, holds several samples, is too long, or lacks the picture that ``mask`` needs.
    """
    images = model.encode_images(batch.pixel_values) if images is None else images
    rows = _Rows(model, batch, images, options, seeds)
    prompts = [_prompt(model, batch, images)]
    if unguided is not None:
        if len(unguided) != len(batch):
            raise DataError(
                f"there are {len(batch)} prompts and {len(unguided)} unguided ones", "give one for every prompt"
            )
        prompts.append(_prompt(model, unguided, model.encode_images(unguided.pixel_values)))
    reader = _Reader(model, prompts, use_cache=options.use_cache)
    rows.take_room(reader.lengths[: len(batch)].tolist())
    hidden = reader.read_prompts()
    while not rows.all_finished():
        embeddings = yield from rows.step(hidden)
        if rows.all_finished():
            return
        hidden = reader.read(embeddings)


# ---------------------------------------------------------------- reading


@dataclass(frozen=True, kw_only=True)
class _Prompt:
    embeddings: Float[Tensor, "rows length width"]
    visible: Bool[Tensor, "rows length"]
    position_ids: Int[Tensor, "rows length"]


def _prompt(model: Setokim, batch: SequenceBatch, images: EncodedImages) -> _Prompt:
    """Rows of prompts, padded in front."""
    samples = batch.segment_ids.amax(1).tolist()
    for row, number in enumerate(samples):
        if number != 1:
            raise DataError(
                f"row {row} holds {number} samples, and one prompt can be continued",
                "give every prompt a row of its own (segment 1)",
            )
    rows = model.splice(batch, images).trimmed().right_aligned()
    return _Prompt(embeddings=model.embed(rows, images), visible=rows.segment_ids > 0, position_ids=rows.position_ids)


class _Reader:
    """What the language model has read so far: a cache, or all embeddings."""

    def __init__(self, model: Setokim, prompts: Sequence[_Prompt], *, use_cache: bool) -> None:
        longest = max(prompt.visible.shape[1] for prompt in prompts)

        def wide(name: str, *padding: int) -> Tensor:
            parts = [(getattr(p, name), longest - p.visible.shape[1]) for p in prompts]
            return torch.cat([F.pad(values, (*padding, missing, 0)) for values, missing in parts])

        self.language_model = model.language_model
        self.copies = len(prompts)
        self.embeddings = wide("embeddings", 0, 0)
        self.visible = wide("visible")
        self.position_ids = wide("position_ids")
        self.lengths = self.visible.sum(1)
        self.cache: Any = model.language_model.new_cache() if use_cache else None

    def read_prompts(self) -> Float[Tensor, "rows width"]:
        """Hidden states at the prompts' ends."""
        return self._last(self.embeddings, self.position_ids)

    def read(self, embeddings: Float[Tensor, "some width"]) -> Float[Tensor, "rows width"]:
        """Hidden states after one more place in every row; the copies of a row read the same."""
        new = embeddings.repeat(self.copies, 1).unsqueeze(1)
        place = self.position_ids[:, -1:] + 1
        self.visible = F.pad(self.visible, (0, 1), value=True)
        self.position_ids = torch.cat([self.position_ids, place], 1)
        if self.cache is not None:
            return self._last(new, place)
        self.embeddings = torch.cat([self.embeddings, new], 1)
        return self._last(self.embeddings, self.position_ids)

    def _last(self, embeddings: Tensor, position_ids: Tensor) -> Tensor:
        return self.language_model.step(embeddings, self.visible, position_ids, self.cache)[:, -1]


# ---------------------------------------------------------------- rows


@dataclass
class _Row:
    generator: torch.Generator
    picture: int | None
    """The first one of the prompt."""
    room: int = 0
    """Places that are left in the language model."""
    said: int = 0
    drawing: list[Tensor] | None = None
    """Visual tokens so far, while a picture is drawn."""
    pointing: bool = False
    """Whether ``[Seg]`` was said just now."""
    finished: bool = False
    banned: list[int] = field(default_factory=list)


class _Rows:
    """The state of all rows, and what each does next."""

    def __init__(
        self,
        model: Setokim,
        batch: SequenceBatch,
        images: EncodedImages,
        options: GenerationOptions,
        seeds: Sequence[int],
    ) -> None:
        if len(seeds) != len(batch):
            raise ConfigError(f"there are {len(batch)} rows and {len(seeds)} seeds", "give one seed for every row")
        self.model, self.options, self.images, self.pixel_values = model, options, images, batch.pixel_values
        end = model.text_tokenizer.eos_token_id
        self.stop_ids = set(options.stop_ids or ([] if end is None else [end]))
        clustering = model.tokenizer.config.clustering
        self.least = options.min_image_tokens or clustering.min_tokens
        self.most = max(self.least, options.max_image_tokens or clustering.num_tokens)
        first = batch.image_index.masked_fill(batch.image_index < 0, len(batch.pixel_values)).amin(1).tolist()
        self.rows = [
            _Row(torch.Generator().manual_seed(seed), None if picture == len(batch.pixel_values) else picture)
            for seed, picture in zip(seeds, first, strict=True)
        ]
        if options.mode == "mask":
            self._require_pictures()
        for row in self.rows:
            row.banned = self._banned(row)

    def all_finished(self) -> bool:
        """Whether no row goes on."""
        return all(row.finished for row in self.rows)

    def take_room(self, lengths: Sequence[int]) -> None:
        """Note how far every row may go behind its prompt.

        Raises:
            DataError: a prompt is longer than the language model reads.
        """
        limit = self.model.language_model.max_positions
        for number, (row, length) in enumerate(zip(self.rows, lengths, strict=True)):
            row.room = 1 << 62 if limit is None else limit - length
            if row.room < 1:
                raise DataError(
                    f"row {number} has {length} places with its pictures, and the language model reads {limit}:"
                    f" {1 - row.room} too many for one more token",
                    "shorten the prompt, give fewer pictures, or use a tokenizer setting with fewer tokens",
                )

    def step(self, hidden: Float[Tensor, "some width"]) -> Generator[Event, None, Tensor]:
        """Let every row take its next place; gives the embeddings of these places.

        Args:
            hidden: at the last place of every row; rows of unguided prompts come after those.
        """
        number = len(self.rows)
        own, null = hidden[:number], hidden[number:] if len(hidden) > number else None
        yield from self._point(own)
        logits = self.model.language_model.logits(own)
        on, off = logits[:, self.model.image_start_id], logits[:, self.model.image_end_id]
        ends = ((off - on).sigmoid() >= self.options.stop_threshold).tolist()
        ids = self._choose(logits)
        drawing: list[int] = []
        for index, row in enumerate(self.rows):
            if row.finished:
                ids[index] = self.model.padding_id
                continue
            if row.drawing is not None:
                drawn = len(row.drawing)
                if drawn < self.most and (drawn < self.least or not ends[index]) and row.room > 1:
                    drawing.append(index)
                    continue
                ids[index] = self.model.image_end_id
            yield from self._say(index, row, ids[index])
            row.room -= 1
            if row.room < 1 and not (row.finished or row.pointing):
                yield from self._finish(index, "length")
        embeddings: Tensor = self.model.language_model.embed(torch.tensor(ids, device=own.device))
        if drawing:
            tokens = self._draw(own, null, drawing)
            projected = self.model.project_tokens(tokens).to(embeddings.dtype)
            embeddings = embeddings.index_copy(0, torch.tensor(drawing, device=own.device), projected)
            for index, token in zip(drawing, tokens, strict=True):
                row = self.rows[index]
                assert row.drawing is not None
                row.drawing.append(token)
                row.room -= 1
                yield ImageToken(row=index, token=token)
        return embeddings

    def _say(self, index: int, row: _Row, token: int) -> Iterator[Event]:
        """What a text token means for its row."""
        model, mode = self.model, self.options.mode
        if token == model.image_end_id:
            assert row.drawing is not None
            yield ImageEnd(row=index, tokens=torch.stack(row.drawing))
            row.drawing = None
            if mode == "picture":
                yield from self._finish(index, "stop")
            return
        row.said += 1
        if token in self.stop_ids:
            yield from self._finish(index, "stop")
        elif token == model.image_start_id:
            row.drawing = []
        elif token == model.segment_id:
            row.pointing = True
        else:
            yield TextToken(row=index, token=token)
        # A picture or mask that has begun is brought to its end.
        if row.said >= self.options.max_new_tokens and not (row.finished or row.pointing or row.drawing is not None):
            yield from self._finish(index, "length")

    def _finish(self, index: int, reason: Literal["stop", "length"]) -> Iterator[Event]:
        row = self.rows[index]
        row.finished = True
        if row.drawing:
            yield ImageEnd(row=index, tokens=torch.stack(row.drawing))
        row.drawing = None
        yield Finished(row=index, reason=reason)

    def _point(self, hidden: Float[Tensor, "some width"]) -> Iterator[Event]:
        """Masks of the rows whose last token was ``[Seg]``."""
        pointing = [index for index, row in enumerate(self.rows) if row.pointing and not row.finished]
        if not pointing:
            return
        chosen = torch.tensor([self.rows[index].picture for index in pointing], device=hidden.device)
        logits = self.model.point(hidden[pointing], self.images[chosen], self.pixel_values[chosen])
        for index, mask in zip(pointing, logits, strict=True):
            row = self.rows[index]
            row.pointing = False
            yield MaskFound(row=index, logits=mask)
            if self.options.mode == "mask":
                yield from self._finish(index, "stop")
            elif row.room < 1 or row.said >= self.options.max_new_tokens:
                yield from self._finish(index, "length")

    def _draw(self, hidden: Tensor, null: Tensor | None, drawing: Sequence[int]) -> Float[Tensor, "drawn width"]:
        """The next visual token of the rows that draw."""
        project = self.model.output_projector
        dtype = next(project.parameters()).dtype
        options = self.options
        return self.model.diffusion.sample(
            project(hidden[drawing].to(dtype)),
            [self.rows[index].generator for index in drawing],
            null_condition=None if null is None else project(null[drawing].to(dtype)),
            guidance=options.guidance,
            temperature=options.image_temperature,
            steps=options.sampling_steps,
        )

    def _choose(self, logits: Float[Tensor, "rows vocabulary"]) -> list[int]:
        """The next token of every row that says text; for the others it means nothing, and they draw no random number."""
        options = self.options
        if options.mode in ("picture", "mask"):
            forced = self.model.image_start_id if options.mode == "picture" else self.model.segment_id
            return [forced] * len(self.rows)
        pairs = [(index, token) for index, row in enumerate(self.rows) for token in row.banned]
        at = torch.tensor(pairs, device=logits.device).T
        logits = logits.index_put((at[0], at[1]), logits.new_tensor(-torch.inf))
        if options.temperature == 0:
            return logits.argmax(-1).tolist()
        talking = [not row.finished and row.drawing is None for row in self.rows]
        chance = torch.stack(
            [
                torch.rand((), generator=row.generator) if on else torch.zeros(())
                for row, on in zip(self.rows, talking, strict=True)
            ]
        )
        return choose_token(
            logits / options.temperature, chance.to(logits.device), options.top_k, options.top_p
        ).tolist()

    def _banned(self, row: _Row) -> list[int]:
        """Tokens that the row must not say as text."""
        model = self.model
        banned = [model.image_end_id]
        if model.padding_id not in self.stop_ids:
            banned.append(model.padding_id)
        if self.options.mode == "text":
            banned.append(model.image_start_id)
        if self.options.mode == "text" or row.picture is None or model.mask_decoder is None:
            banned.append(model.segment_id)
        return banned

    def _require_pictures(self) -> None:
        if self.model.mask_decoder is None:
            raise ConfigError(
                "mode='mask' needs a mask decoder, and this model has none", "train one with mask_decoder set"
            )
        lacking = [str(index) for index, row in enumerate(self.rows) if row.picture is None]
        if lacking:
            raise DataError(
                f"mode='mask' points into the prompt's first picture, and row {', '.join(lacking)} has none",
                "give every prompt a picture",
            )


def choose_token(
    logits: Float[Tensor, "rows vocabulary"], chance: Float[Tensor, " rows"], top_k: int, top_p: float
) -> Int[Tensor, " rows"]:
    """One token a row, by a number in [0, 1) each, among the most likely ones (Holtzman et al. 2020 for ``top_p``)."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    shares = ordered.softmax(-1)
    before = shares.cumsum(-1) - shares
    kept = before < top_p  # the most likely one is always among them
    if top_k:
        kept = kept & (torch.arange(logits.shape[-1], device=logits.device) < top_k)
    shares = shares * kept
    reached = shares.cumsum(-1)
    place = (reached <= chance.unsqueeze(1) * reached[:, -1:]).sum(-1)
    last = kept.sum(-1) - 1  # rounding may lead past it
    return order.gather(1, torch.minimum(place, last).unsqueeze(1)).squeeze(1)
