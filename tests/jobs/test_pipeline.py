"""From nothing to the report, on tiny generated scenes and on real photographs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ray_jobs.pipeline import run_pipeline
from setok.config import PipelineConfig, load_config

TINY_MODEL = (
    "tokenizer.model.encoder.width=24",
    "tokenizer.model.detokenizer.width=24",
    "tokenizer.train.threads_per_worker=1",
    "tokenizer.train.log_every=5",
)


@pytest.mark.timeout(1800)  # three training runs and six evaluations
def test_demo_in_small(ray_local: None, tmp_path: Path) -> None:
    small = [f"scenes.{family}.{split}=40" for family in ("plain", "hard") for split in ("train", "test")]
    steps = [f"{stage}.train.steps={number}" for stage, number in (("tokenizer", 10), ("pretrain", 4), ("instruct", 4))]
    language = [
        setting.format(stage=stage)
        for stage in ("pretrain", "instruct")
        for setting in (
            "{stage}.model.encoder.width=24",
            "{stage}.model.detokenizer.width=24",
            "{stage}.setokim.language_model.width=48",
            "{stage}.setokim.language_model.depth=1",
            "{stage}.setokim.diffusion.width=32",
            "{stage}.setokim.diffusion.depth=1",
            "{stage}.setokim.diffusion.sampling_steps=2",
            "{stage}.setokim.mask_decoder.width=16",
            "{stage}.train.log_every=2",
        )
    ]
    limits = [f"ingest.{number}.sources.0.limit=30" for number in (5, 7)]
    overrides = [f"output_dir={tmp_path}", *steps, *small, *TINY_MODEL, *language, *limits]
    config = load_config(PipelineConfig, "demo", overrides)
    report = run_pipeline(config)
    whole = json.loads((tmp_path / "demo" / "metrics.json").read_text())
    metrics, instruct = whole["tokenizer"], whole["instruct"]
    assert whole["pretrain"]["steps"] == instruct["steps"] == 4
    assert instruct["evaluations"].keys() == {"questions", "captions", "regions", "edits"}
    for task, names in {
        "vqa": ("accuracy", "blind", "constant", "by_question"),
        "caption": ("precision", "exact"),
        "segment": ("giou", "ciou"),
        "generate": ("psnr", "l1", "tokens"),
        "edit": ("psnr", "l1", "tokens"),
    }.items():
        for name in names:
            assert math.isfinite(instruct[task][name]), (task, name)
    assert whole["pretrain"]["evaluations"].keys() == {"after-pretrain"}
    assert math.isfinite(whole["pretrain"]["generate"]["psnr"])
    assert instruct["segment"]["references"].keys() == {"constant", "largest_cluster", "second_cluster"}
    assert instruct["edit"]["references"].keys() == {"mean_image", "tokenizer", "unchanged"}
    assert instruct["vqa"]["num"] == 30
    assert instruct["vqa"]["by_type"].keys() >= {"how many", "is there a"}
    for name in (
        "psnr",
        "psnr_gain_over_mean_image",
        "foreground_ari",
        "ari",
        "mean_tokens",
        "tokens_objects_correlation",
        "train_seconds",
    ):
        assert math.isfinite(metrics[name]), name
    assert metrics["steps"] == 10
    assert metrics["samples"] == 160
    assert metrics["num_workers"] == 2
    assert metrics["evaluations"].keys() == {"plain", "hard"}
    page = report.read_text()
    assert "<html" in page
    assert "hard" in page
    marks = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo" / "data").rglob("*.parquet")}
    assert len(marks) == 10
    run_pipeline(config)  # again: everything is there, and stays
    assert {path: path.stat().st_mtime_ns for path in marks} == marks


def test_real_photographs(ray_local: None, tmp_path: Path, realdata: Path) -> None:
    """COCO and ImageNet in their official layouts through ingest, 50 steps on two workers, evaluation and report."""
    sources = (
        f"[{{kind: coco, path: {realdata / 'coco'}, split: train}}, {{kind: coco, path: {realdata / 'coco'}, split: val}},"
        f" {{kind: imagenet, path: {realdata / 'imagenet'}}}]"
    )
    overrides = [
        f"output_dir={tmp_path}",
        f"ingest.0.sources={sources}",
        "ingest.0.holdout_fraction=0.2",
        "tokenizer.train.steps=50",
        *TINY_MODEL,
    ]
    config = load_config(PipelineConfig, "photos", overrides)
    report = run_pipeline(config)
    tokenizer = json.loads((tmp_path / "photos" / "metrics.json").read_text())["tokenizer"]
    ingested = sum(
        json.loads((tmp_path / "photos" / folder / "manifest.json").read_text())["records_by_source"][source]
        for folder in ("data", "data-heldout")
        for source in ("coco", "imagenet")
    )
    assert ingested == 20 + 29 + 15
    assert tokenizer["steps"] == 50
    assert tokenizer["psnr"] > tokenizer["references"]["mean_image"]["psnr"] - 3
    assert report.stat().st_size > 50_000


def test_a_pipeline_names_the_missing_folder(tmp_path: Path) -> None:
    from setok.errors import DataError

    missing = tmp_path / "nowhere"
    config = load_config(PipelineConfig, "photos", [f"output_dir={tmp_path}", f"ingest.0.sources.0.path={missing}"])
    with pytest.raises(DataError, match="nowhere"):
        run_pipeline(config)
