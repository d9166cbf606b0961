"""Every setting of every job: frozen, typed, and strict.

A job is described by one YAML file, a *preset* that ships with the package or a file of the user's. ``load_config`` reads it,
applies ``extends`` (a mapping that names another preset starts from that one), then dotted overrides, and checks it all:
an unknown key is an error that names the closest known one. Nothing here imports torch, so a head node without a GPU
validates a run in a second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from setok.errors import ConfigError, did_you_mean


class Section(BaseModel):
    """Base of all sections: immutable, and without room for unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )


# ---------------------------------------------------------------- the model


class EncoderConfig(Section):
    """The vision encoder: pixels to patch features."""

    kind: Literal["vit", "huggingface", "timm"] = "vit"
    """``vit`` is trained from scratch; ``huggingface`` loads a vision tower of transformers (SigLIP, SigLIP2, CLIP,
    DINOv2, DINOv3), ``timm`` a vision transformer of timm."""
    path: str | None = None
    """Local folder or hub id of the tower (``huggingface``), local folder or model name (``timm``)."""
    layer: int = -1
    """Which hidden layer gives the features: 0 is the embedding, -1 the last one (normalised), -2 the one before it."""
    patch_size: int = Field(4, ge=1)
    width: int = Field(96, ge=8)
    depth: int = Field(1, ge=0)
    num_heads: int = Field(3, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> EncoderConfig:
        if self.kind != "vit" and not self.path:
            raise ConfigError(
                f"encoder.kind={self.kind} needs encoder.path, and it is empty",
                "set it to a local folder with config.json and weights, or to a hub id"
                + (" or model name of timm" if self.kind == "timm" else ""),
            )
        if self.kind == "vit" and self.width % self.num_heads:
            raise ConfigError(
                f"encoder.width={self.width} is not a multiple of encoder.num_heads={self.num_heads}",
                f"use a width such as {self.num_heads * math.ceil(self.width / self.num_heads)}",
            )
        return self


class ClusteringConfig(Section):
    """How patches are grouped into tokens; see setok/models/clustering.

    A threshold or number that the method does not use is an error, so that a run never seems to depend on it.
    """

    method: Literal["stick_breaking", "dpc_knn", "cosine_graph", "grid", "kmeans", "resampler"] = "stick_breaking"
    """The first three let the picture decide the number of tokens; the others always make ``num_tokens``."""
    assignment: Literal["soft", "hard"] = "soft"
    """``soft``: a token is the mask-weighted mean of its patches; ``hard``: the mean of the patches it wins."""
    feature_dim: int | None = Field(None, ge=2)
    """Width of a learned projection that is clustered in place of the encoder's features; ``null`` clusters those."""
    num_neighbors: int = Field(6, ge=1)
    """``stick_breaking``, ``dpc_knn``, ``kmeans``: neighbours in the local density."""
    score_threshold: float = Field(0.2, ge=0.0)
    """``dpc_knn``: patches whose score exceeds this become centres."""
    relative_threshold: bool = True
    """``dpc_knn``: read ``score_threshold`` as a share of the image's best score."""
    similarity_threshold: float = Field(0.7, ge=-1.0, lt=1.0)
    """``cosine_graph``: θ, patches of a higher cosine similarity are linked."""
    num_clusters: int | None = Field(None, ge=1)
    """``dpc_knn``: take exactly this many best-scored centres and ignore the threshold; ``grid``, ``kmeans``,
    ``resampler``: number of tokens, ``null`` for ``max_tokens``."""
    num_iterations: int = Field(10, ge=0)
    """``kmeans``: how often the centres are recomputed."""
    sharpness: float | None = Field(None, gt=0.0)
    """``stick_breaking``: c of φ(u,v)=exp(−‖u−v‖²·c·ln 2); ``null`` means ``max_tokens``, as GENESIS-V2 does."""
    stop_mass: float = Field(2.0, ge=0.0)
    """``stick_breaking``: stop when a new mask covers less than this many patches."""
    stop_scope: float = Field(0.03, ge=0.0, lt=1.0)
    """``stick_breaking``: stop when less than this share of the image is left unexplained."""
    min_tokens: int = Field(1, ge=1)
    max_tokens: int = Field(12, ge=1)

    @property
    def num_tokens(self) -> int:
        """Tokens of every image, for methods that make a fixed number; otherwise the most there can be."""
        return self.num_clusters or self.max_tokens

    @model_validator(mode="after")
    def _consistent(self) -> ClusteringConfig:
        if self.min_tokens > self.max_tokens:
            raise ConfigError(
                f"clustering.min_tokens={self.min_tokens} is above clustering.max_tokens={self.max_tokens}",
                "lower the first or raise the second",
            )
        if self.num_clusters is not None and self.num_clusters > self.max_tokens:
            raise ConfigError(
                f"clustering.num_clusters={self.num_clusters} is above clustering.max_tokens={self.max_tokens}",
                f"set clustering.max_tokens={self.num_clusters}",
            )
        if self.num_clusters is not None and self.num_clusters < self.min_tokens:
            raise ConfigError(
                f"clustering.num_clusters={self.num_clusters} is below clustering.min_tokens={self.min_tokens}",
                f"set clustering.min_tokens={self.num_clusters}",
            )
        for key, methods in _CLUSTERING_KNOBS.items():
            value, default = getattr(self, key), type(self).model_fields[key].default
            if value != default and self.method not in methods:
                raise ConfigError(
                    f"clustering.{key}={value} has no part in clustering.method={self.method}",
                    f"set clustering.{key}={'null' if default is None else default} or leave it out;"
                    f" it belongs to {', '.join(methods)}",
                )
        return self


_CLUSTERING_KNOBS = {
    "num_neighbors": ("stick_breaking", "dpc_knn", "kmeans"),
    "score_threshold": ("dpc_knn",),
    "relative_threshold": ("dpc_knn",),
    "similarity_threshold": ("cosine_graph",),
    "num_clusters": ("dpc_knn", "grid", "kmeans", "resampler"),
    "num_iterations": ("kmeans",),
}
"""Which methods use a setting. Those that presets tune for ``stick_breaking`` are not here: ``--set
model.clustering.method=kmeans`` must work on any preset, so that tokenizers can be swapped and compared."""


class MergerConfig(Section):
    """The token merger: attention inside clusters, average, attention between clusters."""

    intra_layers: int = Field(1, ge=0)
    inter_layers: int = Field(1, ge=0)
    num_heads: int = Field(3, ge=1)
    mlp_ratio: float = Field(3.0, gt=0.0)
    position: bool = True
    """Add 2-D positions to the patches before merging."""


class FlowConfig(Section):
    """The flow decoder: carries the pixel decoder's picture to one that is as sharp as real ones (setok/models/flow.py)."""

    depth: int = Field(2, ge=1)
    patch_size: int = Field(4, ge=1)
    """Side of the squares that it works on; their pixels must fit into ``detokenizer.width`` channels."""
    noise: float = Field(0.2, gt=0.0)
    """Deviation of the noise on the pixel decoder's picture, where black to white is 2."""
    sampling_steps: int = Field(8, ge=1)
    """Euler steps at inference; can be changed there."""


class DetokenizerConfig(Section):
    """Tokens to pixels: learnable mask tokens query the semantic tokens."""

    kind: Literal["pixels", "flow"] = "pixels"
    """``flow`` refines the plain decoder's picture with a rectified flow: sharper from few tokens, and slower."""
    flow: FlowConfig = FlowConfig()
    """Used with ``kind: flow``."""
    width: int = Field(96, ge=8)
    depth: int = Field(2, ge=1)
    num_heads: int = Field(3, ge=1)
    mlp_ratio: float = Field(3.0, gt=0.0)
    patch_size: int = Field(8, ge=1)
    """Side of the square of pixels that one mask token paints; coarser than the encoder's patch is cheaper."""


class ConceptConfig(Section):
    """The frozen encoder of noun concepts, the other side of the concept contrast."""

    kind: Literal["hash", "huggingface"] = "hash"
    """``hash``: a fixed random vector for every phrase, no weights; ``huggingface``: a SigLIP or CLIP text tower."""
    path: str | None = None
    dim: int = Field(64, ge=4)
    """Width of the ``hash`` vectors."""
    prompt: str = "A photo of a {}."

    @model_validator(mode="after")
    def _consistent(self) -> ConceptConfig:
        if self.kind == "huggingface" and not self.path:
            raise ConfigError(
                "concepts.kind=huggingface needs concepts.path, and it is empty", "set it, or use kind: hash"
            )
        if "{}" not in self.prompt:
            raise ConfigError(
                f"concepts.prompt={self.prompt!r} has no place for the concept", "write {} where it belongs"
            )
        return self


class DiscriminatorConfig(Section):
    """PatchGAN (Isola et al. 2017), as used by VQGAN."""

    width: int = Field(64, ge=4)
    depth: int = Field(3, ge=1)
    normalization: Literal["instance", "batch"] = "instance"
    """``batch`` is the original's; ``instance`` leaves the result independent of the batch."""


class TokenizerConfig(Section):
    """SeTok: encoder, clustering, merger, detokenizer."""

    image_size: int = Field(64, ge=8)
    """Side of the square the picture is resized to, in pixels."""
    encoder: EncoderConfig = EncoderConfig()
    clustering: ClusteringConfig = ClusteringConfig()
    merger: MergerConfig = MergerConfig()
    detokenizer: DetokenizerConfig = DetokenizerConfig()

    @model_validator(mode="after")
    def _consistent(self) -> TokenizerConfig:
        checks = [("detokenizer.patch_size", self.detokenizer.patch_size)]
        if self.encoder.kind == "vit":
            checks.append(("encoder.patch_size", self.encoder.patch_size))
        if self.detokenizer.kind == "flow":
            side, width = self.detokenizer.flow.patch_size, self.detokenizer.width
            checks.append(("detokenizer.flow.patch_size", side))
            if 3 * side**2 > width:
                raise ConfigError(
                    f"detokenizer.flow.patch_size={side} gives squares of {3 * side**2} values, which do not fit into"
                    f" detokenizer.width={width} channels",
                    f"use at most {math.isqrt(width // 3)}, or a wider detokenizer",
                )
        for key, size in checks:
            if self.image_size % size:
                allowed = [s for s in (2, 4, 7, 8, 14, 16, 32) if self.image_size % s == 0]
                raise ConfigError(
                    f"image_size={self.image_size} is not a multiple of {key}={size}",
                    f"patch sizes that fit {self.image_size}: {', '.join(map(str, allowed)) or 'none of the usual ones'}",
                )
        for part, section in (("merger", self.merger), ("detokenizer", self.detokenizer)):
            width = self.detokenizer.width
            if width % section.num_heads:
                raise ConfigError(
                    f"{part}.num_heads={section.num_heads} does not divide detokenizer.width={width}",
                    f"heads that do: {', '.join(str(h) for h in range(1, 17) if width % h == 0)}",
                )
        return self


class TokenizerLossConfig(Section):
    """Weights of the tokenizer's losses; 0 switches a term off."""

    l1: float = Field(1.0, ge=0.0)
    l2: float = Field(1.0, ge=0.0)
    flow: float = Field(1.0, gt=0.0)
    """Flow matching, with ``model.detokenizer.kind: flow``."""
    perceptual: float = Field(0.0, ge=0.0)
    """LPIPS (Zhang et al. 2018); without ``perceptual_path`` the term is off, and the log says so."""
    perceptual_path: str | None = None
    """File or folder with LPIPS's weights, as ``python -m setok.models.perceptual`` writes them."""
    contrast: float = Field(1.0, ge=0.0)
    contrast_temperature: float = Field(0.1, gt=0.0)
    feature_target: float = Field(0.0, ge=0.0)
    """A linear layer reads simple statistics of its patch from the clustering feature: what shapes the features of
    an encoder that is trained from scratch. Leave at 0 with a pretrained one."""
    feature_statistics: tuple[Literal["mean", "deviation", "edges", "context"], ...] = ("mean",)
    """Which statistics: mean colour; its spread inside the patch; edge energy; mean and spread over a wider window."""
    adversarial: float = Field(0.0, ge=0.0)
    adversarial_start_step: int = Field(0, ge=0)
    adversarial_adaptive: bool = True
    distillation: float = Field(0.0, ge=0.0)
    """Keeps an encoder that is trained near what it was: 1 − cosine to the features of a frozen copy of it."""


# ---------------------------------------------------------------- data


class SourceConfig(Section):
    """One data set in its official layout."""

    kind: str
    """Name of a reader in ``setok.data.sources.SOURCES``."""
    path: str
    split: str = "train"
    limit: int | None = Field(None, ge=1)
    """Read at most this many records."""


class MixtureEntry(Section):
    """One ingested data set and its share of the training samples."""

    path: str
    weight: float = Field(1.0, gt=0.0)


class DataConfig(Section):
    """What training reads: ingested sets, mixed by weight, in an order that the seed fixes."""

    train: tuple[MixtureEntry, ...] = Field(min_length=1)
    steps_per_block: int = Field(16, ge=1)
    """Steps of one rank that travel in one Ray Data block: more means less overhead, and more memory."""
    decode_workers: int = Field(1, ge=1)
    decode_cpus: float = Field(0.5, gt=0.0)
    max_bad_fraction: float = Field(0.05, ge=0.0, le=1.0)
    """Stop when a larger share of the samples cannot be decoded."""


class ScenesConfig(Section):
    """Generated pictures with known truth, for a machine without any data, in the layout of COCO."""

    train: int = Field(20_000, ge=1)
    """Pictures to learn from; no test picture is among them."""
    test: int = Field(500, ge=1)
    family: Literal["plain", "hard"] = "plain"
    """``hard``: two-tone and textured objects, neighbours of one colour, distracting backgrounds."""
    image_size: int = Field(64, ge=16)
    seed: int = Field(1, ge=0)


# ---------------------------------------------------------------- training


class OptimConfig(Section):
    kind: Literal["adamw", "muon"] = "adamw"
    """``muon``: Muon for the matrices of the transformer blocks, AdamW for the rest; needs whole matrices (ZeRO-0)."""
    learning_rate: float = Field(1e-3, gt=0.0)
    muon_learning_rate: float = Field(0.02, gt=0.0)
    learning_rate_scale: dict[str, float] = {}
    """Factor on the rate by part of the model (``encoder``, ``merger``, …); 0 freezes the part."""
    weight_decay: float = Field(0.0, ge=0.0)
    betas: tuple[float, float] = (0.9, 0.98)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_fraction: float = Field(0.03, ge=0.0, lt=1.0)
    min_learning_rate_ratio: float = Field(0.0, ge=0.0, le=1.0)
    max_grad_norm: float = Field(1.0, gt=0.0)
    discriminator_learning_rate: float = Field(1e-4, gt=0.0)


class TrainSection(Section):
    steps: int = Field(1000, ge=1)
    global_batch_size: int = Field(16, ge=1)
    """Samples in one optimizer step, over all workers and micro-batches."""
    micro_batch_size: int = Field(8, ge=1)
    """Samples that one worker puts through the model at once."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """``bf16``: matrix products in bfloat16 (autocast); weights and optimizer stay fp32."""
    gradient_checkpointing: bool = False
    """Recompute the blocks' activations in the backward pass: less memory, about a third more time."""
    ema_decay: float = Field(0.0, ge=0.0, lt=1.0)
    """Decay of a running average of the weights, such as 0.999, which evaluation and inference then use; 0 keeps none."""
    deterministic: bool = False
    log_every: int = Field(20, ge=1)
    image_every: int = Field(500, ge=1)
    threads_per_worker: int | None = Field(None, ge=1)
    """Intra-op threads of each worker on CPU; ``null``: the machine's cores over the workers on it."""


class ScalingConfig(Section):
    """Workers of the run, as Ray Train takes them."""

    num_workers: int = Field(2, ge=0)
    """0 trains in this process with plain torch: the quickest way to debug."""
    engine: Literal["deepspeed", "torch"] = "deepspeed"
    """``torch``: data parallelism without DeepSpeed, for small models, where it has less overhead."""
    use_gpu: bool = False
    cpus_per_worker: float = Field(0.5, gt=0.0)
    max_failures: int = Field(3, ge=0)
    """How often a broken run starts again from its newest good checkpoint by itself."""


class DeepSpeedConfig(Section):
    zero_stage: Literal[0, 1, 2, 3] = 2
    offload_optimizer: bool = False
    """Keep optimizer state in host memory (GPU runs)."""


class CheckpointConfig(Section):
    every: int = Field(500, ge=1)
    keep: int = Field(2, ge=1)
    init_from: str | None = None
    """A run or checkpoint folder whose weights this run starts from."""


class WandbConfig(Section):
    project: str = "setok"
    mode: Literal["online", "offline"] = "online"


class LoggingConfig(Section):
    tensorboard: bool = True
    wandb: WandbConfig | None = None


# ---------------------------------------------------------------- jobs


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
    holdout_fraction: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of the records, chosen by a hash of their id, written to ``<output>-heldout`` for evaluation."""
    rows_per_shard: int = Field(4096, ge=1)
    rows_per_row_group: int = Field(64, ge=1)
    max_image_side: int = Field(16_384, ge=16)
    """A picture with a longer side goes to quarantine: decompression bombs end here."""
    max_bad_fraction: float = Field(0.5, ge=0.0, le=1.0)
    """Fail when a larger share of the records is bad."""


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


J = TypeVar("J", bound=Job)
JOBS: dict[str, type[Job]] = {
    "ingest": IngestConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "pipeline": PipelineConfig,
}

# ---------------------------------------------------------------- loading


def list_presets() -> list[str]:
    """Names of the presets that ship with the package."""
    folder = resources.files("setok") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_config(kind: type[J], name: str | Path, overrides: Sequence[str] = ()) -> J:
    """Read, override and check the config of a job.

    Args:
        kind: the config class that the job expects.
        name: a preset's name, or the path of a YAML file.
        overrides: ``dotted.key=value`` strings; values are YAML. Numbers index lists.

    Raises:
        ConfigError: unknown preset or key, wrong type or value, or settings that contradict each other.
    """
    tree = _resolve(_read(name), trail=(str(name),))
    for override in overrides:
        _apply(tree, override)
    return build(kind, _fill_in_run(tree, str(kind.model_fields["output_dir"].default)))


def build(kind: type[J], tree: Mapping[str, Any]) -> J:
    """Check a plain mapping against the config class of a job."""
    job = kind.model_fields["job"].default
    asked = str(tree.get("job", job))
    if asked not in JOBS:
        raise ConfigError(f"job: {asked} is unknown", did_you_mean(asked, JOBS))
    if asked != job:
        raise ConfigError(
            f"this config is for job: {asked}, and the command runs job: {job}",
            f"use python -m ray_jobs.{asked}, or another --config",
        )
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_explanations(kind, error)), "see --print-config for all keys") from error


def dump_config(config: Job) -> str:
    """The complete config as YAML, itself a valid ``--config``."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(name: str | Path) -> dict[Any, Any]:
    presets = list_presets()
    if str(name) in presets:
        data = (resources.files("setok") / "presets" / f"{name}.yaml").read_bytes()
    elif Path(name).is_file():
        data = Path(name).read_bytes()
    else:
        raise ConfigError(f"no preset and no file is called {str(name)!r}", did_you_mean(str(name), presets))
    try:
        tree = yaml.safe_load(data.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} is not valid YAML: {error}", "check the file at the place named above") from error
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{name} holds {type(tree).__name__}, not a mapping of settings", "start it with job: and name:"
        )
    return tree


def _resolve(node: Any, trail: tuple[str, ...]) -> Any:
    """Replace every mapping with ``extends: PRESET`` by that preset, changed by the mapping's other keys."""
    if isinstance(node, list):
        return [_resolve(item, trail) for item in node]
    if not isinstance(node, dict):
        return node
    for key in node:
        if not isinstance(key, str):
            raise ConfigError(f"{' → '.join(trail)}: the key {key!r} is no string", "quote it if it is meant")
    node = {key: _resolve(value, trail) for key, value in node.items() if key != "extends"} | (
        {"extends": node["extends"]} if "extends" in node else {}
    )
    if "extends" not in node:
        return node
    parent = str(node.pop("extends"))
    if parent in trail:
        raise ConfigError(f"presets extend each other in a circle: {' → '.join((*trail, parent))}", "break the circle")
    return _merge(_resolve(_read(parent), (*trail, parent)), node)


def _merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _apply(tree: dict[str, Any], override: str) -> None:
    """Set ``a.b.0.c=value`` in a tree of plain dicts and lists."""
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise ConfigError(f"--set {override!r} has no form key=value", "write for example --set train.steps=1000")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--set {key}: {text!r} is not a YAML value", "quote strings with special characters"
        ) from error
    node: Any = tree
    *parents, last = key.split(".")
    for parent in parents:
        if isinstance(node, list):
            node = node[_index(node, parent, key)]
        else:
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
        if not isinstance(node, (dict, list)):
            raise ConfigError(f"--set {key}: {parent!r} is a value, not a section", "see --print-config")
    if isinstance(node, list):
        node[_index(node, last, key)] = value
    else:
        node[last] = value


def _fill_in_run(tree: dict[str, Any], output_dir: str) -> dict[str, Any]:
    """Replace ``${run}`` in every string by the run's folder."""
    run = f"{tree.get('output_dir', output_dir)}/{tree.get('name', '')}"

    def fill(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: fill(value) for key, value in node.items()}
        if isinstance(node, list):
            return [fill(item) for item in node]
        return node.replace("${run}", run) if isinstance(node, str) else node

    return {key: fill(value) for key, value in tree.items()}


def _index(items: list[Any], text: str, key: str) -> int:
    if not text.isdecimal() or int(text) >= len(items):
        remedy = (
            f"use 0 to {len(items) - 1}" if items else f"give the whole list: --set {key.rpartition(f'.{text}')[0]}=[…]"
        )
        raise ConfigError(f"--set {key}: {text!r} is no index of a list of {len(items)}", remedy)
    return int(text)


def _explanations(kind: type[BaseModel], error: ValidationError) -> list[str]:
    """What is wrong, without what is only wrong because of something below it: a list is not too short for a typo in it."""
    errors = error.errors()
    unknown = [e["loc"] for e in errors if e["type"] == "extra_forbidden"]
    below = [loc for loc in unknown for e in errors if e["type"] == "too_short" and loc[: len(e["loc"])] == e["loc"]]
    return [_explain(kind, e) for e in errors if not (e["type"] == "too_short" and below)]


def _explain(kind: type[BaseModel], error: Any) -> str:
    """One pydantic error as a sentence that names the key, the value and the remedy."""
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        *parents, unknown = error["loc"]
        section = _section_at(kind, parents)
        return f"unknown key {path!r}" + (f": {did_you_mean(str(unknown), section.model_fields)}" if section else "")
    if error["type"] == "missing":
        return f"{path} is required and missing"
    value = repr(error["input"])
    value = value if len(value) <= 100 else f"{value[:99]}…"
    return f"{path}={value}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _section_at(kind: type[BaseModel], loc: Sequence[Any]) -> type[BaseModel] | None:
    """The config class that holds the keys at ``loc``, through lists and mappings of sections."""
    place: Any = kind
    for part in loc:
        section = _model_in(place)
        if section and str(part) in section.model_fields:
            place = section.model_fields[str(part)].annotation
        # otherwise an index of a list or a key of a mapping, whose sections are all of one class
    return _model_in(place)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The config class that an annotation names, such as ``tuple[Section, ...]`` or ``dict[str, Section]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, tuple, list, dict):
        return next((model for arg in get_args(annotation) if (model := _model_in(arg))), None)
    return None
