"""The clustering that a trained tokenizer is measured with, where that is not the trained one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from setok.config import ClusteringConfig
from setok.errors import ConfigError, did_you_mean

_KEPT = ("assignment", "feature_dim", "num_neighbors", "split_regions", "min_tokens", "max_tokens")
"""What another method takes over: the rest was tuned for the trained one, and would be refused."""


def changed(trained: ClusteringConfig, changes: Mapping[str, Any]) -> ClusteringConfig:
    """The trained clustering with some settings changed, the method among them.

    Raises:
        ConfigError: there is no such setting, its value is impossible, the method has no use for it, or it was trained.
    """
    base = trained.model_dump()
    if (method := changes.get("method", trained.method)) != trained.method:
        base = {key: base[key] for key in _KEPT if not (key == "num_neighbors" and method == "cosine_graph")}
    told = ", ".join(f"{key}={value}" for key, value in changes.items())
    for key in changes:
        if key not in ClusteringConfig.model_fields:
            raise ConfigError(
                f"{told}: the clustering has no {key!r}", did_you_mean(key, ClusteringConfig.model_fields)
            )
    try:
        setting = ClusteringConfig.model_validate(base | dict(changes))
    except ValidationError as error:
        raise ConfigError(
            f"{told} is no setting of the clustering: {error.errors()[0]['msg']}", "change it, or leave it out"
        ) from error
    if setting.feature_dim != trained.feature_dim:
        raise ConfigError(
            f"clustering.feature_dim={setting.feature_dim} is not that of the model, {trained.feature_dim}",
            "leave feature_dim out: it was trained",
        )
    return setting
