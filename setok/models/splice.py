"""Closing the gaps: rows with room for the largest picture become rows with exactly the tokens that every picture has.

How many tokens a picture has is known only on the device, so everything here is arithmetic on whole rows: no loop over rows or
pictures, no shape that depends on values.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from setok.batch import SequenceBatch

IGNORED = -100
"""The label of places that are not trained."""


@dataclass(frozen=True, kw_only=True)
class Spliced:
    """Rows without gaps, as long as before: what was freed stands at their ends as padding."""

    input_ids: Int[Tensor, "rows length"]
    """Ids of text; the padding's id at places of visual tokens and at the end."""
    labels: Int[Tensor, "rows length"]
    """What is to be said at a place, -100 for nothing; not shifted."""
    segment_ids: Int[Tensor, "rows length"]
    """Sample of a place, from 1; 0 for padding."""
    position_ids: Int[Tensor, "rows length"]
    """Place inside the sample, from 0; padding counts on its own."""
    image_index: Int[Tensor, "rows length"]
    """Picture of a visual token, else -1."""
    image_offset: Int[Tensor, "rows length"]
    """Which of the picture's tokens it is, 0 elsewhere."""
    mask_index: Int[Tensor, "rows length"]
    """Mask of a ``[Seg]``, else -1."""

    @property
    def is_visual(self) -> Bool[Tensor, "rows length"]:
        """True where a visual token stands."""
        return self.image_index >= 0

    @property
    def lengths(self) -> Int[Tensor, " rows"]:
        """Places of every row that are not padding."""
        return (self.segment_ids > 0).sum(1)

    def trimmed(self) -> Spliced:
        """Without the columns that are padding in every row; waits for the device, as the shape depends on values."""
        length = max(1, int(self.lengths.max()))
        return replace(self, **{field.name: getattr(self, field.name)[:, :length] for field in fields(self)})

    def right_aligned(self) -> Spliced:
        """Padding at the beginning of rows in place of their ends; for rows of one sample each, to be continued."""
        shift = (self.segment_ids.shape[1] - self.lengths).unsqueeze(1)
        place = torch.arange(self.segment_ids.shape[1], device=shift.device) - shift
        source = place % self.segment_ids.shape[1]
        moved = {field.name: getattr(self, field.name).gather(1, source) for field in fields(self)}
        return replace(self, **moved | {"position_ids": place.clamp_min(0)})


def close_gaps(batch: SequenceBatch, counts: Int[Tensor, " images"], padding_id: int) -> Spliced:
    """Drop the places that a picture does not fill, and move what comes after to the left; the order stays.

    Args:
        batch: rows with room for the largest picture.
        counts: visual tokens of every picture.
        padding_id: fills ``input_ids`` where no text stands.
    """
    is_visual = batch.image_index >= 0
    if len(counts):
        limit = counts[batch.image_index.clamp_min(0)]
    else:
        limit = torch.zeros_like(batch.image_index)
    keep = (batch.segment_ids > 0) & (~is_visual | (batch.image_offset < limit))
    # Stable, so what is kept comes first in its old order.
    order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)
    kept = keep.gather(1, order)

    def move(values: Tensor, empty: int) -> Tensor:
        return values.gather(1, order).masked_fill(~kept, empty)

    image_index = move(batch.image_index, -1)
    segment_ids = move(batch.segment_ids, 0)
    return Spliced(
        input_ids=move(batch.input_ids, padding_id).masked_fill(image_index >= 0, padding_id),
        labels=move(batch.labels, IGNORED),
        segment_ids=segment_ids,
        position_ids=positions(segment_ids),
        image_index=image_index,
        image_offset=move(batch.image_offset, 0),
        mask_index=move(batch.mask_index, -1),
    )


def positions(segment_ids: Int[Tensor, "rows length"]) -> Int[Tensor, "rows length"]:
    """Place of everything inside its sample, from 0."""
    place = torch.arange(segment_ids.shape[1], device=segment_ids.device).expand_as(segment_ids)
    starts = torch.ones_like(segment_ids, dtype=torch.bool)
    starts[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    return place - place.masked_fill(~starts, 0).cummax(1).values


def attention_mask(
    segment_ids: Int[Tensor, "rows length"],
    position_ids: Int[Tensor, "rows length"],
    window: int | None = None,
) -> Bool[Tensor, "rows 1 length length"]:
    """True where a place may look: at itself and what comes before it in its own sample.

    Padding is a sample of its own, so that no row of the mask is empty.

    Args:
        window: look back over at most this many places, itself included; ``None`` over all.
    """
    length = segment_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment_ids.device).tril()
    same = segment_ids.unsqueeze(2) == segment_ids.unsqueeze(1)
    mask = same & causal
    if window is not None:
        mask = mask & (position_ids.unsqueeze(2) - position_ids.unsqueeze(1) < window)
    return mask.unsqueeze(1)


def slots(index: Int[Tensor, "rows length"], number: int) -> Int[Tensor, " number"]:
    """The place (row × length + column) where each of ``number`` things stands, -1 for one that stands nowhere.

    Args:
        index: the thing at a place, -1 for none; a thing stands at one place at most.
    """
    flat = index.flatten()
    place = torch.arange(len(flat), device=flat.device)
    # One more slot takes in the places of nothing.
    found = torch.full((number + 1,), -1, dtype=torch.long, device=flat.device)
    return found.scatter(0, flat.long().masked_fill(flat < 0, number), place)[:number]
