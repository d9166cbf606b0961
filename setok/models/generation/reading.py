"""What the language model has read so far: prompts, then one place after the other, with a cache or all over again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from setok.batch import SequenceBatch
from setok.errors import DataError
from setok.models.setokim import Setokim
from setok.models.setokim_targets import EncodedImages


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Embedded prompts of a batch, padded in front."""

    embeddings: Float[Tensor, "rows length width"]
    visible: Bool[Tensor, "rows length"]
    position_ids: Int[Tensor, "rows length"]
    num_visual: tuple[int, ...]
    """Places of every row that are visual tokens."""


def read_prompt(model: Setokim, batch: SequenceBatch, images: EncodedImages) -> Prompt:
    """Rows of prompts, padded in front."""
    samples = batch.segment_ids.amax(1).tolist()
    for row, number in enumerate(samples):
        if number != 1:
            raise DataError(
                f"row {row} holds {number} samples, and one prompt can be continued",
                "give every prompt a row of its own (segment 1)",
            )
    rows = model.splice(batch, images).trimmed().right_aligned()
    return Prompt(
        embeddings=model.embed(rows, images),
        visible=rows.segment_ids > 0,
        position_ids=rows.position_ids,
        num_visual=tuple(rows.is_visual.sum(1).tolist()),
    )


class Reader:
    """What the language model has read so far of a number of rows: a cache, or all embeddings.

    A row is read once, or twice where it is guided: beside it runs its twin, the prompt that guidance moves away from. What is
    read is a *line*.

    Args:
        prompts: of all rows, and those of their twins where they have some.
        use_cache: without, every step reads the whole lines again.
    """

    def __init__(self, model: Setokim, prompts: Sequence[Prompt], *, use_cache: bool) -> None:
        longest = max(prompt.visible.shape[1] for prompt in prompts)

        def wide(name: str, *padding: int) -> Tensor:
            parts = [(getattr(p, name), longest - p.visible.shape[1]) for p in prompts]
            return torch.cat([F.pad(values, (*padding, missing, 0)) for values, missing in parts])

        self.language_model = model.language_model
        self.embeddings = wide("embeddings", 0, 0)
        self.visible = wide("visible")
        self.position_ids = wide("position_ids")
        self.cache: Any = model.language_model.new_cache() if use_cache else None
        rows = len(prompts[0].visible)
        self.lines = list(range(rows))
        """The line of every row."""
        self.twins: list[int | None] = [rows + row if len(prompts) > 1 else None for row in range(rows)]
        """The line of every row's twin."""
        self.lengths = self.visible[:rows].sum(1).tolist()
        """Places of every row's prompt."""
        self.states: Float[Tensor, "lines width"] = self._last(self.embeddings, self.position_ids)
        """Hidden states at the last place of every line."""

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def num_places(self) -> int:
        """Places of the longest line, padding included."""
        return self.visible.shape[1]

    @property
    def hidden(self) -> Float[Tensor, "rows width"]:
        """Hidden states at the last place of every row."""
        return self.states[self.lines]

    @property
    def unguided(self) -> dict[int, Float[Tensor, " width"]]:
        """Those at the last place of every twin, by row."""
        return {row: self.states[line] for row, line in enumerate(self.twins) if line is not None}

    @property
    def can_be_joined(self) -> bool:
        """Whether other rows can come in between: not where a layer forgets what lies outside of its window."""
        return self.cache is None or all(_is_plain(layer) for layer in self.cache.layers)

    def read(self, embeddings: Float[Tensor, "rows width"]) -> None:
        """Read one more place of every row; a twin reads the same as its row."""
        row_of = dict(zip(self.lines, range(len(self)), strict=True))
        row_of |= {line: row for row, line in enumerate(self.twins) if line is not None}
        new = embeddings[[row_of[line] for line in range(len(row_of))]].unsqueeze(1)
        place = self.position_ids[:, -1:] + 1
        self.visible = F.pad(self.visible, (0, 1), value=True)
        self.position_ids = torch.cat([self.position_ids, place], 1)
        if self.cache is not None:
            self.states = self._last(new, place)
            return
        self.embeddings = torch.cat([self.embeddings, new], 1)
        self.states = self._last(self.embeddings, self.position_ids)

    def join(self, other: Reader) -> None:
        """Take over the rows of another reader, behind one's own."""
        longest, offset = max(self.num_places, other.num_places), len(self.states)

        def both(mine: Tensor, theirs: Tensor, *padding: int) -> Tensor:
            parts = ((mine, longest - self.num_places), (theirs, longest - other.num_places))
            return torch.cat([F.pad(values, (*padding, missing, 0)) for values, missing in parts])

        if self.cache is None:
            self.embeddings = both(self.embeddings, other.embeddings, 0, 0)
        else:
            for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
                mine.keys = both(mine.keys, theirs.keys, 0, 0)
                mine.values = both(mine.values, theirs.values, 0, 0)
        self.position_ids = both(self.position_ids, other.position_ids)
        self.visible = both(self.visible, other.visible)
        self.states = torch.cat([self.states, other.states])
        self.lines += [offset + line for line in other.lines]
        self.twins += [None if line is None else offset + line for line in other.twins]
        self.lengths += other.lengths

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all other rows, and the places in front that none of the rest has."""
        twins = [(row, line) for row, line in enumerate(self.twins[row] for row in rows) if line is not None]
        lines = [self.lines[row] for row in rows] + [line for _, line in twins]
        index = torch.tensor(lines, device=self.visible.device)
        visible = self.visible[index]
        first = int(visible.any(0).long().argmax()) if self.can_be_joined else 0
        self.visible, self.position_ids = visible[:, first:], self.position_ids[index, first:]
        self.states = self.states[index]
        if self.cache is None:
            self.embeddings = self.embeddings[index, first:]
        else:
            self.cache.reorder_cache(index)
            for layer in self.cache.layers if first else ():
                layer.keys, layer.values = layer.keys[:, :, first:], layer.values[:, :, first:]
        self.lengths = [self.lengths[row] for row in rows]
        self.lines = list(range(len(rows)))
        self.twins = [None] * len(rows)
        for line, (row, _) in enumerate(twins, start=len(rows)):
            self.twins[row] = line

    def _last(self, embeddings: Tensor, position_ids: Tensor) -> Tensor:
        return self.language_model.step(embeddings, self.visible, position_ids, self.cache)[:, -1]


def _is_plain(layer: object) -> bool:
    """Whether a layer of a cache keeps the keys and values of all places, and nothing else."""
    from transformers.cache_utils import DynamicLayer  # slow to import

    return type(layer) is DynamicLayer
