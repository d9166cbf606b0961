"""Scores of single samples, known by their id, gathered over workers and split by kind."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from setok.errors import DataError


class SampleScores:
    """One or more figures per sample; the same to the bit in whatever order samples come and parts are merged."""

    def __init__(self) -> None:
        self._figures: dict[str, dict[str, float]] = {}
        self._kinds: dict[str, dict[str, str]] = {}

    def update(self, sample: str, figures: Mapping[str, float], kinds: Mapping[str, str] | None = None) -> None:
        """Add a sample.

        Args:
            sample: its id.
            figures: in [0, 1], by name; the first one is the figure that is split by kind.
            kinds: what sort of sample it is, by the name of the split: ``{"answer_type": "number"}``.

        Raises:
            DataError: this sample was added before.
        """
        if sample in self._figures:
            raise DataError(f"sample {sample!r} was scored twice", "merge each worker's scores once")
        self._figures[sample] = dict(figures)
        self._kinds[sample] = dict(kinds or {})

    def merge(self, other: SampleScores) -> SampleScores:
        """Add another accumulator's samples to this one, and return it."""
        for sample, figures in other._figures.items():
            self.update(sample, figures, other._kinds[sample])
        return self

    def __len__(self) -> int:
        return len(self._figures)

    def __getitem__(self, sample: str) -> Mapping[str, float]:
        """The figures of a sample."""
        return self._figures[sample]

    def __iter__(self) -> Iterator[str]:
        return iter(self._figures)

    def compute(self) -> dict[str, Any]:
        """Every figure's mean in percent, ``by_<split>`` with the first figure's mean of each kind, and ``num_samples``.

        A figure that a sample lacks is not counted for it. Without samples there is only ``num_samples``.
        """
        columns: defaultdict[str, list[float]] = defaultdict(list)
        splits: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for sample, figures in self._figures.items():
            for name, value in figures.items():
                columns[name].append(value)
            main = next(iter(figures.values()))
            for split, kind in self._kinds[sample].items():
                splits[split][kind].append(main)
        result: dict[str, Any] = {name: percent(values) for name, values in columns.items()}
        for split in sorted(splits):
            result[f"by_{split}"] = {kind: percent(values) for kind, values in sorted(splits[split].items())}
        return result | {"num_samples": len(self)}


def percent(values: list[float]) -> float:
    """Mean of values in [0, 1], in percent; summed exactly, so order does not matter."""
    return 100 * math.fsum(values) / len(values)
