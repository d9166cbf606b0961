"""Continuing prompts, event by event or to their ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from setok.batch import SequenceBatch
from setok.models.generation.continuation import Continuation
from setok.models.generation.events import Event, Finished, Generated, ImageEnd, MaskFound, Segment, Text, TextToken
from setok.models.generation.options import GenerationOptions
from setok.models.setokim import Setokim
from setok.models.setokim_targets import EncodedImages


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
    going = Continuation(model, use_cache=options.use_cache)
    going.join(batch, [options] * len(batch), seeds=seeds, unguided=unguided, images=images)
    while len(going):
        yield from going.step()
