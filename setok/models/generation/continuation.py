"""Prompts that are continued together; others may join while they are, and any may leave.

What is known as continuous batching (Yu et al. 2022, Orca: a batch is put together anew for every step, not for every request):
a row that has ended makes room at once, and a prompt that comes later waits for one step of the others, not for their ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from setok.batch import SequenceBatch
from setok.errors import ConfigError, DataError
from setok.models.generation.events import Event
from setok.models.generation.options import GenerationOptions
from setok.models.generation.reading import Reader, read_prompt
from setok.models.generation.rows import Rows
from setok.models.setokim import Setokim
from setok.models.setokim_targets import EncodedImages


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A prompt that was read."""

    row: int
    """What its events call it."""
    num_places: int
    """Its length, with its pictures."""
    num_visual: int
    """How many of its places are visual tokens."""


class Continuation:
    """Rows that go on in lockstep, each by options and seed of its own.

    A row depends on its prompt, options and seed only, not on what else is there.

    Args:
        use_cache: without, every step reads all rows again.
    """

    def __init__(self, model: Setokim, *, use_cache: bool = True) -> None:
        self.model, self.use_cache = model, use_cache
        self._rows = Rows(model)
        self._reader: Reader | None = None

    def __len__(self) -> int:
        """Rows that go on."""
        return len(self._rows)

    @property
    def num_places(self) -> int:
        """Places that every row takes in the cache: those of the longest."""
        return 0 if self._reader is None else self._reader.num_places

    @property
    def can_be_joined(self) -> bool:
        """Whether more prompts may come now; where a layer of the language model has a window, only once all rows have ended."""
        return self._reader is None or self._reader.can_be_joined

    @torch.no_grad()
    def join(
        self,
        batch: SequenceBatch,
        options: Sequence[GenerationOptions],
        *,
        seeds: Sequence[int],
        unguided: SequenceBatch | None = None,
        images: EncodedImages | None = None,
    ) -> list[Joined]:
        """Read prompts, to be continued from the next step on.

        Args:
            batch: one prompt a row, up to where the model is to go on.
            options: of every row; ``use_cache`` is the continuation's own.
            seeds: of every row's random choices.
            unguided: prompts of the same number from which guidance moves away, such as those with the text left out; ``None``
                for the condition that the denoising network has learned.
            images: of ``model.encode_images(batch.pixel_values)``, where they are there already.

        Raises:
            ConfigError: an option does not fit the model, or rows cannot come in between (``can_be_joined``).
            DataError: a row is empty, holds several samples, is too long, or lacks the picture that ``mask`` needs.
        """
        if not self.can_be_joined:
            raise ConfigError(
                "the language model's layers have a window, and rows cannot join others under way",
                "wait until the continuation is empty",
            )
        images = self.model.encode_images(batch.pixel_values) if images is None else images
        rows = self._rows.prepare(batch, images, options, seeds)
        prompts = [read_prompt(self.model, batch, images)]
        if unguided is not None:
            if len(unguided) != len(batch):
                raise DataError(
                    f"there are {len(batch)} prompts and {len(unguided)} unguided ones", "give one for every prompt"
                )
            prompts.append(read_prompt(self.model, unguided, self.model.encode_images(unguided.pixel_values)))
        lengths = prompts[0].visible.sum(1).tolist()
        self._rows.take_room(rows, lengths)
        reader = Reader(self.model, prompts, use_cache=self.use_cache)
        if self._reader is None:
            self._reader = reader
        else:
            self._reader.join(reader)
        self._rows.add(rows)
        return [
            Joined(row=row.number, num_places=length, num_visual=visual)
            for row, length, visual in zip(rows, lengths, prompts[0].num_visual, strict=True)
        ]

    @torch.no_grad()
    def step(self) -> Iterator[Event]:
        """Let every row take its next place; those that have ended are gone afterwards."""
        if self._reader is None:
            return
        embeddings = yield from self._rows.step(self._reader.hidden, self._reader.unguided)
        going = self._forget_finished()
        if going:
            self._reader.read(embeddings[going])

    def leave(self, rows: Sequence[int]) -> None:
        """Drop rows, by what their events call them; those that are gone already do not matter. Not in the midst of a step."""
        for row in self._rows.rows:
            row.finished = row.finished or row.number in rows
        self._forget_finished()

    def _forget_finished(self) -> list[int]:
        """Make room; gives the places in which the rows stood that go on."""
        going = [place for place, row in enumerate(self._rows.rows) if not row.finished]
        if not going:
            self._reader = None
        elif self._reader is not None and len(going) < len(self._rows):
            self._reader.keep(going)
        self._rows.keep(going)
        return going
