"""What a run starts from: checkpoints, models and files that its config names."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from ray_jobs.checking.findings import Finding, fail, ok, warn
from ray_jobs.checking.places import Place
from setok import checkpoint
from setok.errors import CheckpointError, how_to_get


def check_weights(place: Place) -> list[Finding]:
    """Whether they are there; of a checkpoint also whether it is whole."""
    path = Path(place.value)
    if place.kind == "checkpoint":
        return _checkpoint(place)
    if place.kind == "file":
        if path.exists():
            return [ok("weights", f"{place.key} {place.value}")]
        return [
            fail("weights", f"{place.key}={place.value}: there is no such file", f"get it, or --set {place.key}=null")
        ]
    if path.is_dir():
        if any(path.glob("*.json")) or any(path.glob("*.safetensors")):
            return [ok("weights", f"{place.key} {place.value}")]
        text = f"{place.key}={place.value}: the folder holds neither a config nor weights"
        return [fail("weights", text, how_to_get(place.value, "config.json and weights", setting=place.key))]
    return _of_a_hub(place)


def _checkpoint(place: Place) -> list[Finding]:
    try:
        found = checkpoint.resolve(place.value)
    except CheckpointError as error:
        return [fail("weights", f"{place.key}: {error.problem}", error.remedy)]
    return [ok("weights", f"{place.key} {found.name} of {place.value}, whole")]


def _of_a_hub(place: Place) -> list[Finding]:
    """A name that is no folder here: it may be in the hub's cache, or be downloaded."""
    name = place.value.removeprefix("hf-hub:").removeprefix("hf_hub:")
    remedy = how_to_get(place.value, "config.json and weights", setting=place.key, hub_id=name)
    if name.startswith((".", "/", "~")) or name.count("/") != 1 or Path(name).parent.is_dir():
        return [fail("weights", f"{place.key}={place.value}: there is no such folder", remedy)]
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return [ok("weights", f"{place.key} {place.value}, in the cache of the hub")]
    text = f"{place.key}={place.value} is not on this machine: every node downloads it when the run starts"
    return [warn("weights", text, remedy)]
