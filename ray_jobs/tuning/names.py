"""Metrics and settings as people call them, in tables and on pages."""

from __future__ import annotations

from collections.abc import Iterable

from setok.config import THEN

_NAMES = {
    "eval/psnr": "PSNR, dB",
    "eval/ari": "ARI, all patches",
    "eval/foreground_ari": "ARI, objects only",
    "eval/mbo": "mBO",
    "eval/miou": "mIoU",
    "eval/concept_hit_rate": "concepts found",
    "eval/mean_tokens": "tokens per image",
    "perf/train_seconds": "seconds of training",
    "perf/step_seconds": "seconds a step",
    "train/loss": "training loss",
    "train/sequence_tokens": "tokens read a step",
    "eval/vqa/accuracy": "right answers",
    "eval/vqa/blind": "right answers, gray picture",
    "eval/vqa/constant": "right answers, most frequent of the type",
    "eval/vqa/by_question": "right answers, most frequent to these words",
    "eval/caption/f1": "things named and there, F1",
    "eval/caption/recall": "things named",
    "eval/caption/precision": "things named that are there",
    "eval/caption/exact": "captions without a fault",
    "eval/segment/giou": "gIoU of masks",
    "eval/segment/ciou": "cIoU of masks",
    "eval/segment/references/constant/giou": "gIoU of one mask for all",
}
_BESIDE = {
    "eval/vqa/blind": ("eval/vqa/accuracy", "with a gray picture"),
    "eval/vqa/constant": ("eval/vqa/accuracy", "most frequent answer of the type"),
    "eval/vqa/by_question": ("eval/vqa/accuracy", "most frequent answer to these words"),
    "eval/segment/references/constant/giou": ("eval/segment/giou", "one mask for all"),
}
"""References: the figure that each stands beside, and what it is called there."""


NONE = "none"
"""What ``null`` is called, a value like any other."""


def value_name(value: object) -> str:
    """A setting's value in a table."""
    return NONE if value is None else str(value)


def beside(metric: str) -> tuple[str, str] | None:
    """The metric that one is a reference of, and what it is called beside it; ``None`` for a figure of its own."""
    own = metric.removeprefix(f"{THEN}/")
    if own not in _BESIDE:
        return None
    figure, name = _BESIDE[own]
    return metric.removesuffix(own) + figure, name


def setting_names(keys: Iterable[str]) -> dict[str, str]:
    """Dotted keys in words: their last parts, more where those are the same, and which stage if it is the second."""
    whole = {key: key.removeprefix(f"{THEN}.").split(".") for key in keys}
    named = {}
    for key, parts in whole.items():
        others = [other for other in whole.values() if other != parts]
        length = next(
            (n for n in range(1, len(parts)) if all(other[-n:] != parts[-n:] for other in others)), len(parts)
        )
        words = " ".join(parts[-length:]).replace("_", " ")
        named[key] = f"{words}, second stage" if key.startswith(f"{THEN}.") else words
    return named


def name_of(metric: str) -> str:
    """A metric as people call it; one of a second stage that the first one has too says which it is."""
    own = metric.removeprefix(f"{THEN}/")
    name = _NAMES.get(own, own)
    if own == metric:
        return name
    return f"{name}, second stage" if own.startswith(("perf/", "train/")) else name
