"""Writing generated scenes again: what is kept, what is replaced, and what is nobody's to delete."""

from __future__ import annotations

import contextlib
import json
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from setok.data.scenes.layouts import LAYOUTS, main, write_scenes
from setok.errors import ConfigError, DataError


def _write(out: Path, *, count: int = 4, layouts: tuple[str, ...] = LAYOUTS, split: str = "train") -> dict[str, int]:
    return write_scenes(out, split=split, count=count, seed=1, family="plain", layouts=layouts, num_processes=1)


def test_a_finished_split_is_kept_and_a_half_written_one_redone(tmp_path: Path) -> None:
    counts = _write(tmp_path)
    assert counts["scenes"] == counts["coco.images"] == 4
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}
    assert _write(tmp_path) == counts
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths} == before

    stamp = tmp_path / "gqa/scenes_train.json"
    stamp.write_text(stamp.read_text().replace('"complete": true', '"complete": false'))
    (tmp_path / "gqa/images/1.jpg").unlink()
    assert _write(tmp_path) == counts
    assert {path: path.read_bytes() for path in paths} == {path: data for path, (_, data) in before.items()}
    assert (tmp_path / "coco/train2017/000000000001.jpg").stat().st_mtime_ns == before[
        tmp_path / "coco/train2017/000000000001.jpg"
    ][0]


@pytest.mark.timeout(120)
def test_workers_end_with_a_killed_driver(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "setok.data.scenes", "--out", str(tmp_path), "--count", "100000"]
    command += ["--processes", "2"]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    workers: list[psutil.Process] = []
    try:
        while len(list(tmp_path.rglob("*.jpg"))) < 20:
            assert driver.poll() is None
            time.sleep(0.1)
        workers = psutil.Process(driver.pid).children(recursive=True)
        assert len([one for one in workers if "spawn_main" in " ".join(one.cmdline())]) == 2
        driver.kill()
        driver.wait()
        _, left = psutil.wait_procs(workers, timeout=60)
        assert not left
    finally:
        for process in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        driver.kill()
        driver.wait()


def test_another_request_replaces_its_split_only(tmp_path: Path) -> None:
    _write(tmp_path)
    _write(tmp_path, split="val")
    _write(tmp_path, count=2)
    for folder, number in (("coco/train2017", 2), ("coco/val2017", 4), ("gqa/images", 6)):
        assert len(list((tmp_path / folder).iterdir())) == number
    refs = pickle.loads((tmp_path / "refcoco/refcoco/refs(unc).p").read_bytes())
    assert len({ref["image_id"] for ref in refs if ref["split"] == "train"}) == 2
    assert len({ref["image_id"] for ref in refs if ref["split"] == "val"}) == 4


def test_questions_are_not_left_behind_when_their_pictures_change(tmp_path: Path) -> None:
    _write(tmp_path, layouts=("vqav2",))
    assert (tmp_path / "coco/train2017/000000000001.jpg").is_file()
    _write(tmp_path, count=2, layouts=("coco",))
    assert json.loads((tmp_path / "vqav2/scenes_train.json").read_text())["complete"] is False


def test_files_of_somebody_else_are_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "coco/train2017/000000000001.jpg"
    precious.parent.mkdir(parents=True)
    precious.write_text("a real photograph")
    with pytest.raises(DataError, match="not written by the scene generator") as error:
        _write(tmp_path, layouts=("coco",))
    assert "another output folder" in error.value.remedy
    assert precious.read_text() == "a real photograph"


@pytest.mark.parametrize(
    ("change", "value", "remedy"),
    [
        ({"layouts": ("coco", "vqa2")}, "'vqa2'", "did you mean 'vqav2'?"),
        ({"layouts": ()}, "no layout", "coco, vqav2"),
        ({"split": "valid"}, "'valid'", "did you mean 'val'?"),
        ({"count": 0}, "count=0", "count=1000"),
        ({"family": "hrad"}, "'hrad'", "did you mean 'hard'?"),
    ],
)
def test_impossible_requests_write_nothing(tmp_path: Path, change: dict[str, Any], value: str, remedy: str) -> None:
    request = {"split": "train", "count": 4, "seed": 1, "family": "plain", "layouts": ("coco",)} | change
    with pytest.raises(ConfigError) as error:
        write_scenes(tmp_path, **request)
    assert value in error.value.problem and remedy in error.value.remedy
    assert not list(tmp_path.iterdir())


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--out",
        str(tmp_path / "out"),
        "--count",
        "3",
        "--processes",
        "1",
        "--layouts",
        "coco,imagenet",
    ]
    assert main([*arguments, "--preview", str(tmp_path / "sheet.png")]) == 0
    said = capsys.readouterr().out
    assert "3 scenes" in said and "scenes/s" in said and "imagenet.data 3" in said
    assert Image.open(tmp_path / "sheet.png").size == (1280, 256)
    assert main([*arguments, "--family", "plane"]) == 2
    assert "did you mean 'plain'?" in capsys.readouterr().out
