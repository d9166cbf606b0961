"""Settings of a sweep over a clustering setting, which needs no training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from setok.config.job import Job
from setok.config.tune import Dimension
from setok.errors import ConfigError


class ThresholdsConfig(Job):
    """What a trained tokenizer makes of a set at every value of one clustering setting, from one pass over the pictures."""

    job: Literal["sweep_thresholds"] = "sweep_thresholds"
    title: str = "What the threshold buys"
    """Headline of the page."""
    checkpoint: str
    """A tokenizer run (its newest good checkpoint is taken; with ``@best`` its best), a checkpoint, or a folder that
    ``setok.export`` wrote."""
    data: str
    """An ingested set; with segments, ARI and mIoU are measured too."""
    limit: int | None = Field(None, ge=1)
    clustering: dict[str, Any] = {}
    """Changes to the trained clustering at all values, such as ``{method: dpc_knn}``."""
    vary: Literal[
        "score_threshold",
        "similarity_threshold",
        "stop_mass",
        "stop_scope",
        "sharpness",
        "num_neighbors",
        "num_clusters",
        "split_regions",
        "min_tokens",
        "max_tokens",
    ]
    """The setting of the clustering that takes all values; none of them changes what the encoder does."""
    over: Dimension
    """Its values, or a range with ``num_points``."""
    batch_size: int = Field(50, ge=1)
    num_replicas: int = Field(1, ge=1)
    use_gpu: bool = False
    weights: Literal["ema", "raw"] = "ema"
    sampling_steps: int | None = Field(None, ge=0)
    """Steps of a flow decoder: ``null`` takes those of its config, 0 the plain decoder's picture."""

    @model_validator(mode="after")
    def _has_points(self) -> ThresholdsConfig:
        if self.over.variants or (self.over.is_range and self.over.num_points is None):
            raise ConfigError(
                "over does not say which values to go through",
                "give {values: [0.1, 0.2]}, or a range with num_points: {low: 0.0, high: 1.0, num_points: 200}",
            )
        if self.vary in self.clustering:
            raise ConfigError(
                f"clustering sets {self.vary}, which takes the values of over", f"leave {self.vary} out of clustering"
            )
        return self
