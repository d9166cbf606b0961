"""One config class for every job."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from setok.config.data import DataConfig, ScenesConfig, SourceConfig
from setok.config.loss import TokenizerLossConfig
from setok.config.model import ConceptConfig, DiscriminatorConfig, TokenizerConfig
from setok.config.section import Section
from setok.config.training import (
    CheckpointConfig,
    DeepSpeedConfig,
    LoggingConfig,
    OptimConfig,
    ScalingConfig,
    TrainSection,
)
from setok.errors import ConfigError, did_you_mean


class Job(Section):
    """What all jobs share."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run's folder; starting a run again under the same name resumes it."""
    output_dir: str = "runs"
    seed: int = Field(0, ge=0)

    @property
    def run_dir(self) -> Path:
        return Path(self.output_dir) / self.name


class IngestConfig(Job):
    """Sources in their official layouts → Parquet shards with a manifest."""

    job: Literal["ingest"] = "ingest"
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    output: str
    """A folder, or a prefix in an object store: ``s3://bucket/sets/coco``, ``gs://…``."""
    holdout_fraction: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of the records, chosen by a hash of their id, written to ``<output>-heldout`` for evaluation."""
    target_shard_mb: float = Field(256.0, gt=0.0, le=4096.0)
    """Size of a Parquet file, in MB. Shards of small sets are smaller, so that there is work for several processes."""
    rows_per_shard: int | None = Field(None, ge=1)
    """A fixed number of records for each file instead."""
    rows_per_row_group: int = Field(64, ge=1)
    duplicates: Literal["keep", "drop", "report"] = "keep"
    """Records with the same pictures and the same text: ``drop`` all but the first, ``report`` how many there are."""
    concepts: Literal["rules", "spacy"] = "rules"
    """What finds the noun phrases of captions: a rule of ours, or spaCy's parser (extra ``nlp``)."""
    concepts_model: str = "en_core_web_sm"
    """Of ``concepts: spacy``: an installed package, or the folder of a saved pipeline."""
    reencode_above_side: int | None = Field(None, ge=16)
    """Pictures with a longer side (pixels) are scaled down to it and stored as JPEG; ``null``: stored as they came."""
    reencode_above_bytes: int | None = Field(None, ge=1)
    """Larger files are stored as JPEG, if that is smaller."""
    jpeg_quality: int = Field(90, ge=1, le=100)
    """Of re-encoded pictures."""
    max_image_side: int = Field(16_384, ge=16)
    """A picture with a longer side goes to quarantine: decompression bombs end here."""
    max_bad_fraction: float = Field(0.5, ge=0.0, le=1.0)
    """Fail when a larger share of the records is bad: at the end, and early once 1000 have been seen."""


class TrainConfig(Job):
    """One training stage."""

    job: Literal["train"] = "train"
    stage: Literal["tokenizer"] = "tokenizer"
    model: TokenizerConfig = TokenizerConfig()
    concepts: ConceptConfig = ConceptConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    loss: TokenizerLossConfig = TokenizerLossConfig()
    data: DataConfig
    optim: OptimConfig = OptimConfig()
    train: TrainSection = TrainSection()
    scaling: ScalingConfig = ScalingConfig()
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()

    @property
    def num_ranks(self) -> int:
        return max(1, self.scaling.num_workers)

    @property
    def gradient_accumulation_steps(self) -> int:
        return self.train.global_batch_size // (self.num_ranks * self.train.micro_batch_size)

    @property
    def warmup_steps(self) -> int:
        return round(self.optim.warmup_fraction * self.train.steps)

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        total, micro, ranks = self.train.global_batch_size, self.train.micro_batch_size, self.num_ranks
        if total % (micro * ranks):
            near = max(1, round(total / (micro * ranks))) * micro * ranks
            raise ConfigError(
                f"train.global_batch_size={total} cannot be split into micro-batches of train.micro_batch_size={micro}"
                f" on {ranks} worker(s): {total} / ({micro} × {ranks}) = {total / (micro * ranks):.3g}",
                f"use a multiple of {micro * ranks}, for example --set train.global_batch_size={near}",
            )
        shards = self.scaling.num_workers > 0 and self.scaling.engine == "deepspeed" and self.deepspeed.zero_stage > 0
        if self.optim.kind == "muon" and shards:
            raise ConfigError(
                f"optim.kind=muon needs whole matrices, and deepspeed.zero_stage={self.deepspeed.zero_stage} cuts them up",
                "set deepspeed.zero_stage=0, or optim.kind=adamw",
            )
        if self.loss.distillation and self.optim.learning_rate_scale.get("encoder") == 0:
            raise ConfigError(
                f"loss.distillation={self.loss.distillation:g} keeps an encoder near what it was that is frozen anyway",
                "set loss.distillation=0, or optim.learning_rate_scale.encoder to a small factor such as 0.1",
            )
        if self.train.ema_decay and shards and self.deepspeed.zero_stage == 3:
            raise ConfigError(
                f"train.ema_decay={self.train.ema_decay:g} needs whole weights, and deepspeed.zero_stage=3 cuts them up",
                "set deepspeed.zero_stage=2, or train.ema_decay=0",
            )
        if self.loss.perceptual and self.model.image_size < 16:
            raise ConfigError(
                f"loss.perceptual={self.loss.perceptual:g} needs pictures of at least 16 pixels, and"
                f" model.image_size={self.model.image_size}",
                "set loss.perceptual=0, or raise model.image_size",
            )
        parts = {"encoder", "clustering", "merger", "detokenizer", "contrast"}
        for part in self.optim.learning_rate_scale:
            if part not in parts:
                raise ConfigError(
                    f"optim.learning_rate_scale names no part of the model: {part!r}", did_you_mean(part, parts)
                )
        return self


class EvaluateConfig(Job):
    """Metrics of a trained tokenizer on an ingested set."""

    job: Literal["evaluate"] = "evaluate"
    checkpoint: str
    """A run folder (its newest good checkpoint is taken) or one checkpoint folder."""
    data: str
    train_data: str | None = None
    """The set whose mean image is the reference; ``null``: the evaluated set's own."""
    limit: int | None = Field(None, ge=1)
    batch_size: int = Field(50, ge=1)
    num_replicas: int = Field(1, ge=1)
    use_gpu: bool = False
    weights: Literal["ema", "raw"] = "ema"
    """``ema``: the running average where the run kept one (``train.ema_decay``); ``raw``: where its last step landed."""
    sampling_steps: int | None = Field(None, ge=0)
    """Steps of a flow decoder: ``null`` takes those of its config, 0 shows the plain decoder's picture beneath it."""
    references: bool = True
    """Also measure what needs no training: mean image, grid pooling, clustering of raw colour."""
    num_pictures: int = Field(12, ge=0)


class PipelineConfig(Job):
    """From nothing to a report: scenes (if wanted), ingest, train, evaluate.

    ``${run}`` in any value stands for the folder of the run.
    """

    job: Literal["pipeline"] = "pipeline"
    title: str = "SeTok"
    """Headline of the report."""
    scenes: dict[str, ScenesConfig] = {}
    """Families to generate, each written to ``${run}/scenes/<key>/coco``."""
    ingest: tuple[IngestConfig, ...] = Field(min_length=1)
    tokenizer: TrainConfig
    evaluate: tuple[EvaluateConfig, ...] = Field(min_length=1)
    """The first one gives the headline figures."""


JOBS: dict[str, type[Job]] = {
    "ingest": IngestConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "pipeline": PipelineConfig,
}
