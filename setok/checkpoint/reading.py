"""Reading a checkpoint: its config, weights, and optimizer state, checked against the model that asks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from setok.checkpoint.finding import AVERAGE
from setok.checkpoint.state import TrainerState
from setok.checkpoint.store import CONFIG, MODEL, TRAINER
from setok.config import TrainConfig, load_config
from setok.errors import CheckpointError, ConfigError


def read_config(path: Path) -> TrainConfig:
    """The config a checkpoint was trained with."""
    try:
        return load_config(TrainConfig, path / CONFIG)
    except ConfigError as error:
        raise CheckpointError(
            f"the config in {path} is not valid for this version: {error.problem}", "use the version that wrote it"
        ) from error


def read_state(path: Path) -> TrainerState:
    """Where the run stood when the checkpoint was written."""
    try:
        return TrainerState(**json.loads((path / TRAINER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path / TRAINER} cannot be read: {error}", "use another checkpoint") from error


class OptimizerState(Mapping[str, Tensor]):
    """One module's optimizer state as ``parameter/state`` → tensor, read from disk when asked for."""

    def __init__(self, path: Path, module: str) -> None:
        self._files: dict[str, Path] = {}
        self._prefix = f"{module}/"
        for file in sorted(path.glob("optimizer-*.safetensors")):
            with safe_open(file, framework="pt") as stored:
                self._files |= {k.removeprefix(self._prefix): file for k in stored.keys() if k.startswith(self._prefix)}

    def __getitem__(self, key: str) -> Tensor:
        with safe_open(self._files[key], framework="pt") as stored:
            return stored.get_tensor(self._prefix + key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def load_model(path: Path, module: nn.Module, prefix: str, *, skip: str | None = None, average: bool = False) -> None:
    """Copy a checkpoint's weights into a module; names and shapes must be exactly those of the module.

    Args:
        path: a checkpoint folder, verified by the caller (``resolve`` or ``newest_good``).
        prefix: name of the module in the checkpoint, such as ``model`` or ``model.tokenizer``.
        skip: names that start with this are passed over in the checkpoint, and stay as they are in the module.
        average: take the running average of those weights that the checkpoint has one of.

    Raises:
        CheckpointError: the checkpoint is of another model; says which keys differ.
    """
    prefix += "."
    try:
        with safe_open(path / MODEL, framework="pt") as stored:
            names = {key.removeprefix(prefix): key for key in stored.keys() if key.startswith(prefix)}
            if average:
                averaged = f"{AVERAGE}.{prefix}"
                names |= {key.removeprefix(averaged): key for key in stored.keys() if key.startswith(averaged)}
            kept = {k: v for k, v in module.state_dict().items() if skip is not None and k.startswith(skip)}
            names = {name: key for name, key in names.items() if skip is None or not name.startswith(skip)}
            shapes = {name: tuple(stored.get_slice(key).get_shape()) for name, key in names.items()}
            wanted = {k: tuple(v.shape) for k, v in module.state_dict().items() if k not in kept}
            _check_keys(path, prefix, wanted, shapes)
            weights = {name: stored.get_tensor(key) for name, key in names.items()}
            module.load_state_dict(weights | kept, strict=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path / MODEL} cannot be read: {error}", "use another checkpoint") from error


def read_average(path: Path, prefix: str) -> dict[str, Tensor]:
    """The running average of a module's weights, on the CPU; empty where the run keeps none."""
    start = f"{AVERAGE}.{prefix}."
    with safe_open(path / MODEL, framework="pt") as stored:
        return {key.removeprefix(start): stored.get_tensor(key) for key in stored.keys() if key.startswith(start)}


def holds(path: Path, prefix: str) -> bool:
    """Whether a checkpoint has weights of the module ``prefix``."""
    with safe_open(path / MODEL, framework="pt") as stored:
        return any(key.startswith(f"{prefix}.") for key in stored.keys())


def _check_keys(
    path: Path, prefix: str, wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    def listed(items: list[str]) -> str:
        return ", ".join(items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")

    differences = {
        "missing": sorted(set(wanted) - set(found)),
        "unexpected": sorted(set(found) - set(wanted)),
        "of another shape": [
            f"{name} {list(found[name])} instead of {list(wanted[name])}"
            for name in sorted(set(wanted) & set(found))
            if found[name] != wanted[name]
        ],
    }
    if any(differences.values()):
        details = "; ".join(f"{len(v)} {what}: {listed(v)}" for what, v in differences.items() if v)
        raise CheckpointError(
            f"{path} is a checkpoint of another model ({_describe(path)}); under {prefix!r}: {details}",
            f"use the model section of {path / CONFIG}, or another checkpoint",
        )


def _describe(path: Path) -> str:
    """The model of a checkpoint in a few words."""
    try:
        config = read_config(path)
    except CheckpointError:
        return "its config cannot be read"
    model = config.model
    return (
        f"stage {config.stage}, run {config.name!r}, image_size {model.image_size}, encoder {model.encoder.kind} "
        f"{model.encoder.width}×{model.encoder.depth}, detokenizer {model.detokenizer.width}×{model.detokenizer.depth}"
    )
