"""The one list of tasks: how each is scored from files in its official format, and how it is run on an ingested set.

Most tasks can do both, and then are scored by the same code: what an evaluation writes and what anyone wrote give the same
figures. Some are only scored, because no reader of ours ingests their set, or what they ask cannot be asked; some only run,
because nobody but us has them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from ray_jobs.scoring import captions, choices, classes, gqa, masks, open_questions, panoptic, pictures, yes_no
from ray_jobs.scoring.files import Given
from ray_jobs.scoring.samples import Sample, Write
from setok.data.schema import Record
from setok.errors import ConfigError, did_you_mean
from setok.predictor.exercises import tasks_of

Asks = Literal["tokens", "vqa", "direct", "caption", "segment", "generate", "edit"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a task is run."""

    asks: tuple[Asks, ...]
    """What every record is asked: to be tokenized and painted back (of a tokenizer; all the others are of Setokim), its
    question, its question without its choices, …"""
    sources: tuple[str, ...] = ()
    """Readers (``kind`` of an ingest) whose records it takes; empty for all that can be asked."""
    write: Write | None = None
    """Writes the official format; ``None`` for a task that has none: its figures come from single samples."""
    needs: tuple[str, ...] = ()
    """Settings below ``networks`` without which it gives no figure."""
    part: Callable[[Sample], str] | None = None
    """Tells samples of different official files apart, which are scored each for itself."""

    @property
    def stage(self) -> str:
        """Whose checkpoint it takes, in words."""
        return "a tokenizer" if self.asks == ("tokens",) else "Setokim (pretrain or instruct)"

    def of_stage(self, stage: str) -> bool:
        """Whether it takes a checkpoint of this stage."""
        return (stage == "tokenizer") == (self.asks == ("tokens",))

    def takes(self, record: Record) -> bool:
        """Whether it has something to ask about a record."""
        if self.sources and record.source not in self.sources:
            return False
        if self.asks == ("tokens",):
            return True
        return self.asks[0] in tasks_of(record)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A benchmark, several with one format, or a task of ours."""

    predictions: str = ""
    """The official format of a submission."""
    annotations: str = ""
    score: Callable[[Given], dict[str, Any]] | None = None
    """``None`` for a task that has no official format."""
    headline: tuple[str, ...]
    """The figures that a paper prints first."""
    scorer: str
    """Whose definition the figures follow."""
    options: frozenset[str] = frozenset()
    needs_annotations: bool = True
    run: Run | None = None
    """``None`` for a task that can only be scored."""


def _vqa(source: str) -> Task:
    return Task(
        predictions=open_questions.VQA,
        annotations="annotations.json of the official evaluation; --questions narrows it to the questions of a file",
        score=open_questions.score_vqa,
        headline=("accuracy",),
        scorer="official VQA evaluation (GT-Vision-Lab), percent",
        options=frozenset({"questions"}),
        run=Run(asks=("vqa",), sources=(source,), write=open_questions.write_vqa),
    )


def _captions(*sources: str) -> Task:
    return Task(
        predictions=captions.CAPTIONS,
        annotations="captions_*.json of COCO",
        score=captions.score_captions,
        headline=("bleu_4", "rouge_l", "cider", "meteor"),
        scorer="COCO caption evaluation; CIDEr is CIDEr-D",
        options=frozenset({"meteor"}),
        run=Run(asks=("caption",), sources=sources, write=captions.write_captions) if sources else None,
    )


def _referring(*sources: str) -> Task:
    return Task(
        predictions=masks.MASKS,
        annotations="REFER's folder of the data set, with --split; or JSON lines like the predictions",
        score=masks.score_referring,
        headline=("ciou", "giou", "miou", "precision@0.5"),
        scorer="cIoU, mIoU and P@k of LAVT, gIoU of LISA, percent",
        options=frozenset({"split"}),
        run=Run(asks=("segment",), sources=sources, write=masks.write_referring) if sources else None,
    )


def _category(sample: Sample) -> str:
    return sample.fact.get("category", "all")


OWN: dict[str, Task] = {
    "tokens": Task(
        headline=("psnr", "ssim", "foreground_ari", "ari", "mbo", "miou", "mean_tokens", "tokens_objects_correlation"),
        scorer="of every picture: what its tokens keep, how they group it, how many they are; beside what learns nothing",
        run=Run(asks=("tokens",)),
    ),
    "vqa": Task(
        headline=("accuracy",),
        scorer="share of right answers, both sides normalised as TextVQA does; any set of questions",
        run=Run(asks=("vqa",)),
    ),
    "caption": Task(
        headline=("f1", "recall", "precision", "exact"),
        scorer="share of the things of the true caption that are named, and named rightly; any set of captions",
        run=Run(asks=("caption",)),
    ),
    "segment": Task(
        headline=("giou", "ciou"),
        scorer="gIoU and cIoU at the model's size; any set of regions",
        run=Run(asks=("segment",)),
    ),
    "generate": Task(
        headline=("psnr", "l1"),
        scorer="a picture drawn from a caption beside the one it is of; any set of captions",
        run=Run(asks=("generate",)),
    ),
    "edit": Task(
        headline=("psnr", "l1"),
        scorer="a picture after an instruction beside the true one; any set of edits",
        run=Run(asks=("edit",)),
    ),
}
"""Those without official format: what is measured where nothing is named."""

TASKS: dict[str, Task] = OWN | {
    "vqav2": _vqa("vqav2"),
    "okvqa": _vqa("okvqa"),
    "vizwiz": Task(
        predictions=open_questions.VIZWIZ,
        annotations="val.json of the official evaluation",
        score=open_questions.score_vizwiz,
        headline=("accuracy",),
        scorer="official VQA evaluation, percent",
        run=Run(asks=("vqa",), sources=("vizwiz",), write=open_questions.write_vizwiz),
    ),
    "textvqa": Task(
        predictions=open_questions.VQA,
        annotations="TextVQA_0.5.1_val.json",
        score=open_questions.score_textvqa,
        headline=("accuracy",),
        scorer="TextVQA's evaluator (MMF), percent",
        run=Run(asks=("vqa",), sources=("textvqa",), write=open_questions.write_textvqa),
    ),
    "aokvqa": Task(
        predictions=choices.AOKVQA,
        annotations="aokvqa_v1p0_val.json",
        score=choices.score_aokvqa,
        headline=("multiple_choice", "direct_answer"),
        scorer="official A-OKVQA evaluation, percent",
        run=Run(asks=("vqa", "direct"), sources=("aokvqa",), write=choices.write_aokvqa),
    ),
    "gqa": Task(
        predictions=gqa.GQA,
        annotations="testdev_balanced_questions.json, or *_all_questions.json for consistency; --choices for validity",
        score=gqa.score_gqa,
        headline=("accuracy", "consistency", "validity", "plausibility", "distribution"),
        scorer="official GQA evaluation (exact match), percent; containment is not official",
        options=frozenset({"choices"}),
        run=Run(asks=("vqa",), sources=("gqa",), write=gqa.write_gqa),
    ),
    "pope": Task(
        predictions=yes_no.POPE,
        annotations="coco_pope_{random,popular,adversarial}.json",
        score=yes_no.score_pope,
        headline=("accuracy", "precision", "recall", "f1", "yes_ratio"),
        scorer="official POPE evaluate.py (other harnesses read answers otherwise)",
        run=Run(asks=("vqa",), sources=("pope",), write=yes_no.write_pope, part=_category),
    ),
    "mme": Task(
        predictions=yes_no.MME,
        annotations="optional: the same folder without answers, to check that all questions are there",
        score=yes_no.score_mme,
        headline=("perception", "cognition"),
        scorer="official MME calculation.py",
        needs_annotations=False,
        run=Run(asks=("vqa",), sources=("mme",), write=yes_no.write_mme),
    ),
    "scienceqa": Task(
        predictions=choices.SCIENCEQA,
        annotations="problems.json, with --split (default test)",
        score=choices.score_scienceqa,
        headline=("accuracy",),
        scorer="official ScienceQA evaluation, percent",
        options=frozenset({"split"}),
        run=Run(asks=("vqa",), sources=("scienceqa",), write=choices.write_scienceqa),
    ),
    "classification": Task(
        predictions=classes.CLASSES,
        annotations=classes.CLASSES,
        score=classes.score_classes,
        headline=("top1",),
        scorer="share of right labels, percent",
    ),
    "coco_caption": _captions("coco"),
    "textcaps": _captions("textcaps"),
    "nocaps": _captions(),
    "flickr30k": _captions(),
    "refcoco": _referring("refcoco"),
    "refcoco+": _referring("refcoco+"),
    "refcocog": _referring("refcocog"),
    "grefcoco": _referring(),
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
        run=Run(asks=("tokens",), write=pictures.write_pictures),
    ),
    "editing": Task(
        predictions=pictures.PICTURES,
        annotations="the wanted pictures, likewise",
        score=pictures.score_editing,
        headline=("l1", "l2", "clip_i", "dino"),
        scorer="MagicBrush's figures; L2 is the mean square",
        options=frozenset({"clip", "dino"}),
        run=Run(asks=("edit",), write=pictures.write_pictures),
    ),
    "fid": Task(
        predictions=pictures.STATISTICS,
        annotations="the other set, likewise",
        score=pictures.score_frechet,
        headline=("fid",),
        scorer="Fréchet distance of Gaussians (Heusel 2017); when run: pictures drawn from captions and the true ones",
        options=frozenset({"inception", "variant"}),
        run=Run(asks=("generate",), write=pictures.write_pictures, needs=("inception",)),
    ),
}
SCORED = {name: task for name, task in TASKS.items() if task.score is not None}
RUN = {name: task for name, task in TASKS.items() if task.run is not None}

GROUPS: dict[str, tuple[str, ...]] = {
    "all": tuple(RUN),
    "own": tuple(OWN),
    "benchmarks": tuple(name for name in RUN if name not in OWN),
    "questions": tuple(name for name, task in RUN.items() if task.run and task.run.asks[0] == "vqa"),
    "captions": tuple(name for name, task in RUN.items() if task.run and task.run.asks[0] == "caption"),
    "segmentation": tuple(name for name, task in RUN.items() if task.run and task.run.asks[0] == "segment"),
    "pictures": ("reconstruction", "generate", "edit", "editing", "fid"),
}
"""Of a group those tasks are run that the checkpoint and the set allow."""


def scored(name: str) -> Task:
    """The task that is scored under a name.

    Raises:
        ConfigError: there is none, or it has no official format.
    """
    if name in TASKS and name not in SCORED:
        raise ConfigError(
            f"task {name!r} has no official format", f"it is measured by `python -m ray_jobs.evaluate --tasks {name} …`"
        )
    if name not in SCORED:
        raise ConfigError(f"task {name!r} is unknown", did_you_mean(name, SCORED))
    return SCORED[name]


def expanded(names: Collection[str]) -> tuple[dict[str, Task], list[str]]:
    """The tasks of names and groups in the order of the list, and what is wrong with the names."""
    wanted: set[str] = set()
    problems = []
    for name in names:
        if name in GROUPS:
            wanted |= set(GROUPS[name])
        elif name in RUN:
            wanted.add(name)
        elif name in TASKS:
            problems.append(f"task {name!r} can only be scored: `python -m ray_jobs.evaluate score --task {name} …`")
        else:
            problems.append(f"task {name!r} is unknown: {did_you_mean(name, [*RUN, *GROUPS])}")
    return {name: task for name, task in RUN.items() if name in wanted}, problems
