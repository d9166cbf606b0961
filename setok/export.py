"""From a training run to a folder in the manner of Hugging Face: ``SeTok.from_pretrained``, ``Setokim.from_pretrained``."""

from __future__ import annotations

from pathlib import Path

from setok.checkpoint import load_model, read_config, resolve
from setok.errors import CheckpointError
from setok.models.setokim import Setokim
from setok.models.tokenizer import SeTok
from setok.stages import SetokimTask

SEQUENCE = "sequence.json"
"""How conversations are written down: what ``setok.predictor.Predictor`` needs besides the model."""


def export_tokenizer(checkpoint: str | Path, folder: str | Path) -> SeTok:
    """Write a run's tokenizer, without the heads that only training needs.

    Args:
        checkpoint: a run, whose newest good checkpoint is taken, or a checkpoint, as ``setok.checkpoint.resolve`` takes it.
        folder: where config.json, model.safetensors and preprocessor_config.json go.

    Returns:
        The tokenizer, in evaluation mode.

    Raises:
        CheckpointError: nothing there can be loaded.
    """
    source = resolve(checkpoint)
    config = read_config(source)
    # The encoder's architecture is read from where the run had it; its weights are in the checkpoint.
    tokenizer = SeTok(config.model, pretrained=False)
    inside = "model.tokenizer" if config.stage == "tokenizer" else "model.setokim.tokenizer"
    load_model(source, tokenizer, inside, average=True)
    tokenizer.eval().save_pretrained(folder)
    return tokenizer


def export_setokim(checkpoint: str | Path, folder: str | Path) -> Setokim:
    """Write a run's Setokim as one folder with everything it needs; adapters (LoRA) are merged into the weights.

    Args:
        checkpoint: a run, whose newest good checkpoint is taken, or a checkpoint, as ``setok.checkpoint.resolve`` takes it.
        folder: where config.json, weights, language model, tokenizers and model card go.

    Returns:
        The model, in evaluation mode.

    Raises:
        CheckpointError: nothing there can be loaded, or it is a tokenizer alone.
        ConfigError: adapters lie on quantised weights.
    """
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
    (Path(folder) / SEQUENCE).write_text(config.sequence.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return model
