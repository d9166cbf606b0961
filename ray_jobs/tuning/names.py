"""Metrics as people call them, in tables and on pages."""

from __future__ import annotations

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


def name_of(metric: str) -> str:
    """A metric as people call it; one of a second stage that the first one has too says which it is."""
    own = metric.removeprefix(f"{THEN}/")
    name = _NAMES.get(own, own)
    if own == metric:
        return name
    return f"{name}, second stage" if own.startswith(("perf/", "train/")) else name
