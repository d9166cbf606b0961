"""From a training run to a folder that ``SeTok.from_pretrained`` reads."""

from __future__ import annotations

from pathlib import Path

from setok.checkpoint import load_model, read_config, resolve
from setok.models.tokenizer import SeTok


def export_tokenizer(checkpoint: str | Path, folder: str | Path) -> SeTok:
    """Write a run's tokenizer, without the heads that only training needs.

    Args:
        checkpoint: a run's folder, whose newest good checkpoint is taken, or one checkpoint's.
        folder: where config.json, model.safetensors and preprocessor_config.json go.

    Returns:
        The tokenizer, in evaluation mode.

    Raises:
        CheckpointError: nothing there can be loaded.
    """
    source = resolve(checkpoint)
    # The encoder's architecture is read from where the run had it; its weights are in the checkpoint.
    tokenizer = SeTok(read_config(source).model, pretrained=False)
    load_model(source, tokenizer, "model.tokenizer", average=True)
    tokenizer.eval().save_pretrained(folder)
    return tokenizer
