"""The tasks that can be scored: what each reads, which options it takes, and what scores it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray_jobs.scoring import answers, captions, masks, panoptic, pictures
from ray_jobs.scoring.files import Given


@dataclass(frozen=True, kw_only=True)
class Task:
    """A benchmark, or several with one format."""

    predictions: str
    """The official format of a submission."""
    annotations: str
    score: Callable[[Given], dict[str, Any]]
    headline: tuple[str, ...]
    """The figures that a paper prints first."""
    scorer: str
    """Whose definition the figures follow."""
    options: frozenset[str] = frozenset()
    needs_annotations: bool = True


_VQA = Task(
    predictions=answers.VQA,
    annotations="annotations.json of the official evaluation; --questions narrows it to the questions of a file",
    score=answers.score_vqa,
    headline=("accuracy",),
    scorer="official VQA evaluation (GT-Vision-Lab), percent",
    options=frozenset({"questions"}),
)
_CAPTIONS = Task(
    predictions=captions.CAPTIONS,
    annotations="captions_*.json of COCO",
    score=captions.score_captions,
    headline=("bleu_4", "rouge_l", "cider", "meteor"),
    scorer="COCO caption evaluation; CIDEr is CIDEr-D",
    options=frozenset({"meteor"}),
)
_REFERRING = Task(
    predictions=masks.MASKS,
    annotations="REFER's folder of the data set, with --split; or JSON lines like the predictions",
    score=masks.score_referring,
    headline=("ciou", "giou", "miou", "precision@0.5"),
    scorer="cIoU, mIoU and P@k of LAVT, gIoU of LISA, percent",
    options=frozenset({"split"}),
)

TASKS: dict[str, Task] = {
    "vqav2": _VQA,
    "okvqa": _VQA,
    "vizwiz": Task(
        predictions=answers.VIZWIZ,
        annotations="val.json of the official evaluation",
        score=answers.score_vizwiz,
        headline=("accuracy",),
        scorer="official VQA evaluation, percent",
    ),
    "textvqa": Task(
        predictions=answers.VQA,
        annotations="TextVQA_0.5.1_val.json",
        score=answers.score_textvqa,
        headline=("accuracy",),
        scorer="TextVQA's evaluator (MMF), percent",
    ),
    "aokvqa": Task(
        predictions=answers.AOKVQA,
        annotations="aokvqa_v1p0_val.json",
        score=answers.score_aokvqa,
        headline=("multiple_choice", "direct_answer"),
        scorer="official A-OKVQA evaluation, percent",
    ),
    "gqa": Task(
        predictions=answers.GQA,
        annotations="testdev_balanced_questions.json, or *_all_questions.json for consistency; --choices for validity",
        score=answers.score_gqa,
        headline=("accuracy", "consistency", "validity", "plausibility", "distribution"),
        scorer="official GQA evaluation (exact match), percent; containment is not official",
        options=frozenset({"choices"}),
    ),
    "pope": Task(
        predictions=answers.POPE,
        annotations="coco_pope_{random,popular,adversarial}.json",
        score=answers.score_pope,
        headline=("accuracy", "precision", "recall", "f1", "yes_ratio"),
        scorer="official POPE evaluate.py (other harnesses read answers otherwise)",
    ),
    "mme": Task(
        predictions=answers.MME,
        annotations="optional: the same folder without answers, to check that all questions are there",
        score=answers.score_mme,
        headline=("perception", "cognition"),
        scorer="official MME calculation.py",
        needs_annotations=False,
    ),
    "scienceqa": Task(
        predictions=answers.SCIENCEQA,
        annotations="problems.json, with --split (default test)",
        score=answers.score_scienceqa,
        headline=("accuracy",),
        scorer="official ScienceQA evaluation, percent",
        options=frozenset({"split"}),
    ),
    "classification": Task(
        predictions=answers.CLASSES,
        annotations=answers.CLASSES,
        score=answers.score_classes,
        headline=("top1",),
        scorer="share of right labels, percent",
    ),
    "coco_caption": _CAPTIONS,
    "nocaps": _CAPTIONS,
    "flickr30k": _CAPTIONS,
    "refcoco": _REFERRING,
    "refcoco+": _REFERRING,
    "refcocog": _REFERRING,
    "grefcoco": _REFERRING,
    "panoptic": Task(
        predictions=panoptic.PANOPTIC,
        annotations="panoptic_*.json of COCO, beside its folder of PNGs",
        score=panoptic.score_panoptic,
        headline=("pq", "sq", "rq"),
        scorer="official COCO panoptic evaluation (panopticapi), percent",
    ),
    "reconstruction": Task(
        predictions=pictures.PICTURES,
        annotations="the true pictures, likewise",
        score=pictures.score_reconstruction,
        headline=("psnr", "ssim", "lpips", "rfid"),
        scorer="PSNR in dB; SSIM of Wang 2004 without the border; LPIPS on VGG16",
        options=frozenset({"lpips", "inception", "variant"}),
    ),
    "editing": Task(
        predictions=pictures.PICTURES,
        annotations="the wanted pictures, likewise",
        score=pictures.score_editing,
        headline=("l1", "l2", "clip_i", "dino"),
        scorer="MagicBrush's figures; L2 is the mean square",
        options=frozenset({"clip", "dino"}),
    ),
    "fid": Task(
        predictions=pictures.STATISTICS,
        annotations="the other set, likewise",
        score=pictures.score_frechet,
        headline=("fid",),
        scorer="Fréchet distance of Gaussians (Heusel 2017)",
        options=frozenset({"inception", "variant"}),
    ),
}
