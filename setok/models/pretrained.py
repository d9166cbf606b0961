"""A tokenizer as a folder, as Hugging Face lays models out: config.json, model.safetensors, preprocessor_config.json.

The architecture of a pretrained encoder lies in ``encoder/``, so the folder needs nothing from elsewhere. Nothing is unpickled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from setok.config import TokenizerConfig
from setok.errors import CheckpointError, ConfigError

FORMAT = 1
CONFIG, WEIGHTS, PREPROCESSOR, ENCODER = "config.json", "model.safetensors", "preprocessor_config.json", "encoder"


def exported_folder(path: str | Path, *, what: str, remedy: str = "", files: Sequence[str] | None = None) -> Path:
    """The folder that a path or a hub id means; fetched from the hub where it is no folder.

    Args:
        what: what it should hold, for errors.
        remedy: what else may help where a folder holds something else.
        files: patterns of what is fetched; ``None`` for everything.

    Raises:
        CheckpointError: there is no such folder, and the hub has none or cannot be reached.
    """
    folder = Path(path)
    if folder.is_dir():
        if (folder / CONFIG).is_file():
            return folder
        raise CheckpointError(
            f"{folder} holds no {CONFIG}, so it is no exported {what}",
            f"give the folder that save_pretrained wrote{remedy}",
        )
    import huggingface_hub  # slow to import, and not needed for local folders
    from huggingface_hub.errors import HFValidationError

    try:
        found = huggingface_hub.snapshot_download(str(path), allow_patterns=None if files is None else list(files))
    except (OSError, ValueError, HFValidationError) as error:  # a network's and the hub's own errors are OSErrors
        raise CheckpointError(
            f"{str(path)!r} is no local folder, and could not be had from the hub: {error}",
            "check the name; without a network give the local path of a folder that save_pretrained wrote",
        ) from error
    return exported_folder(Path(found), what=what, remedy=remedy, files=files)


def local_folder(path: str | Path) -> Path:
    """The folder of an exported tokenizer that a path or a hub id means.

    Raises:
        CheckpointError: there is none.
    """
    return exported_folder(
        path,
        what="tokenizer",
        remedy="; a training run becomes one with setok.export.export_tokenizer(run, folder)",
        files=["*.json", "*.safetensors"],
    )


def write(folder: Path, config: TokenizerConfig, model: nn.Module, encoder_layer: int | None) -> None:
    """Write config, weights and preprocessor settings.

    Args:
        encoder_layer: the layer that the encoder gives, counted from the start; ``None`` for the last one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described = config.model_dump(mode="json")
    if config.encoder.kind != "vit":
        described["encoder"]["path"] = ENCODER
        described["encoder"]["layer"] = -1 if encoder_layer is None else encoder_layer
    _write_json(folder / CONFIG, {"model_type": "setok", "format": FORMAT, "setok": described})
    weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def write_preprocessor(folder: Path, config: TokenizerConfig, encoder_patch: int) -> None:
    """Write the settings of ``setok.data.processor.SeTokImageProcessor``."""
    flow = config.detokenizer.flow.patch_size if config.detokenizer.kind == "flow" else 1
    settings = {
        "image_processor_type": "SeTokImageProcessor",
        "size": config.image_size,
        "resize": config.resize,
        "multiple_of": math.lcm(encoder_patch, config.detokenizer.patch_size, flow),
        "max_pixels": config.image_size**2,
    }
    _write_json(folder / PREPROCESSOR, settings)


def read_config(folder: Path) -> TokenizerConfig:
    """The model that a folder holds, its encoder's path made absolute.

    Raises:
        CheckpointError: it is of another kind or version.
    """
    stored = stored_config(
        folder,
        "setok",
        FORMAT,
        "give the folder of an exported tokenizer; a vision tower belongs in model.encoder.path of a run",
    )
    try:
        described = stored["setok"]
        if described["encoder"]["kind"] != "vit":
            described["encoder"]["path"] = str(folder / described["encoder"]["path"])
        return TokenizerConfig.model_validate(described)
    except (ValidationError, ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / CONFIG} is not valid for this version: {error}", "use the version of setok that wrote it"
        ) from error


def stored_config(folder: Path, model_type: str, version: int, remedy: str) -> dict[str, Any]:
    """What ``config.json`` of an exported folder says, which must be of this type and version.

    Args:
        remedy: what to give instead of a folder of another type.

    Raises:
        CheckpointError: it is missing, no JSON object, or of another type or version.
    """
    file = folder / CONFIG
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}", "export the model again") from error
    if not isinstance(stored, dict):
        raise CheckpointError(f"{file} is no JSON object", "export the model again")
    if (found := stored.get("model_type")) != model_type:
        raise CheckpointError(f"{folder} holds a model of type {found!r}, not {model_type!r}", remedy)
    if (found := stored.get("format")) != version:
        raise CheckpointError(
            f"{file} has format {found!r}, and this version reads {version}", "use the version of setok that wrote it"
        )
    return stored


def read_weights(folder: Path, model: nn.Module) -> None:
    """Copy the folder's weights into a model; names and shapes must be exactly those of the model.

    Raises:
        CheckpointError: the file is missing or damaged, or is of another model; names the keys that differ.
    """
    weights = matching_weights(folder, model.state_dict())
    with torch.no_grad():
        model.load_state_dict(weights, strict=True)


def matching_weights(folder: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The folder's weights, whose names and shapes must be exactly the wanted ones.

    Raises:
        CheckpointError: the file is missing or damaged, or is of another model; names the keys that differ.
    """
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as stored:
            weights = {name: stored.get_tensor(name) for name in stored.keys()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} cannot be read: {error}", "copy or export it again") from error
    differences = {
        "missing": sorted(set(wanted) - set(weights)),
        "unexpected": sorted(set(weights) - set(wanted)),
        "of another shape": [
            f"{name} {list(weights[name].shape)} instead of {list(tensor.shape)}"
            for name, tensor in sorted(wanted.items())
            if name in weights and weights[name].shape != tensor.shape
        ],
    }
    if any(differences.values()):
        details = "; ".join(f"{len(v)} {what}: {', '.join(v[:5])}" for what, v in differences.items() if v)
        raise CheckpointError(
            f"{folder / WEIGHTS} does not fit {CONFIG} beside it: {details}", "export the model again"
        )
    return weights


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
