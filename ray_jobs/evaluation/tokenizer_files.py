"""The files of an evaluation of a tokenizer: how they are written, and how a report reads them."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from ray_jobs.evaluation.files import BEST, IMAGES, PICTURES, RANDOM, WORST, replace_file
from setok.config import EvaluateConfig
from setok.metrics.running import INDEX, Columns
from setok.metrics.scoring import NUM_OBJECTS

ID, CAPTION, PICTURE = "id", "caption", "picture"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image of the set, what became of it, and why it is shown."""

    kind: str
    """``best``, ``random`` or ``worst``, by PSNR."""
    id: str
    caption: str
    original: UInt8[np.ndarray, "height width 3"]
    reconstruction: UInt8[np.ndarray, "height width 3"]
    assignment: Int[np.ndarray, " patches"]
    grid: tuple[int, int]
    num_tokens: int
    num_objects: int | None
    psnr: float
    ari: float | None


# ---------------------------------------------------------------- pictures


def pack(
    original: UInt8[Tensor, "3 height width"],
    pixels: Float[Tensor, "3 height width"],
    assignment: Int[Tensor, " patches"],
    grid: tuple[int, int],
) -> bytes:
    """One picture and its reconstruction (in [0, 1]) as bytes that travel between processes."""
    file = io.BytesIO()
    painted = (pixels.clamp(0, 1) * 255).round().byte()
    np.savez(
        file,
        original=original.permute(1, 2, 0).numpy(),
        reconstruction=painted.permute(1, 2, 0).numpy(),
        assignment=assignment.numpy().astype(np.int32),
        grid=np.array(grid),
    )
    return file.getvalue()


def ranked(table: Columns) -> list[int]:
    """Row numbers by PSNR, best first; rows without one are left out."""
    order = np.argsort(-table["psnr"], kind="stable")
    return [int(table[INDEX][i]) for i in order if not np.isnan(table["psnr"][i])]


def choose(table: Columns, drawn: Sequence[int], num_pictures: int) -> list[tuple[str, int]]:
    """Kind and row number of the pictures to show: a third best, a third worst, and of the drawn ones for the rest."""
    rows = ranked(table)
    third = min(num_pictures // 3, len(rows) // 3)
    best, worst = rows[:third], rows[len(rows) - third :][::-1]
    known = set(rows) - set(best) - set(worst)
    other = [row for row in drawn if row in known][: num_pictures - 2 * third]
    return [(kind, row) for kind, group in ((BEST, best), (RANDOM, other), (WORST, worst)) for row in group]


def _stack(chosen: Sequence[tuple[str, int]], table: Columns, packed: Mapping[int, bytes]) -> bytes:
    at = np.searchsorted(table[INDEX], [row for _, row in chosen])
    unpacked = []
    for _, row in chosen:
        with np.load(io.BytesIO(packed[row])) as stored:
            unpacked.append(dict(stored))
    file = io.BytesIO()
    np.savez_compressed(
        file,
        kinds=np.array([kind for kind, _ in chosen]),
        ids=np.array([str(table[ID][i]) for i in at]),
        captions=np.array([str(table[CAPTION][i]) for i in at]),
        originals=np.stack([arrays["original"] for arrays in unpacked]),
        reconstructions=np.stack([arrays["reconstruction"] for arrays in unpacked]),
        assignments=np.stack([arrays["assignment"] for arrays in unpacked]),
        grid=unpacked[0]["grid"],
        token_counts=table["tokens"][at],
        num_objects=table[NUM_OBJECTS][at],
        psnr=table["psnr"][at],
        ari=table["ari"][at],
    )
    return file.getvalue()


# ---------------------------------------------------------------- writing


def write_pictures(
    config: EvaluateConfig, table: Columns, chosen: Sequence[tuple[str, int]], packed: Mapping[int, bytes]
) -> None:
    """Write every picture's figures, and the pictures that are shown.

    Args:
        table: every image's figures.
        chosen: kind and row number of the pictures to show.
        packed: these pictures, by row number.
    """
    lines = []
    for i in range(len(table[INDEX])):
        row = {name: _plain(values[i]) for name, values in table.items()}
        lines.append(json.dumps(row, ensure_ascii=False, allow_nan=False))
    replace_file(config.run_dir / IMAGES, ("\n".join(lines) + "\n").encode())
    if chosen:
        replace_file(config.run_dir / PICTURES, _stack(chosen, table, packed))


def _plain(value: Any) -> Any:
    """A NumPy scalar as JSON has it; NaN becomes null."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and math.isnan(value) else value


# ---------------------------------------------------------------- reading


def read_images(folder: Path) -> list[dict[str, Any]]:
    """Every image's figures, in the order of the set."""
    path = folder / IMAGES
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def read_pictures(folder: Path) -> list[Picture]:
    """The chosen pictures: best, random, worst; empty where none were asked for."""
    path = folder / PICTURES
    if not path.is_file():
        return []
    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
    return [
        Picture(
            kind=str(arrays["kinds"][i]),
            id=str(arrays["ids"][i]),
            caption=str(arrays["captions"][i]),
            original=arrays["originals"][i],
            reconstruction=arrays["reconstructions"][i],
            assignment=arrays["assignments"][i],
            grid=(int(arrays["grid"][0]), int(arrays["grid"][1])),
            num_tokens=int(arrays["token_counts"][i]),
            num_objects=_known(arrays["num_objects"][i], int),
            psnr=float(arrays["psnr"][i]),
            ari=_known(arrays["ari"][i], float),
        )
        for i in range(len(arrays["kinds"]))
    ]


def _known(value: float, kind: type) -> Any:
    return None if math.isnan(value) else kind(value)
