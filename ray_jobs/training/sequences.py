"""What the stages of the language model bring to the data: records become sequences, and several of them a row.

Everything here runs in data workers and on the driver, without torch.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int32

from ray_jobs.training.packs import Packing
from setok.config import SequenceConfig, TrainConfig
from setok.data.lengths import measured_lengths
from setok.data.packer import PackerSpec
from setok.data.shards import ShardReader
from setok.data.text_tokenizer import TextTokenizer
from setok.errors import DataError
from setok.vocabulary import IMAGE_START

if TYPE_CHECKING:
    from setok.batch import SequenceBatch

logger = logging.getLogger(__name__)


def packing_of(config: TrainConfig) -> Packing | None:
    """How a run's rows are packed; ``None`` for the stage whose samples are pictures.

    The sets' token lengths are counted here, where they are not known yet.

    Raises:
        DataError: a set is missing, or has records that are too long, unless ``sequence.too_long`` is ``skip``.
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
    settings = config.sequence.model_dump(mode="json", exclude={"too_long"})
    key = json.dumps([settings, builder.template.source, builder.tokenizer.definition])
    for entry in config.data.train:
        check_lengths(entry.path, measured_lengths(entry.path, key, builder.length_of), config.sequence)
    # None is too long but those that are to be skipped: a place stands in for each, and is not trained.
    return Packing(builder=spec, budget=config.sequence.max_length, lengths_key=key, too_long="mask")


def check_lengths(folder: str, lengths: Int32[np.ndarray, " rows"], config: SequenceConfig) -> None:
    """Refuse a set with records that are longer than a row, or tell how many will be left out.

    Raises:
        DataError: says how many, the longest one and by how much; also where all would be left out.
    """
    number, longest = int((lengths > config.max_length).sum()), int(lengths.max())
    if not number:
        return
    over = longest - config.max_length
    told = f"{number:,} of the {len(lengths):,} records of {folder} are too long for sequence.max_length={config.max_length}"
    if config.too_long == "skip" and number < len(lengths):
        logger.warning("%s and are left out; the longest has %d tokens, %d too many", told, longest, over)
        return
    one = ShardReader(folder, columns=["id", "images"]).take(np.array([lengths.argmax()])).to_pylist()[0]
    remedies = [f"--set sequence.max_length={longest}"]
    name, pictures = one["id"], len(one["images"])
    if pictures:
        remedies.append(f"lower sequence.max_image_tokens (the places of every picture, {config.max_image_tokens})")
    if config.too_long == "refuse" and number < len(lengths):
        remedies.append("leave them out with --set sequence.too_long=skip")
    raise DataError(
        f"{told}; the longest, {name}, has {longest} tokens with {pictures} picture(s), {over} too many",
        ", or ".join(remedies),
    )


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
