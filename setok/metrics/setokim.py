"""From answers to figures: one row for every thing asked, and the set's figures with what needs no understanding beside them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from setok.metrics.referring import overlap

Row = Mapping[str, Any]
"""What was asked and how well it was answered: ``index``, ``task``, and figures by name (``None``, NaN or missing: does not
apply)."""


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """The figures of a set, by task.

    Args:
        rows: of ``vqa``: ``accuracy``, ``constant``, ``by_question``, ``blind`` and ``kind``, a question whose answer nobody
            knows having only the last; of ``caption``: ``f1``, ``recall``, ``precision``, ``exact``; of ``segment``: pairs
            (intersection, union) as ``overlap``, and of what needs no words as ``overlap_<name>``; of ``generate`` and
            ``edit``: ``psnr``, ``l1``, ``tokens``, and of references ``psnr_<name>``, ``l1_<name>``.
    """
    result: dict[str, Any] = {}
    for task, figures in _FIGURES.items():
        own = [row for row in rows if row["task"] == task]
        if own:
            result[task] = {"num": len(own), **figures(own)}
    return result


def _mean(rows: Sequence[Row], name: str) -> float | None:
    values = [float(row[name]) for row in rows if row.get(name) is not None and not math.isnan(row[name])]
    return math.fsum(values) / len(values) if values else None


def _vqa(rows: Sequence[Row]) -> dict[str, Any]:
    kinds: defaultdict[str, list[Row]] = defaultdict(list)
    answered = [row for row in rows if "accuracy" in row]
    for row in answered:
        kinds[str(row["kind"])].append(row)
    known = [n for n in ("accuracy", "constant", "by_question", "blind") if any(n in row for row in answered)]
    figures: dict[str, Any] = {name: _mean(answered, name) for name in known}
    figures["by_type"] = {
        kind: {name: _mean(kinds[kind], name) for name in known} | {"num": len(kinds[kind])} for kind in sorted(kinds)
    }
    unanswered = len(rows) - len(answered)
    return figures | ({"num": len(answered), "num_unanswered": unanswered} if unanswered else {})


def _caption(rows: Sequence[Row]) -> dict[str, Any]:
    return {name: _mean(rows, name) for name in ("f1", "recall", "precision", "exact")}


def _segment(rows: Sequence[Row]) -> dict[str, Any]:
    references = sorted({name for row in rows for name in row if name.startswith("overlap_")})
    return overlap(_pairs(rows, "overlap")) | {
        "references": {name.removeprefix("overlap_"): overlap(_pairs(rows, name)) for name in references}
    }


def _pairs(rows: Sequence[Row], name: str) -> list[tuple[int, int]]:
    """Intersection and union of every row; JSON has made lists of them."""
    return [(int(row[name][0]), int(row[name][1])) for row in rows]


def _drawn(rows: Sequence[Row]) -> dict[str, Any]:
    references = sorted({name.removeprefix("psnr_") for row in rows for name in row if name.startswith("psnr_")})
    return {name: _mean(rows, name) for name in ("psnr", "l1", "tokens")} | {
        "references": {
            name: {figure: _mean(rows, f"{figure}_{name}") for figure in ("psnr", "l1")} for name in references
        }
    }


_FIGURES: dict[str, Callable[[Sequence[Row]], dict[str, Any]]] = {
    "vqa": _vqa,
    "caption": _caption,
    "segment": _segment,
    "generate": _drawn,
    "edit": _drawn,
}
