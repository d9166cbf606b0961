"""What the stages of the language model bring to the data: records become sequences, and several of them a row.

Everything here runs in data workers and on the driver, without torch.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_jobs.training.packs import Packing
from setok.config import TrainConfig
from setok.data.lengths import measured_lengths
from setok.data.packer import PackerSpec
from setok.data.text_tokenizer import TextTokenizer
from setok.vocabulary import IMAGE_START

if TYPE_CHECKING:
    from setok.batch import SequenceBatch


def packing_of(config: TrainConfig) -> Packing | None:
    """How a run's rows are packed; ``None`` for the stage whose samples are pictures.

    The sets' token lengths are counted here, where they are not known yet.

    Raises:
        DataError: a set is missing.
        ConfigError: there is no text tokenizer, or it lacks tokens, or the chat template cannot be used.
    """
    if config.stage == "tokenizer":
        return None
    spec = PackerSpec(
        tokenizer=str(tokenizer_folder(config)),
        config=config.sequence,
        seed=config.seed,
        image_size=config.model.image_size,
    )
    builder = spec.open().builder
    key = json.dumps([config.sequence.model_dump(mode="json"), builder.template.source, builder.tokenizer.definition])
    for entry in config.data.train:
        measured_lengths(entry.path, key, builder.length_of)
    # A sample that is too long is masked and counted among the bad ones, with the reason; see data.max_bad_fraction.
    return Packing(builder=spec, budget=config.sequence.max_length, lengths_key=key, too_long="mask")


def tokenizer_folder(config: TrainConfig) -> Path:
    """Where the data workers find the text tokenizer with the tokens for pictures.

    One that lacks them, such as a language model's own, is written with them into the run's folder.

    Raises:
        CheckpointError: there is none.
    """
    assert config.setokim is not None
    path = config.setokim.text_tokenizer or config.setokim.language_model.path
    assert path is not None
    if (Path(path) / "tokenizer.json").is_file() and IMAGE_START in TextTokenizer.load(path).special_tokens:
        return Path(path)
    from setok.models.text_tokens import load_text_tokenizer  # brings in transformers and torch

    folder = config.run_dir / "text_tokenizer"
    if not (folder / "tokenizer.json").is_file():
        load_text_tokenizer(path).save_pretrained(str(folder))
    return folder


def collate_of(config: TrainConfig) -> Callable[[Mapping[str, Any]], SequenceBatch]:
    """Columns of rows to the batch that the stage takes."""
    return functools.partial(_collate, image_size=config.model.image_size)


def _collate(columns: Mapping[str, Any], *, image_size: int) -> SequenceBatch:
    from setok.data.collate import columns_to_sequences  # imports torch, which data workers do without

    return columns_to_sequences(columns, image_size=image_size)
