"""Pictures on their way through files of text."""

from __future__ import annotations

import base64
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from ray_jobs.evaluation.journal import Row
from ray_jobs.scoring.samples import Sample
from setok.data.schema import Record


def png(pixels: np.ndarray | UInt8[Tensor, "3 height width"]) -> str:
    """A picture as text: PNG in base64.

    Args:
        pixels: uint8 [height, width, 3]; a tensor with its colours in front.
    """
    array = pixels.permute(1, 2, 0).numpy() if isinstance(pixels, Tensor) else pixels
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def drawn_sample(row: Row) -> Sample:
    """What was drawn, as benchmarks take it, from a row with ``drawn`` and ``truth``."""
    drawn, truth = (base64.b64decode(row[name]) for name in ("drawn", "truth"))
    return Sample(record=Record(id=row["id"], source=""), asks=row["task"], drawn=drawn, truth=truth)


def lit(pixels: UInt8[np.ndarray, "height width 3"], mask: np.ndarray) -> np.ndarray:
    """A picture that is dark and gray but for a region."""
    gray = pixels.mean(-1, keepdims=True) * 0.3
    return np.where(mask[..., None], pixels, gray).astype(np.uint8)
