"""Columns of decoded rows to the batch that models take (in the training workers)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from setok.batch import ImageTextBatch
from setok.data.decode import STORED_COLUMNS, Columns, decode_rows

__all__ = ["STORED_COLUMNS", "Columns", "decode_rows", "rows_to_batch"]


def rows_to_batch(columns: Mapping[str, np.ndarray | Sequence[Any]]) -> ImageTextBatch:
    """The batch of columns that ``decode_rows`` made; other columns are ignored."""
    segments = columns.get("segments")
    return ImageTextBatch(
        pixel_values=torch.from_numpy(np.array(columns["pixels"], np.uint8)),
        valid=torch.from_numpy(np.array(columns["valid"], bool)),
        concepts=tuple(tuple(json.loads(text)) for text in columns["concepts"]),
        ids=tuple(str(name) for name in columns["id"]),
        segments=None if segments is None else torch.from_numpy(np.array(segments, np.int64)),
        is_thing=() if segments is None else tuple(tuple(json.loads(text)) for text in columns["is_thing"]),
    )
