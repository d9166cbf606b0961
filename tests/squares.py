"""Eight pictures of a square, and a record of every task on each of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from setok.data import rle
from setok.data.schema import EncodedImage, Manifest, Mask, Record, Turn
from setok.data.shards import write_shard

SIZE, COUNT = 32, 8
INK = {"red": (220, 40, 40), "green": (40, 190, 70), "blue": (40, 60, 220), "yellow": (235, 215, 50)}
PAPER = {"white": (240, 240, 240), "black": (20, 20, 20)}


def scene(number: int) -> tuple[np.ndarray, np.ndarray, str, str, str]:
    """A square on plain paper: pixels, its mask, colour, side, paper."""
    colour, paper = list(INK)[number % 4], list(PAPER)[number // 4]
    side, left = ("left", 3 + number % 3) if number % 2 else ("right", 16 - number % 3)
    mask = np.zeros((SIZE, SIZE), bool)
    mask[6 + 2 * (number % 4) : 18 + 2 * (number % 4), left : left + 12] = True
    pixels = np.where(mask[..., None], INK[colour], PAPER[paper]).astype(np.uint8)
    return pixels, mask, colour, side, paper


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def records() -> list[Record]:
    """Eight of every task."""
    made: list[Record] = []
    scenes = [scene(number) for number in range(COUNT)]
    for number, (pixels, mask, colour, side, paper) in enumerate(scenes):
        image = EncodedImage(data=png(pixels))
        flat = mask.T.ravel().astype(np.int8)
        runs = np.diff([0, *np.flatnonzero(np.diff(flat, prepend=0, append=0)), flat.size]).tolist()
        region = Mask(counts=runs, height=SIZE, width=SIZE)
        assert (rle.decode(runs, SIZE, SIZE) == mask).all()
        after = scenes[(number + 3) % COUNT][0]
        caption = f"a {colour} square on the {side} of a {paper} page"
        asked = [
            Turn(role="user", text="<image>\nwhere is the square?"),
            Turn(role="assistant", text=side),
            Turn(role="user", text="which colour?"),
            Turn(role="assistant", text=colour),
        ]
        pointed = [
            Turn(role="user", text=f"<image>\nSegment the {colour} square"),
            Turn(role="assistant", text="<mask>"),
        ]
        edited = [Turn(role="user", text=f"<image>\nmake it number {number}"), Turn(role="assistant", text="<image>")]
        made += [
            Record(id=f"caption{number}", source="s", task="caption", images=[image], caption=caption),
            Record(id=f"vqa{number}", source="s", task="vqa", images=[image], conversation=asked),
            Record(
                id=f"mask{number}", source="s", task="segment", images=[image], conversation=pointed, masks=[region]
            ),
            Record(
                id=f"edit{number}",
                source="s",
                task="edit",
                images=[image, EncodedImage(data=png(after), role="target")],
                conversation=edited,
            ),
        ]
    return made


def write_set(folder: Path) -> Path:
    """The records as an ingested set."""
    folder.mkdir(parents=True)
    shard = write_shard(folder / "shard.parquet", made := records())
    assert shard is not None
    Manifest(shards=[shard], records_by_source={"s": len(made)}, quarantined_by_reason={}).save(folder)
    return folder
