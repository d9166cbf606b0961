"""Paths of a config that mean something here, and something else or nothing where the job runs.

A job runs in a folder that Ray unpacks for it and deletes again: ``runs`` there is lost, and ``data/train`` is not there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from ray_jobs.checking.places import Place, places
from setok.config import Job, build
from setok.errors import ConfigError

J = TypeVar("J", bound=Job)


def relative_places(config: Job, here: Path) -> list[Place]:
    """The places of a config that are relative paths; a model's name may be one of a hub, unless it lies here or
    where the run writes.

    Args:
        here: the folder that they would be relative to.
    """
    found = [place for place in places(config) if "://" not in place.value and not Path(place.value).is_absolute()]
    outputs = [place.value for place in found if place.kind == "output"]

    def is_path(name: str) -> bool:
        return (here / name).exists() or any(Path(name).is_relative_to(output) for output in outputs)

    return [place for place in found if place.kind != "model" or is_path(place.value)]


def with_paths_of_here(config: J, here: Path) -> J:
    """The same config, its relative paths made absolute: for a cluster on this machine."""
    tree = config.model_dump(mode="json")
    for place in relative_places(config, here):
        node: Any = tree
        *parents, last = place.trail
        for part in parents:
            node = node[part]
        node[last] = str(here / place.value)
    return build(type(config), tree)


def check_paths(config: Job, here: Path) -> None:
    """Refuse relative paths, for a cluster of other machines.

    Raises:
        ConfigError: naming all of them.
    """
    if found := relative_places(config, here):
        listed = ", ".join(f"{place.key}={place.value}" for place in found)
        raise ConfigError(
            f"relative paths mean nothing on another machine, where the job runs in a folder that is thrown away: {listed}",
            "give them as the nodes see them, for example --set output_dir=/shared/runs",
        )
