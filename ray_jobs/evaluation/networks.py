"""The networks of the user that some figures are taken with, loaded once before anything is asked."""

from __future__ import annotations

from pathlib import Path

from ray_jobs.evaluation.problems import Problems
from setok.config import NetworksConfig
from setok.errors import ConfigError, SetokError
from setok.models.inception import load_inception
from setok.models.perceptual import load_perceptual
from setok.models.picture_features import load_picture_features


def check_networks(networks: NetworksConfig, problems: Problems) -> None:
    """Load every network that is named, and let it go: hours of asking are lost where one of them does not fit."""
    for name, value in networks.model_dump().items():
        if value is None or name == "variant":
            continue
        if not Path(value).exists():
            problems.add(ConfigError(f"networks.{name}: there is no {value}", "look at the path"))
            continue
        try:
            _load(name, value, networks.variant)
        except SetokError as error:
            problems.add(error.about(f"networks.{name}"))


def _load(name: str, path: str, variant: str | None) -> None:
    if name == "lpips":
        load_perceptual(path)
    elif name == "inception":
        load_inception(path, str(variant))
    else:
        load_picture_features(path, "clip" if name == "clip" else "dino")
