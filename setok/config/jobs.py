"""One config class for every job."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PrivateAttr, model_validator

from setok.config.data import DataConfig, ScenesConfig, SourceConfig
from setok.config.evaluation import EVALUATED_TASKS, EvaluateConfig
from setok.config.job import Job
from setok.config.loss import SetokimLossConfig, TokenizerLossConfig
from setok.config.model import ConceptConfig, DiscriminatorConfig, TokenizerConfig
from setok.config.section import Section
from setok.config.sequence import SequenceConfig
from setok.config.serving import (
    AccessConfig,
    BatchingConfig,
    IngressConfig,
    LimitsConfig,
    ReplicaConfig,
    ServeSection,
)
from setok.config.setokim import SetokimConfig
from setok.config.training import (
    CheckpointConfig,
    DeepSpeedConfig,
    LoggingConfig,
    OptimConfig,
    ScalingConfig,
    TrainSection,
    ValidationConfig,
)
from setok.errors import ConfigError, did_you_mean


class IngestConfig(Job):
    """Sources in their official layouts → Parquet shards with a manifest."""

    job: Literal["ingest"] = "ingest"
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    output: str
    """A folder, or a prefix in an object store: ``s3://bucket/sets/coco``, ``gs://…``."""
    holdout_fraction: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of the records, chosen by a hash of their (first) picture, written to ``<output>-heldout`` for evaluation."""
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
    stage: Literal["tokenizer", "pretrain", "instruct"] = "tokenizer"
    """``tokenizer`` trains SeTok; ``pretrain`` and ``instruct`` train Setokim around a SeTok that stays as it is."""
    model: TokenizerConfig = TokenizerConfig()
    """SeTok; for ``pretrain`` and ``instruct`` it must be the one of ``checkpoint.init_from``."""
    concepts: ConceptConfig = ConceptConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    loss: TokenizerLossConfig = TokenizerLossConfig()
    setokim: SetokimConfig | None = None
    """Of ``pretrain`` and ``instruct``, as are the next two."""
    setokim_loss: SetokimLossConfig = SetokimLossConfig()
    sequence: SequenceConfig = SequenceConfig()
    data: DataConfig
    optim: OptimConfig = OptimConfig()
    train: TrainSection = TrainSection()
    scaling: ScalingConfig = ScalingConfig()
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    validation: ValidationConfig | None = None
    logging: LoggingConfig = LoggingConfig()
    _workers: int | None = PrivateAttr(None)

    def with_workers(self, num_workers: int) -> TrainConfig:
        """The same run as so many workers see it, which an elastic run learns when they start.

        It is written to files like the run itself, with the range that was asked for.
        """
        resolved = self.model_copy()
        resolved._workers = num_workers
        return resolved

    def validates(self, step: int) -> bool:
        """Whether the checkpoint of a step is one that is evaluated."""
        if self.validation is None:
            return False
        return step % (self.checkpoint.every * self.validation.every) == 0 or step == self.train.steps

    @property
    def resources(self) -> dict[str, float]:
        """What the workers, as many as there may be, and the decoders take of a cluster, by kind."""
        scaling, data = self.scaling, self.data
        return {
            "CPU": scaling.max_workers * scaling.cpus_per_worker + data.decode_workers * data.decode_cpus,
            "GPU": float(scaling.max_workers if scaling.use_gpu else 0),
        }

    @property
    def num_ranks(self) -> int:
        """Ranks that share a global batch; of an elastic run only after ``with_workers``."""
        if self._workers is not None:
            return self._workers
        assert not self.scaling.is_elastic, "how many workers an elastic run has is known once they start: with_workers"
        return max(1, self.scaling.min_workers)

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of a global batch, over all ranks. The last one may have fewer samples, in an elastic run."""
        return -(-self.train.global_batch_size // self.train.micro_batch_size)

    @property
    def gradient_accumulation_steps(self) -> int:
        """Micro-batches of every rank in a step. Those that a global batch lacks for it consist of padding."""
        return -(-self.num_micro_batches // self.num_ranks)

    @property
    def warmup_steps(self) -> int:
        return round(self.optim.warmup_fraction * self.train.steps)

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        self._check_batch()
        shards = self.scaling.max_workers > 0 and self.scaling.engine == "deepspeed" and self.deepspeed.zero_stage > 0
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
        waits, commits = self.scaling.collective_timeout_s, self.checkpoint.commit_timeout
        if self.scaling.max_workers > 1 and commits >= waits:
            raise ConfigError(
                f"checkpoint.commit_timeout={commits:g} lets rank 0 wait for longer than the others wait for it"
                f" (scaling.collective_timeout_s={waits:g})",
                f"--set scaling.collective_timeout_s={2 * commits:g}, or lower checkpoint.commit_timeout",
            )
        self._check_stage()
        self._check_features()
        self._check_validation()
        parts = PARTS[self.stage == "tokenizer"]
        for part in self.optim.learning_rate_scale:
            if part not in parts:
                raise ConfigError(
                    f"optim.learning_rate_scale names no part of the model: {part!r}", did_you_mean(part, parts)
                )
        return self

    def _check_batch(self) -> None:
        """Refuse a global batch that the workers cannot share.

        With a fixed number of workers it has to come out even, since an odd number is most likely a mistake. Elastic runs
        must take what there is, and fill up with padding; but a worker without a single sample would be of no use.
        """
        total, micro = self.train.global_batch_size, self.train.micro_batch_size
        if self.scaling.is_elastic:
            most = self.scaling.max_workers
            if self.num_micro_batches < most:
                raise ConfigError(
                    f"train.global_batch_size={total} gives {self.num_micro_batches} micro-batches of"
                    f" train.micro_batch_size={micro}, too few for scaling.num_workers of up to {most}",
                    f"--set scaling.num_workers=[{min(self.scaling.min_workers, self.num_micro_batches)},"
                    f" {self.num_micro_batches}], or lower train.micro_batch_size",
                )
            return
        ranks = max(1, self.scaling.min_workers)
        if total % (micro * ranks):
            near = max(1, round(total / (micro * ranks))) * micro * ranks
            fewer = f", or at most --set scaling.num_workers={total // micro}" if 1 <= total // micro < ranks else ""
            raise ConfigError(
                f"train.global_batch_size={total} cannot be split into micro-batches of train.micro_batch_size={micro}"
                f" on {ranks} worker(s): {total} / ({micro} × {ranks}) = {total / (micro * ranks):.3g}",
                f"use a multiple of {micro * ranks}, for example --set train.global_batch_size={near}{fewer}",
            )

    def _check_validation(self) -> None:
        best = self.checkpoint.best_metric
        if self.validation is None:
            if self.checkpoint.keep_best and best.startswith("eval/"):
                raise ConfigError(
                    f"checkpoint.best_metric={best} is measured by the section validation, and that is empty",
                    "--set validation.data=FOLDER, or another metric such as train/loss",
                )
            return
        if self.validation.references is not None and self.stage == "tokenizer":
            raise ConfigError(
                f"validation.references={self.validation.references} is for what Setokim is asked, and stage=tokenizer",
                "leave validation.references out; python -m ray_jobs.evaluate measures those of a tokenizer",
            )
        allowed = () if self.stage == "tokenizer" else EVALUATED_TASKS
        for task in self.validation.tasks:
            if task not in allowed:
                raise ConfigError(
                    f"validation.tasks has {task!r}, which stage={self.stage} is not asked",
                    did_you_mean(task, allowed) if allowed else "leave validation.tasks out",
                )

    def _check_features(self) -> None:
        """Refuse to keep features that would not be the same in every step."""
        kept = self.data.features
        if kept is None:
            return
        said = f"data.features={kept} keeps what a frozen encoder makes of the pictures, and"
        if self.stage != "tokenizer":
            raise ConfigError(f"{said} stage={self.stage} reads packed rows", "--set data.features=null")
        if (scale := self.optim.learning_rate_scale.get("encoder")) != 0:
            trained = "is missing" if scale is None else f"is {scale:g}"
            raise ConfigError(
                f"{said} this one is trained: optim.learning_rate_scale.encoder {trained}",
                "--set optim.learning_rate_scale.encoder=0, or data.features=null",
            )
        if self.data.augment is not None:
            raise ConfigError(
                f"{said} data.augment shows another view of them every time",
                "--set data.augment=null, or data.features=null",
            )
        if "://" in kept:
            raise ConfigError(
                f"{said} they are read at random places, which {kept} is too slow for",
                "give a folder that all nodes see",
            )

    def _check_stage(self) -> None:
        """Refuse settings of another stage, so that a run never seems to depend on them."""
        others = _SETOKIM_SECTIONS if self.stage == "tokenizer" else _TOKENIZER_SECTIONS
        for key in others:
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ConfigError(
                    f"{key} has no part in stage={self.stage}",
                    f"leave the section {key} out, or set stage to"
                    + (" pretrain or instruct" if self.stage == "tokenizer" else " tokenizer"),
                )
        if self.stage == "tokenizer":
            return
        if self.setokim is None:
            raise ConfigError(
                f"stage={self.stage} needs the section setokim, and it is empty",
                "start from --config pretrain or instruct",
            )
        if self.checkpoint.init_from is None:
            before = "a tokenizer" if self.stage == "pretrain" else "a pretrain (or tokenizer)"
            raise ConfigError(
                f"stage={self.stage} starts from {before} run, and checkpoint.init_from is empty",
                "--set checkpoint.init_from=runs/NAME",
            )
        if self.model.resize == "fit":
            raise ConfigError(
                f"model.resize=fit has no part in stage={self.stage}, which crops pictures to their centre square",
                "set model.resize=crop; the weights of a tokenizer trained with fit are taken all the same",
            )
        self._check_setokim(self.setokim)

    def _check_setokim(self, setokim: SetokimConfig) -> None:
        model, sequence = setokim.language_model, self.sequence
        if setokim.text_tokenizer is None and model.path is None:
            raise ConfigError(
                "setokim.text_tokenizer is empty, and a new language model brings none",
                "set it to a folder with tokenizer.json (python -m setok.data.word_tokenizer makes a small one), or set"
                " setokim.language_model.path",
            )
        most = self.model.clustering.num_tokens
        if sequence.max_image_tokens < most:
            raise ConfigError(
                f"sequence.max_image_tokens={sequence.max_image_tokens} leaves no room for pictures of up to"
                f" model.clustering.max_tokens={most} tokens",
                f"--set sequence.max_image_tokens={most}",
            )
        if model.path is None and model.max_positions < sequence.max_length:
            raise ConfigError(
                f"sequence.max_length={sequence.max_length} is above setokim.language_model.max_positions={model.max_positions}",
                f"--set setokim.language_model.max_positions={sequence.max_length}",
            )
        if model.dtype == "bf16" and model.train == "full":
            raise ConfigError(
                "setokim.language_model.dtype=bf16 with train=full: in bf16 most updates are too small to change a weight",
                "set setokim.language_model.dtype=fp32 (train.precision=bf16 computes in bf16 all the same), or train=lora",
            )
        if self.optim.kind == "muon" and model.train != "full":
            raise ConfigError(
                f"optim.kind=muon is for whole matrices, and setokim.language_model.train={model.train}",
                "set optim.kind=adamw",
            )


_SETOKIM_SECTIONS = ("setokim", "setokim_loss", "sequence")
_TOKENIZER_SECTIONS = ("concepts", "discriminator", "loss")
PARTS = (
    ("language_model", "input_projector", "output_projector", "diffusion", "mask_projector", "mask_decoder"),
    ("encoder", "clustering", "merger", "detokenizer", "contrast"),
)
"""What ``optim.learning_rate_scale`` may name: parts of Setokim, parts of the tokenizer's stage."""


class WordsConfig(Section):
    """A text tokenizer of the words of ingested sets, for a language model from scratch."""

    sets: tuple[str, ...] = Field(min_length=1)
    """Ingested sets whose texts it is made of."""
    output: str
    """Its folder."""
    max_words: int = Field(8192, ge=1)


class PipelineConfig(Job):
    """From nothing to a report: scenes (if wanted), ingest, train all stages that are given, evaluate.

    ``${run}`` in any value stands for the folder of the run.
    """

    job: Literal["pipeline"] = "pipeline"
    title: str = "SeTok"
    """Headline of the report."""
    scenes: dict[str, ScenesConfig] = {}
    """Families to generate, each written to ``${run}/scenes/<key>/coco``."""
    ingest: tuple[IngestConfig, ...] = Field(min_length=1)
    tokenizer: TrainConfig
    words: WordsConfig | None = None
    pretrain: TrainConfig | None = None
    instruct: TrainConfig | None = None
    evaluate: tuple[EvaluateConfig, ...] = Field(min_length=1)
    """The first one gives the headline figures."""

    @model_validator(mode="after")
    def _check(self) -> PipelineConfig:
        for number, evaluation in enumerate(self.evaluate):
            if evaluation.beside:
                raise ConfigError(
                    f"evaluate.{number}.beside: an evaluation of a pipeline measures one checkpoint",
                    "leave it out, and name each checkpoint in an evaluation of its own",
                )
        return self


class ServeConfig(Job):
    """A trained model behind HTTP."""

    job: Literal["serve"] = "serve"
    checkpoint: str
    """An exported model, a run or a checkpoint: Setokim, or a tokenizer alone, which has no language."""
    model_name: str | None = None
    """What the API calls it; ``null``: the last part of ``checkpoint``."""
    server: ServeSection = ServeSection()
    replicas: ReplicaConfig = ReplicaConfig()
    ingress: IngressConfig = IngressConfig()
    batching: BatchingConfig = BatchingConfig()
    limits: LimitsConfig = LimitsConfig()
    access: AccessConfig = AccessConfig()

    @property
    def served_name(self) -> str:
        """What the API calls the model."""
        return self.model_name or Path(self.checkpoint.rstrip("/")).name

    @property
    def max_choices(self) -> int:
        """The most that ``n`` of a request may be: ``limits.max_choices``, or fewer where so many would never be taken at once.

        On Ray all of them wait in the ingress for a moment, and without Ray in the model's process, where they may run at once.
        """
        room = self.batching.max_waiting + (0 if self.replicas.max else self.batching.max_rows)
        return max(1, min(self.limits.max_choices, room))
