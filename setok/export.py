"""From a training run to a folder in the manner of Hugging Face: ``SeTok.from_pretrained``, ``Setokim.from_pretrained``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from setok.checkpoint import load_model, read_config, resolve
from setok.config import SequenceConfig
from setok.config.section import Section
from setok.errors import CheckpointError, ConfigError
from setok.models.setokim import Setokim
from setok.models.tokenizer import SeTok
from setok.stages import SetokimTask

SETTINGS = "predictor.json"


class PredictorSettings(Section):
    """What ``setok.predictor`` needs besides the model, so that it answers as the run does."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the run's matrix products."""
    sequence: SequenceConfig = SequenceConfig()
    """How conversations are written down; a tokenizer has none."""


def read_settings(folder: Path) -> PredictorSettings:
    """Those of an exported folder; the defaults where it does not say.

    Raises:
        CheckpointError: they cannot be read.
    """
    file = folder / SETTINGS
    if not file.exists():
        return PredictorSettings()
    try:
        return PredictorSettings.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}", "export the model again") from error


def export_tokenizer(checkpoint: str | Path, folder: str | Path) -> SeTok:
    """Write a run's tokenizer, without the heads that only training needs.

    Args:
        checkpoint: a run, whose newest good checkpoint is taken, or a checkpoint, as ``setok.checkpoint.resolve`` takes it.
        folder: where config.json, model.safetensors, preprocessor_config.json and predictor.json go.

    Returns:
        The tokenizer, in evaluation mode.

    Raises:
        CheckpointError: nothing there can be loaded, or ``folder`` is a file.
    """
    _check_target(Path(folder))
    source = resolve(checkpoint)
    config = read_config(source)
    # The encoder's architecture is read from where the run had it; its weights are in the checkpoint.
    tokenizer = SeTok(config.model, pretrained=False)
    inside = "model.tokenizer" if config.stage == "tokenizer" else "model.setokim.tokenizer"
    load_model(source, tokenizer, inside, average=True)
    tokenizer.eval().save_pretrained(folder)
    _write_settings(Path(folder), PredictorSettings(precision=config.train.precision))
    return tokenizer


def export_setokim(checkpoint: str | Path, folder: str | Path) -> Setokim:
    """Write a run's Setokim as one folder with everything it needs; adapters (LoRA) are merged into the weights.

    Args:
        checkpoint: a run, whose newest good checkpoint is taken, or a checkpoint, as ``setok.checkpoint.resolve`` takes it.
        folder: where config.json, weights, language model, tokenizers and model card go.

    Returns:
        The model, in evaluation mode.

    Raises:
        CheckpointError: nothing there can be loaded, it is a tokenizer alone, or ``folder`` is a file.
        ConfigError: adapters lie on quantised weights.
    """
    _check_target(Path(folder))
    source = resolve(checkpoint)
    config = read_config(source)
    if config.stage == "tokenizer":
        raise CheckpointError(
            f"{source} is of stage tokenizer, which has no language model", "use setok.export.export_tokenizer"
        )
    task = SetokimTask(config, pretrained=False)
    load_model(source, task, "model", average=True)
    model = task.setokim.eval()
    if model.language_model.new_tokens is not None:
        model.merge_lora()
    model.save_pretrained(folder)
    _write_settings(Path(folder), PredictorSettings(precision=config.train.precision, sequence=config.sequence))
    return model


def _write_settings(folder: Path, settings: PredictorSettings) -> None:
    (folder / SETTINGS).write_text(settings.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _check_target(folder: Path) -> None:
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise CheckpointError(f"{folder} cannot be written: {path} is a file", "give the name of a new folder")
