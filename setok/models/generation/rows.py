"""The state of every row, and what it does next: say, draw, point or end."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from setok.batch import SequenceBatch
from setok.errors import ConfigError, DataError
from setok.models.generation.events import Event, Finished, ImageEnd, ImageToken, MaskFound, TextToken
from setok.models.generation.options import GenerationOptions
from setok.models.setokim import Setokim
from setok.models.setokim_targets import EncodedImages


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


class Rows:
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
            needed, what = (3, "a picture") if self.options.mode == "picture" else (1, "one more token")
            if row.room < needed:
                raise DataError(
                    f"row {number} has {length} places with its pictures, and the language model reads {limit}:"
                    f" {needed - row.room} too many for {what}",
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
            if row.drawing:  # none where [Img] took the last room
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
