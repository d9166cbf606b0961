"""The state of every row, and what it does next: say, draw, point or end."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from setok.batch import SequenceBatch
from setok.errors import ConfigError, DataError
from setok.models.generation.events import Event, Finished, ImageEnd, ImageToken, MaskFound, TextToken
from setok.models.generation.options import GenerationOptions
from setok.models.setokim import Setokim
from setok.models.setokim_targets import EncodedImages


@dataclass
class _Row:
    number: int
    """What events call it."""
    options: GenerationOptions
    generator: torch.Generator
    stop_ids: frozenset[int]
    banned: tuple[int, ...]
    """Tokens that it must not say as text."""
    least: int
    most: int
    """Visual tokens of a picture that it draws."""
    picture: tuple[EncodedImages, UInt8[Tensor, "1 3 height width"]] | None
    """The first one of the prompt, where it may be pointed at."""
    room: int = 0
    """Places that are left in the language model."""
    said: int = 0
    drawing: list[Tensor] | None = None
    """Visual tokens so far, while a picture is drawn."""
    pointing: bool = False
    """Whether ``[Seg]`` was said just now."""
    finished: bool = False


class Rows:
    """The state of all rows, and what each does next. Rows may come at any time, and go once they have finished."""

    def __init__(self, model: Setokim) -> None:
        self.model = model
        self.rows: list[_Row] = []
        self._added = 0

    def __len__(self) -> int:
        return len(self.rows)

    def prepare(
        self,
        batch: SequenceBatch,
        images: EncodedImages,
        options: Sequence[GenerationOptions],
        seeds: Sequence[int],
    ) -> list[_Row]:
        """Rows for the prompts of a batch, which ``add`` puts behind the others.

        Raises:
            ConfigError: options or seeds differ in number from the prompts, or a mode needs what the model has not.
            DataError: a mode needs a picture that a prompt has not.
        """
        for name, given in (("seeds", seeds), ("options", options)):
            if len(given) != len(batch):
                raise ConfigError(
                    f"there are {len(batch)} rows and {len(given)} {name}", f"give one of {name} for every row"
                )
        none = len(batch.pixel_values)
        first = batch.image_index.masked_fill(batch.image_index < 0, none).amin(1).tolist()
        pictures = [None if picture == none else picture for picture in first]
        self._require_pictures(pictures, options)
        return [
            self._row(own, seed, images, batch.pixel_values, picture)
            for own, seed, picture in zip(options, seeds, pictures, strict=True)
        ]

    def _row(
        self,
        options: GenerationOptions,
        seed: int,
        images: EncodedImages,
        pixel_values: UInt8[Tensor, "images 3 height width"],
        picture: int | None,
    ) -> _Row:
        end, clustering = self.model.text_tokenizer.eos_token_id, self.model.tokenizer.config.clustering
        stop_ids = frozenset(options.stop_ids or ([] if end is None else [end]))
        points = picture is not None and self.model.mask_decoder is not None and options.mode in ("free", "mask")
        shown = None
        if points:
            chosen = torch.tensor([picture], device=pixel_values.device)
            shown = (images[chosen], pixel_values[chosen])
        least = options.min_image_tokens or clustering.min_tokens
        self._added += 1
        return _Row(
            number=self._added - 1,
            options=options,
            generator=torch.Generator().manual_seed(seed),
            stop_ids=stop_ids,
            banned=self._banned(options, stop_ids, points=points),
            least=least,
            most=max(least, options.max_image_tokens or clustering.num_tokens),
            picture=shown,
        )

    def add(self, rows: Sequence[_Row]) -> None:
        """Put prepared rows behind the others."""
        self.rows += rows

    def keep(self, places: Sequence[int]) -> None:
        """Forget all rows but those at these places of the list."""
        self.rows = [self.rows[place] for place in places]

    def take_room(self, rows: Sequence[_Row], lengths: Sequence[int]) -> None:
        """Note how far prepared rows may go behind their prompts.

        Raises:
            DataError: a prompt is longer than the language model reads.
        """
        limit = self.model.language_model.max_positions
        for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            row.room = 1 << 62 if limit is None else limit - length
            needed, what = (3, "a picture") if row.options.mode == "picture" else (1, "one more token")
            if row.room < needed:
                raise DataError(
                    f"row {number} has {length} places with its pictures, and the language model reads {limit}:"
                    f" {needed - row.room} too many for {what}",
                    "shorten the prompt, give fewer pictures, or use a tokenizer setting with fewer tokens",
                )

    def step(
        self, hidden: Float[Tensor, "rows width"], unguided: Mapping[int, Float[Tensor, " width"]]
    ) -> Generator[Event, None, Tensor]:
        """Let every row take its next place; gives the embeddings of these places.

        Args:
            hidden: at the last place of every row.
            unguided: at the last place of the prompts that guidance moves away from, for rows that have one.
        """
        yield from self._point(hidden)
        logits = self.model.language_model.logits(hidden)
        on, off = logits[:, self.model.image_start_id], logits[:, self.model.image_end_id]
        threshold = torch.tensor([row.options.stop_threshold for row in self.rows], device=logits.device)
        ends = ((off - on).sigmoid() >= threshold).tolist()
        ids = self._choose(logits)
        drawing: list[int] = []
        for index, row in enumerate(self.rows):
            if row.finished:
                ids[index] = self.model.padding_id
                continue
            if row.drawing is not None:
                drawn = len(row.drawing)
                if drawn < row.most and (drawn < row.least or not ends[index]) and row.room > 1:
                    drawing.append(index)
                    continue
                ids[index] = self.model.image_end_id
            yield from self._say(row, ids[index])
            row.room -= 1
            if row.room < 1 and not (row.finished or row.pointing):
                yield from self._finish(row, "length")
        embeddings: Tensor = self.model.language_model.embed(torch.tensor(ids, device=hidden.device))
        if drawing:
            tokens = self._draw(hidden, unguided, drawing)
            projected = self.model.project_tokens(tokens).to(embeddings.dtype)
            embeddings = embeddings.index_copy(0, torch.tensor(drawing, device=hidden.device), projected)
            for index, token in zip(drawing, tokens, strict=True):
                row = self.rows[index]
                assert row.drawing is not None
                row.drawing.append(token)
                row.room -= 1
                yield ImageToken(row=row.number, token=token)
        return embeddings

    def _say(self, row: _Row, token: int) -> Iterator[Event]:
        """What a text token means for its row."""
        model, mode = self.model, row.options.mode
        if token == model.image_end_id:
            if row.drawing:  # none where [Img] took the last room
                yield ImageEnd(row=row.number, tokens=torch.stack(row.drawing))
            row.drawing = None
            if mode == "picture":
                yield from self._finish(row, "stop")
            return
        row.said += 1
        if token in row.stop_ids:
            yield from self._finish(row, "stop")
        elif token == model.image_start_id:
            row.drawing = []
        elif token == model.segment_id:
            row.pointing = True
        else:
            yield TextToken(row=row.number, token=token)
        # A picture or mask that has begun is brought to its end.
        if row.said >= row.options.max_new_tokens and not (row.finished or row.pointing or row.drawing is not None):
            yield from self._finish(row, "length")

    def _finish(self, row: _Row, reason: Literal["stop", "length"]) -> Iterator[Event]:
        row.finished = True
        if row.drawing:
            yield ImageEnd(row=row.number, tokens=torch.stack(row.drawing))
        row.drawing = None
        yield Finished(row=row.number, reason=reason)

    def _point(self, hidden: Float[Tensor, "rows width"]) -> Iterator[Event]:
        """Masks of the rows whose last token was ``[Seg]``."""
        pointing = [index for index, row in enumerate(self.rows) if row.pointing and not row.finished]
        if not pointing:
            return
        pictures = [picture for index in pointing if (picture := self.rows[index].picture) is not None]
        assert len(pictures) == len(pointing)
        images = EncodedImages.concatenate([encoded for encoded, _ in pictures])
        logits = self.model.point(hidden[pointing], images, torch.cat([pixels for _, pixels in pictures]))
        for index, mask in zip(pointing, logits, strict=True):
            row = self.rows[index]
            row.pointing = False
            yield MaskFound(row=row.number, logits=mask)
            if row.options.mode == "mask":
                yield from self._finish(row, "stop")
            elif row.room < 1 or row.said >= row.options.max_new_tokens:
                yield from self._finish(row, "length")

    def _draw(
        self, hidden: Tensor, unguided: Mapping[int, Tensor], drawing: Sequence[int]
    ) -> Float[Tensor, "drawn width"]:
        """The next visual token of the rows that draw; those of the same options at once."""
        project = self.model.output_projector
        dtype = next(project.parameters()).dtype
        tokens: dict[int, Tensor] = {}
        for (guidance, temperature, steps, has_twin), members in self._alike(drawing, unguided).items():
            null = torch.stack([unguided[index] for index in members]) if has_twin else None
            drawn = self.model.diffusion.sample(
                project(hidden[members].to(dtype)),
                [self.rows[index].generator for index in members],
                null_condition=None if null is None else project(null.to(dtype)),
                guidance=guidance,
                temperature=temperature,
                steps=steps,
            )
            tokens |= zip(members, drawn, strict=True)
        return torch.stack([tokens[index] for index in drawing])

    def _alike(
        self, drawing: Sequence[int], unguided: Mapping[int, Tensor]
    ) -> dict[tuple[float, float, int | None, bool], list[int]]:
        groups: dict[tuple[float, float, int | None, bool], list[int]] = {}
        for index in drawing:
            own = self.rows[index].options
            key = (own.guidance, own.image_temperature, own.sampling_steps, index in unguided)
            groups.setdefault(key, []).append(index)
        return groups

    def _choose(self, logits: Float[Tensor, "rows vocabulary"]) -> list[int]:
        """The next token of every row that says text; for the others it means nothing, and they draw no random number."""
        pairs = [(index, token) for index, row in enumerate(self.rows) for token in row.banned]
        at = torch.tensor(pairs, device=logits.device).T
        logits = logits.index_put((at[0], at[1]), logits.new_tensor(-torch.inf))
        ids: list[int] = logits.argmax(-1).tolist()
        chance: dict[tuple[int, float], list[int]] = {}
        for index, row in enumerate(self.rows):
            own = row.options
            if own.mode in ("picture", "mask"):
                ids[index] = self.model.image_start_id if own.mode == "picture" else self.model.segment_id
            elif own.temperature and not row.finished and row.drawing is None:
                chance.setdefault((own.top_k, own.top_p), []).append(index)
        for (top_k, top_p), members in chance.items():
            rows = [self.rows[index] for index in members]
            drawn = torch.stack([torch.rand((), generator=row.generator) for row in rows]).to(logits.device)
            temperature = torch.tensor([[row.options.temperature] for row in rows], device=logits.device)
            chosen = choose_token(logits[members] / temperature, drawn, top_k, top_p)
            for index, token in zip(members, chosen.tolist(), strict=True):
                ids[index] = token
        return ids

    def _banned(self, options: GenerationOptions, stop_ids: frozenset[int], *, points: bool) -> tuple[int, ...]:
        """Tokens that a row must not say as text.

        Args:
            points: whether it may say ``[Seg]``.
        """
        model = self.model
        banned = [model.image_end_id]
        if model.padding_id not in stop_ids:
            banned.append(model.padding_id)
        if options.mode == "text":
            banned.append(model.image_start_id)
        if not points:
            banned.append(model.segment_id)
        return tuple(banned)

    def _require_pictures(self, pictures: Sequence[int | None], options: Sequence[GenerationOptions]) -> None:
        pointing = [index for index, own in enumerate(options) if own.mode == "mask"]
        if pointing and self.model.mask_decoder is None:
            raise ConfigError(
                "mode='mask' needs a mask decoder, and this model has none", "train one with mask_decoder set"
            )
        lacking = [str(index) for index in pointing if pictures[index] is None]
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
