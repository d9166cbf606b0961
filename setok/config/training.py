"""Settings of the machinery of training: optimizer, batches, workers, DeepSpeed, checkpoints, logs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from setok.config.section import Section
from setok.errors import ConfigError


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
    on_non_finite: Literal["stop", "skip"] = "stop"
    """A loss or gradient that is not finite: ``stop`` ends the run before the update; ``skip`` leaves the update out on all
    workers, notes the samples in ``skipped.jsonl``, and goes on. The schedule goes on too; the running average waits."""
    max_skipped: int = Field(10, ge=1)
    """Of ``skip``: this many updates may be left out in the whole run, restarts included."""
    max_skipped_in_a_row: int = Field(3, ge=1)
    log_every: int = Field(20, ge=1)
    image_every: int = Field(500, ge=1)
    threads_per_worker: int | None = Field(None, ge=1)
    """Intra-op threads of each worker on CPU; ``null``: the machine's cores over the workers on it."""


class ScalingConfig(Section):
    """Workers of the run, as Ray Train takes them."""

    num_workers: int | tuple[int, int] = 2
    """0 trains in this process with plain torch: the quickest way to debug. ``[min, max]`` is elastic: the run starts with as
    many workers as there is room for, and goes on with fewer or more when nodes leave or come."""
    resize_seconds: float = Field(60.0, gt=0.0)
    """Elastic: how often a run that is well looks whether more workers have room. More workers start from the newest
    checkpoint, so keep it above the time that ``checkpoint.every`` steps take."""
    wait_for_nodes: bool | float = False
    """For a cluster that adds nodes when they are asked for (cluster launcher, KubeRay): what it lacks is waited for, as long
    as it takes, or so many minutes. Ray does not say how far a cluster can grow; without this a run that lacks room is
    refused."""
    engine: Literal["deepspeed", "torch"] = "deepspeed"
    """``torch``: data parallelism without DeepSpeed, for small models, where it has less overhead."""
    use_gpu: bool = False
    cpus_per_worker: float = Field(0.5, gt=0.0)
    max_failures: int = Field(3, ge=0)
    """How often a broken run starts again from its newest good checkpoint by itself."""
    collective_timeout_s: float = Field(600.0, gt=0.0)
    """Seconds that a worker waits for the others, as in the sum of gradients, before it takes one of them for lost. Must be
    above the longest pause of a single worker, such as rank 0's writing of a checkpoint while the others wait to save the next
    one, and above ``checkpoint.commit_timeout``."""
    start_timeout_s: float = Field(1800.0, gt=0.0)
    """The same until the first step is done: workers load weights, open the data and compile for unequal times."""
    straggler_factor: float = Field(1.5, gt=1.0)
    """A worker that steadily takes this many times as long for its own work as the median of the others is named."""
    max_preemptions: int | None = Field(None, ge=0)
    """How often it starts again because a node was taken away, which ``max_failures`` does not count; ``null``: always."""
    poll_seconds: float = Field(5.0, gt=0.0)
    """How often the workers ask whether a node is about to go, or the run is to stop; both make them save at once."""

    @field_validator("wait_for_nodes")
    @classmethod
    def _waits(cls, value: bool | float) -> bool | float:
        if not isinstance(value, bool) and value <= 0:
            raise ConfigError(
                f"scaling.wait_for_nodes={value:g} minutes is no time to wait",
                "true waits as long as it takes, false not at all, and a number above 0 so many minutes",
            )
        return value

    @property
    def is_elastic(self) -> bool:
        return isinstance(self.num_workers, tuple)

    @property
    def min_workers(self) -> int:
        return self.num_workers[0] if isinstance(self.num_workers, tuple) else self.num_workers

    @property
    def max_workers(self) -> int:
        return self.num_workers[1] if isinstance(self.num_workers, tuple) else self.num_workers

    @model_validator(mode="after")
    def _a_range(self) -> ScalingConfig:
        if not self.is_elastic and self.min_workers < 0:
            raise ConfigError(
                f"scaling.num_workers={self.num_workers} is below 0", "use 0 or more, or a range [min, max]"
            )
        if self.is_elastic and not 1 <= self.min_workers <= self.max_workers:
            raise ConfigError(
                f"scaling.num_workers=[{self.min_workers}, {self.max_workers}] is no range",
                "give the fewest workers, at least 1, and then the most, for example [1, 4]",
            )
        return self


class DeepSpeedConfig(Section):
    zero_stage: Literal[0, 1, 2, 3] = 2
    offload_optimizer: bool = False
    """Keep optimizer state in host memory (GPU runs)."""


class CheckpointConfig(Section):
    every: int = Field(500, ge=1)
    asynchronous: bool = True
    """Write behind the training, which waits only for a copy in host memory. One save at a time: the next waits for it."""
    store: str | None = None
    """Where the run's checkpoints go, under its name: a folder, ``s3://bucket/prefix``, ``gs://…`` or another address that
    fsspec knows; ``null``: into the run's folder."""
    keep: int = Field(2, ge=1)
    """How many of the newest checkpoints stay."""
    keep_best: int = Field(0, ge=0)
    """How many of the best stay besides, by ``best_metric``; ``runs/NAME@best`` names the best one."""
    best_metric: str = "train/loss"
    """What is best: any metric that is logged, as it stood when the checkpoint was written, or one under ``eval/`` of the
    section ``validation``, once it is there."""
    best_is: Literal["lowest", "highest"] = "lowest"
    keep_every: int | None = Field(None, ge=1)
    """Checkpoints of steps that are a multiple of this stay too."""
    max_failures: int = Field(2, ge=0)
    """How many saves in a row may fail (full disk, store out of reach) before the run ends; it ends at the first if there is
    no good checkpoint, and never without having written its last one."""
    commit_timeout: float = Field(300.0, gt=0.0)
    """Seconds that rank 0, done with its own part, waits for those of the other ranks."""
    init_from: str | None = None
    """A run or checkpoint, in a folder or a store, whose weights this run starts from."""

    @field_validator("store")
    @classmethod
    def _outlives_the_run(cls, store: str | None) -> str | None:
        scheme, is_address, place = (store or "").partition("://")
        if store is not None and not (place if is_address else scheme).strip("/ "):
            raise ValueError(f"{store!r} names no place: write a folder, s3://bucket/prefix or gs://bucket/prefix")
        if scheme == "memory":
            raise ValueError(
                f"{store!r} is gone with its process: write a folder, s3://bucket/prefix or gs://bucket/prefix"
            )
        return store


class ValidationConfig(Section):
    """Evaluation of checkpoints while the training goes on, on resources that it leaves free."""

    data: str
    """An ingested set, best one that is kept aside."""
    every: int = Field(1, ge=1)
    """Of the scheduled checkpoints every so manieth is evaluated, and the last one in any case."""
    limit: int | None = Field(500, ge=1)
    """Records from the first on; ``null`` for all."""
    tasks: tuple[str, ...] = ()
    """Setokim: which of the tasks that the set's records have; empty for all."""
    references: str | None = None
    """Setokim: an ingested set to train on, whose most frequent answers and mean mask are measured, too; ``null``: neither is."""
    batch_size: int = Field(50, ge=1)
    max_new_tokens: int = Field(64, ge=1)
    """Setokim: most words of an answer or caption, in tokens."""
    cpus: float = Field(0.5, gt=0.0)
    use_gpu: bool = False
    timeout: float = Field(1800.0, gt=0.0)
    """Seconds after which an evaluation is given up; so long a finished training waits for the last one, too."""


class WandbConfig(Section):
    project: str = "setok"
    mode: Literal["online", "offline"] = "online"


class LoggingConfig(Section):
    tensorboard: bool = True
    wandb: WandbConfig | None = None
    samples: bool = False
    """Write to ``samples.jsonl`` which records every step was trained on, with its loss to the last bit."""
