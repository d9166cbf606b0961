"""The contact sheet: masks, boxes and texts are where they belong, and nothing a record may hold stops it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ray_jobs.ingesting.preview import draw_card, write_preview
from setok.config import IngestConfig, build
from setok.data import rle
from setok.data.schema import TASKS, Box, EncodedImage, Mask, Record, Turn
from setok.data.sources import BadRecord
from setok.drawing import PALETTE
from setok.errors import DataError


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (250, 400)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size[::-1], colour).save(buffer, "PNG")
    return buffer.getvalue()


def card(**fields: Any) -> np.ndarray:
    return np.asarray(draw_card(Record(**({"id": "a", "source": "t"} | fields)))).astype(int)


def test_masks_and_boxes_lie_where_the_record_says() -> None:
    mask = np.zeros((250, 400), bool)
    mask[50:150, 100:200] = True
    images = [EncodedImage(data=picture((200, 200, 200)))]
    plain = card(images=images)
    shown = card(images=images, masks=[Mask(counts=rle.encode(mask), height=250, width=400)])
    changed = (np.abs(shown - plain).sum(2) > 0)[:250, :400]
    assert (changed == mask).mean() > 0.999
    assert np.abs(shown[100, 150] - (PALETTE[0] * 0.5 + 100)).max() <= 1
    boxed = card(images=images, boxes=[Box(label="", x0=0.25, y0=0.2, x1=0.5, y1=0.6)])
    rows, columns = np.nonzero((np.abs(boxed - plain).sum(2) > 0)[:250, 1:399])
    assert (rows.min(), rows.max(), columns.min() + 1, columns.max() + 1) == (50, 149, 100, 199)
    labelled = card(images=images, boxes=[Box(label="a cat", x0=0.25, y0=0.2, x1=0.5, y1=0.6)])
    assert (np.abs(labelled - boxed).sum(2) > 0)[34:50, 100:140].any()


def test_inputs_stand_before_targets() -> None:
    images = [
        EncodedImage(data=picture((0, 0, 255), (100, 100)), role="target"),
        EncodedImage(data=picture((255, 0, 0), (100, 100))),
    ]
    shown = card(images=images, task="edit")
    assert tuple(shown[125, 100]) == (255, 0, 0)
    assert tuple(shown[125, 300]) == (0, 0, 255)


@pytest.mark.parametrize("task", TASKS)
def test_text_makes_cards_longer_up_to_a_limit(task: str) -> None:
    few, some, many = (
        card(task=task, conversation=[Turn(role="user", text="why? " * n), Turn(role="assistant", text="so")])
        for n in (1, 30, 20_000)
    )
    assert len(few) < len(some) < len(many) < 600
    assert len(card(task=task)) < len(few)
    assert (
        len(card(task=task, answers=["x" * 500], choices=["y"], concepts=["z" * 30] * 50, caption="c" * 10_000)) < 600
    )


def test_a_sheet_of_all_sources(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for index in range(5):
            (tmp_path / name / f"{index}.png").write_bytes(picture((index * 50, 0, 0), (20, 30)))
    (tmp_path / "b" / "4.png").write_bytes(b"<html>")
    sources = [{"kind": "folder", "path": str(tmp_path / name)} for name in "ab"]
    tree = {"name": "look", "sources": sources, "output": str(tmp_path / "out"), "output_dir": str(tmp_path / "runs")}
    config = build(IngestConfig, tree)
    path = write_preview(config, 7)
    assert path == tmp_path / "runs" / "look" / "preview.png"
    assert not (tmp_path / "out").exists()
    one_row, three_rows = Image.open(path), Image.open(write_preview(config, 100))
    assert one_row.width == three_rows.width == 20 + 4 * 420
    assert one_row.height < three_rows.height
    with pytest.raises(DataError, match="does not exist"):
        write_preview(build(IngestConfig, tree | {"sources": [{"kind": "folder", "path": "nowhere"}]}), 1)


def test_bad_records_are_shown_too() -> None:
    shown = np.asarray(draw_card(BadRecord(id="x", reason="empty file: zero bytes")))
    assert (shown == (0xB3, 0x26, 0x1E)).all(axis=2).any()
