"""Columns of decoded rows to the batch that models take (in the training workers)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from setok.batch import ImageTextBatch, SequenceBatch
from setok.data.decode import STORED_COLUMNS, Columns, decode_rows
from setok.data.features import COLUMN
from setok.data.pack import TOKEN_COLUMNS

__all__ = ["STORED_COLUMNS", "Columns", "columns_to_sequences", "decode_rows", "rows_to_batch"]


def rows_to_batch(columns: Mapping[str, np.ndarray | Sequence[Any]]) -> ImageTextBatch:
    """The batch of columns that ``decode_rows`` made; other columns are ignored."""
    segments, sizes = columns.get("segments"), columns.get("size")
    return ImageTextBatch(
        pixel_values=torch.from_numpy(np.array(columns["pixels"], np.uint8)),
        valid=torch.from_numpy(np.array(columns["valid"], bool)),
        concepts=tuple(tuple(json.loads(text)) for text in columns["concepts"]),
        ids=tuple(str(name) for name in columns["id"]),
        segments=None if segments is None else torch.from_numpy(np.array(segments, np.int64)),
        sizes=None if sizes is None else torch.from_numpy(np.array(sizes, np.int64)),
        is_thing=() if segments is None else tuple(tuple(json.loads(text)) for text in columns["is_thing"]),
        features=_features(columns[COLUMN]) if COLUMN in columns else None,
    )


def _features(stored: np.ndarray | Sequence[Any]) -> Float[Tensor, "batch patches width"]:
    """Features as the encoder gave them; NumPy knows no bfloat16, whose bits travel as whole numbers."""
    kept = torch.from_numpy(np.array(stored))
    return kept.view(torch.bfloat16) if kept.dtype == torch.int16 else kept


def columns_to_sequences(columns: Mapping[str, np.ndarray | Sequence[Any]], *, image_size: int) -> SequenceBatch:
    """The batch of columns that ``setok.data.pack.row_columns`` made; other columns are ignored.

    Args:
        columns: of some rows.
        image_size: side S of the pictures, in pixels.
    """
    tokens = {name: np.array(columns[name], np.int64) for name in TOKEN_COLUMNS}
    is_target, is_valid, mask_image, ids = (
        [json.loads(text) for text in columns[name]] for name in ("image_is_target", "image_valid", "mask_image", "id")
    )
    first_image = np.cumsum([0, *(len(row) for row in is_target)])[:-1]
    first_mask = np.cumsum([0, *(len(row) for row in mask_image)])[:-1]
    for name, first in (("image_index", first_image), ("mask_index", first_mask)):
        tokens[name] += np.where(tokens[name] >= 0, first[:, None], 0)
    shape = (3, image_size, image_size)
    pixels = [np.frombuffer(data, np.uint8).reshape(-1, *shape) for data in columns["pixels"]]
    masks = [
        np.unpackbits(np.frombuffer(data, np.uint8), count=len(row) * image_size**2).reshape(-1, *shape[1:])
        for data, row in zip(columns["masks"], mask_image, strict=True)
    ]
    return SequenceBatch(
        **{name: torch.from_numpy(values) for name, values in tokens.items()},
        pixel_values=torch.from_numpy(np.concatenate(pixels)),
        image_is_target=torch.tensor([flag for row in is_target for flag in row], dtype=torch.bool),
        image_valid=torch.tensor([flag for row in is_valid for flag in row], dtype=torch.bool),
        mask_image=torch.tensor(
            [first + image for first, row in zip(first_image, mask_image, strict=True) for image in row],
            dtype=torch.long,
        ),
        masks=torch.from_numpy(np.concatenate(masks).astype(bool)),
        ids=tuple(tuple(row) for row in ids),
    )
