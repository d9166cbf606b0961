"""Which samples go through the model together: those of like length, as many as a budget of tokens allows.

The batches are a function of the samples and the settings alone. Replicas take whole ones, so that figures do not depend on
how many replicas there are, nor on when an evaluation was stopped and went on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

WINDOW = 4096
"""Samples are sorted by length within so many of them, so that what is read together stands together in the set."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to ask."""

    index: int
    """Number of the record in the set."""
    number: int = 0
    """Which of the record's questions."""
    asks: str
    length: int
    """Tokens that it takes up, with what will be said."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples that are asked the same kind of thing."""

    number: int
    items: tuple[Item, ...]


def batches_of(items: Iterable[Item], *, batch_size: int, max_tokens: int) -> list[Batch]:
    """All samples, each in one batch.

    Args:
        items: in the order of the set.
        batch_size: most samples in a batch.
        max_tokens: most tokens in a batch, every sample counted as long as its longest; one sample may have more.
    """
    kinds: dict[str, list[Item]] = {}
    for item in items:
        kinds.setdefault(item.asks, []).append(item)
    groups = (group for own in kinds.values() for group in _groups(own, batch_size, max_tokens))
    return [Batch(number=number, items=tuple(group)) for number, group in enumerate(groups)]


def _groups(items: list[Item], batch_size: int, max_tokens: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), WINDOW):
        group: list[Item] = []
        # From short to long: the newest is the longest of its group.
        for item in sorted(items[start : start + WINDOW], key=lambda item: (item.length, item.index, item.number)):
            if group and (len(group) == batch_size or (len(group) + 1) * item.length > max_tokens):
                yield group
                group = []
            group.append(item)
        yield group
