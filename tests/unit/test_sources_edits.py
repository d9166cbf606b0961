"""InstructPix2Pix and MagicBrush: small generated cases, whole and damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from setok.data.schema import Record
from setok.data.sources import BadRecord
from setok.errors import DataError
from tests.source_files import put, read, shaded, texts


def make_pairs(root: Path) -> None:
    put(root / "seeds.json", [["a", ["1", "2"]], ["b", ["3"]], ["c", ["4"]]])
    put(root / "a/prompt.json", {"edit": "make it  red", "input": "a cup", "output": "a red cup", "score": 0.3})
    put(root / "b/prompt.json", {"edit": " "})
    for number, name in enumerate(("a/1_0", "a/1_1", "a/2_0", "b/3_0", "b/3_1")):
        put(root / f"{name}.jpg", shaded(number))


@pytest.mark.parametrize("folder", ["", "train"])
def test_instructpix2pix(tmp_path: Path, folder: str) -> None:
    make_pairs(tmp_path / folder)
    good, *bad = read("instructpix2pix", tmp_path)
    assert isinstance(good, Record)
    assert good.id == "instructpix2pix/train/a/1" and good.task == "edit"
    assert texts(good) == ["<image>\nmake it red", "<image>"]
    assert [(image.role, image.data) for image in good.images] == [("input", shaded(0)), ("target", shaded(1))]
    assert good.provenance == {"pair": "a/1", "input": "a cup", "output": "a red cup"}
    reasons = [item.reason for item in bad if isinstance(item, BadRecord)]
    assert reasons[:2] == ["image file missing: 2_1.jpg", "empty text: 'edit'"]
    assert len(reasons) == 3 and reasons[2].endswith("c/prompt.json is missing")
    with pytest.raises(DataError, match=r"dev/seeds.json is missing\n.*instruct-pix2pix.eecs.berkeley.edu"):
        read("instructpix2pix", tmp_path, split="dev")
    put(tmp_path / folder / "seeds.json", [["../a", ["1"]]])
    with pytest.raises(DataError, match="leaves its folder"):
        read("instructpix2pix", tmp_path)


def save_to_disk(folder: Path, columns: dict[str, list[Any]], rows_per_batch: int = 2) -> None:
    """What ``datasets.save_to_disk`` writes, in two files of several batches."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    half = table.num_rows // 2
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    for name, part in zip(names, (table.slice(0, half), table.slice(half)), strict=True):
        with pa.ipc.new_stream(str(folder / name), table.schema) as writer:
            writer.write_table(part, max_chunksize=rows_per_batch)
    put(folder / "state.json", {"_data_files": [{"filename": name} for name in names]})
    put(folder / "dataset_info.json", {})


def picture(shade: int) -> dict[str, Any]:
    return {"bytes": shaded(shade), "path": None}


def test_instructpix2pix_saved_by_datasets(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "original_image": [*(picture(n) for n in range(6)), {"bytes": None, "path": "own.jpg"}],
        "edit_prompt": [*(f"edit {n}" for n in range(5)), None, "own file"],
        "edited_image": [*(picture(10 + n) for n in range(4)), None, picture(15), picture(16)],
    }
    save_to_disk(tmp_path, columns)
    put(tmp_path / "own.jpg", shaded(99))
    items = read("instructpix2pix", tmp_path)
    good = [item for item in items if isinstance(item, Record)]
    assert [texts(item)[0] for item in good] == [f"<image>\nedit {n}" for n in range(4)] + ["<image>\nown file"]
    assert [item.images[1].data for item in good] == [shaded(n) for n in (10, 11, 12, 13, 16)]
    assert good[-1].images[0].data == shaded(99)
    assert [item.reason for item in items if isinstance(item, BadRecord)] == [
        "image missing: column 'edited_image' is empty",
        "not text: 'edit' is None",
    ]
    (tmp_path / "data-00001-of-00002.arrow").write_bytes(b"cut off")
    with pytest.raises(DataError, match=r"data-00001-of-00002.arrow is no Arrow stream"):
        read("instructpix2pix", tmp_path)
    put(tmp_path / "state.json", {"_data_files": [], "_indices_data_files": [{"filename": "i.arrow"}]})
    with pytest.raises(DataError, match=r"a selection of rows.*\n.*flatten_indices"):
        read("instructpix2pix", tmp_path)


def make_brush(root: Path, *, sessions: bool = True) -> None:
    turns = []
    for name in ("5", "6"):
        for turn in (1, 2):
            before = f"{name}-input.png" if turn == 1 else f"{name}-output1.png"
            files = {"input": before, "mask": f"{name}-mask{turn}.png", "output": f"{name}-output{turn}.png"}
            turns.append(files | {"instruction": f"step {turn}"})
        for number, what in enumerate(("input", "output1", "output2")):
            put(root / f"images/{name}/{name}-{what}.png", shaded(number))
    put(root / "edit_turns.json", turns)
    if sessions:
        put(root / "edit_sessions.json", {"5": turns[:2], "6": turns[2:]})


@pytest.mark.parametrize("sessions", [True, False])
def test_magicbrush(tmp_path: Path, sessions: bool) -> None:
    make_brush(tmp_path / "dev", sessions=sessions)
    each = read("magicbrush", tmp_path, split="val")
    assert [item.id for item in each] == [f"magicbrush/val/{name}/{turn}" for name in (5, 6) for turn in (1, 2)]
    assert texts(each[1]) == ["<image>\nstep 2", "<image>"]
    assert isinstance(each[1], Record)
    assert [image.data for image in each[1].images] == [shaded(1), shaded(2)]
    assert each[1].provenance == {"img_id": "5", "turns": "2", "masks": "5-mask2.png"}
    whole = read("magicbrush", tmp_path, split="val", turns="all")
    assert [item.id for item in whole] == ["magicbrush/val/session/5", "magicbrush/val/session/6"]
    assert texts(whole[0]) == ["<image>\nstep 1", "<image>", "step 2", "<image>"]
    with pytest.raises(DataError, match=r"test/edit_sessions.json is missing\n.*MagicBrush"):
        read("magicbrush", tmp_path, split="test")


def test_magicbrush_with_damaged_turns(tmp_path: Path) -> None:
    make_brush(tmp_path)
    path = tmp_path / "edit_sessions.json"
    tree = json.loads(path.read_text())
    del tree["5"][0]["instruction"]
    tree["6"][1]["input"] = "6-input.png"
    tree["7"] = [{"input": "../x", "output": "y", "instruction": "leave"}]
    put(path, tree)
    (tmp_path / "images/6/6-output1.png").unlink()
    reasons = [item.reason for item in read("magicbrush", tmp_path) if isinstance(item, BadRecord)]
    assert [reason.split(",")[0] for reason in reasons] == [
        "missing key: 'instruction'",
        "image file missing: 6-output1.png",
        "image path leaves its folder: '../x'",
    ]
    whole = [item.reason for item in read("magicbrush", tmp_path, turns="all") if isinstance(item, BadRecord)]
    assert whole[1] == "session broken: turn 2 starts from 6-input.png"
    put(path, {"5": 1})
    with pytest.raises(DataError, match=r"edit_sessions.json has no sessions by picture"):
        read("magicbrush", tmp_path)


def test_magicbrush_saved_by_datasets(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "img_id": ["5", "5", "6"],
        "turn_index": [1, 2, 1],
        "source_img": [picture(0), picture(1), picture(3)],
        "mask_img": [picture(50)] * 3,
        "instruction": ["step 1", "step 2", "only"],
        "target_img": [picture(1), picture(2), picture(4)],
    }
    save_to_disk(tmp_path / "dev", columns)
    each = read("magicbrush", tmp_path, split="dev")
    assert [item.id.split("/", 2)[2] for item in each] == ["5/1", "5/2", "6/1"]
    first, second = read("magicbrush", tmp_path, split="dev", turns="all")
    assert isinstance(first, Record) and [image.data for image in first.images] == [shaded(0), shaded(1), shaded(2)]
    assert texts(second) == ["<image>\nonly", "<image>"]
    save_to_disk(tmp_path / "test", {key: columns[key] for key in ("img_id", "instruction")})
    with pytest.raises(DataError, match=r"has no column 'turn_index' but \['img_id', 'instruction'\]"):
        read("magicbrush", tmp_path, split="test")
