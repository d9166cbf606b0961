"""How a trained model is measured."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from setok.config.job import Job
from setok.config.section import Section
from setok.errors import ConfigError

EVALUATED_TASKS = ("vqa", "caption", "generate", "segment", "edit")
"""What Setokim can be asked in an evaluation; the benchmarks are made of these (``--tasks list`` shows them)."""


class NetworksConfig(Section):
    """Pretrained networks that some figures are taken with: files and folders of the user's. ``null`` leaves the figure out."""

    lpips: str | None = None
    """Weights for LPIPS (``reconstruction``); setok/models/perceptual.py says which file."""
    inception: str | None = None
    """Weights for rFID and FID (``reconstruction``, ``fid``)."""
    variant: Literal["pytorch-fid", "torch-fidelity"] | None = None
    """How pictures are brought to Inception's size; a figure must say which."""
    clip: str | None = None
    """Folder of a CLIP, for CLIP-I (``editing``)."""
    dino: str | None = None
    """Folder of a DINO (``editing``)."""

    @model_validator(mode="after")
    def _check(self) -> NetworksConfig:
        if (self.inception is None) != (self.variant is None):
            raise ConfigError(
                f"networks.inception={self.inception} and networks.variant={self.variant} go together",
                "give both: a figure must say how it was made",
            )
        return self


class EvaluateConfig(Job):
    """Metrics of trained models on an ingested set: of tokenizers, or of Setokim, as the checkpoints have it."""

    job: Literal["evaluate"] = "evaluate"
    checkpoint: str
    """A run (its newest good checkpoint is taken; with ``@best`` its best) or a checkpoint, in a folder or a store."""
    beside: tuple[str, ...] = ()
    """Further checkpoints, whose figures stand beside those of the first one."""
    data: str
    train_data: str | None = None
    """The set that references are taken from (mean image, most frequent answers, mean mask); ``null``: the evaluated set."""
    tasks: tuple[str, ...] = ()
    """Names and groups (``--tasks list``); empty for all but the benchmarks, as far as the set has records for them."""
    limit: int | None = Field(None, ge=1)
    batch_size: int = Field(50, ge=1)
    """Most samples that go through the model at once."""
    max_batch_tokens: int = Field(16384, ge=1)
    """Most tokens that do, padding and what is still to be said included: long samples go in smaller batches."""
    num_replicas: int = Field(1, ge=1)
    num_threads: int = Field(2, ge=1)
    """Of a replica, on a CPU. Another number may change the last digits of figures; another number of replicas does not."""
    use_gpu: bool = False
    weights: Literal["ema", "raw"] = "ema"
    """``ema``: the running average where the run kept one (``train.ema_decay``); ``raw``: where its last step landed."""
    sampling_steps: int | None = Field(None, ge=0)
    """Steps of a flow decoder: ``null`` takes those of its config, 0 shows the plain decoder's picture beneath it."""
    clustering: dict[str, Any] = {}
    """Tokenizers: changes to the trained clustering, such as ``{stop_mass: 8.0}`` for another threshold; empty for none."""
    references: bool = True
    """Also measure what needs no training: mean image, grid pooling, clustering of raw colour."""
    num_pictures: int = Field(12, ge=0)
    """How many cases of every kind of task are kept to be looked at: the best, the worst, and some at random."""
    networks: NetworksConfig = NetworksConfig()
    max_new_tokens: int = Field(64, ge=1)
    """Setokim: most words of an answer or caption, in tokens."""
    guidance: float = Field(1.0, ge=0.0)
    """Setokim: how closely pictures follow what was asked (classifier-free guidance); 1 for none."""
    image_temperature: float = Field(1.0, ge=0.0)
    """Setokim: factor on the noise of drawing; 0 draws without."""
