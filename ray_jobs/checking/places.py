"""The places that a config names: where a run writes, the sets it reads, the weights it starts from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from setok.config import Job

OUTPUTS = frozenset({"output_dir", "output", "store", "features"})
SETS = frozenset({"data", "train_data", "sets"})
CHECKPOINTS = frozenset({"checkpoint", "beside", "init_from"})
FILES = frozenset({"perceptual_path", "lpips", "inception", "keys_file"})
MODELS = frozenset({"path", "tokenizer", "text_tokenizer", "clip", "dino"})
"""A folder, or a name on a hub."""
MIXTURE = frozenset({"train", "sources"})
"""Lists whose ``path`` is a set: ingested ones, and those in their official layout."""
OF_A_TRIAL = ("then", "checkpoint", "init_from")
"""Of a sweep in two stages: each trial's second stage starts from its own first one, and no path says where."""
Trail = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A setting that is a place."""

    trail: Trail
    kind: str
    """``output``, ``set``, ``source`` (not yet ingested), ``checkpoint``, ``file`` or ``model``."""
    value: str

    @property
    def key(self) -> str:
        """The setting as ``--set`` names it."""
        return ".".join(map(str, self.trail))


def places(config: Job) -> list[Place]:
    """Every place that a config names, in its order."""
    return list(_places(config.model_dump(mode="json"), ()))


def _places(tree: Any, trail: Trail) -> Iterator[Place]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _places(value, (*trail, key))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _places(value, (*trail, number))
    elif isinstance(tree, str) and tree and trail != OF_A_TRIAL and (kind := _kind(trail)) is not None:
        yield Place(trail=trail, kind=kind, value=tree)


def _kind(trail: Trail) -> str | None:
    """What a setting names, by its key: the last one; in a sweep's space a dotted one, above its values."""
    names = [part for part in trail if isinstance(part, str) and part != "values"]
    name = names[-1].rpartition(".")[2] if names else ""
    if len(trail) >= 3 and name in {"path", "images"} and isinstance(trail[-2], int) and trail[-3] in MIXTURE:
        return "source" if trail[-3] == "sources" else "set"
    kinds = {"output": OUTPUTS, "set": SETS, "checkpoint": CHECKPOINTS, "file": FILES, "model": MODELS}
    return next((kind for kind, keys in kinds.items() if name in keys), None)


def is_made_by_the_run(place: Place, config: Job) -> bool:
    """Whether a place lies in the run's own folder: a pipeline makes it before it needs it."""
    return "://" not in place.value and Path(place.value).absolute().is_relative_to(config.run_dir.absolute())
