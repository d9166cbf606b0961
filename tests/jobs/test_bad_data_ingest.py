"""The list of bad data through an ingest: good rows come out as they went in, bad ones go to quarantine with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ray_jobs.ingest import ingest
from setok.config import IngestConfig, build
from setok.data.shards import ShardReader
from setok.errors import DataError
from tests.bad_data import CASES, encode, picture

pytestmark = pytest.mark.usefixtures("ray_local")


def test_every_case(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    expected: dict[str, str] = {}
    for number, case in enumerate(CASES.values()):
        name = f"{number:02d}{case.suffix}"
        (folder / name).write_bytes(case.data)
        expected[f"folder/{name}"] = case.reason
    good = encode(picture(), "PNG")
    for name in ("long.png", "utf8.png"):
        (folder / name).write_bytes(good)
    (folder / "long.txt").write_text("wort " * 20_000)
    (folder / "utf8.txt").write_bytes(b"caf\xe9")
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    expected |= {"folder/long.png": "", "folder/utf8.png": "caption is not UTF-8"}
    expected["folder/dangling.jpg"] = "image file missing"
    (folder / "directory.jpg").mkdir()  # not a file: passed over
    settings = {"name": "t", "sources": [{"kind": "folder", "path": str(folder)}], "output": str(tmp_path / "out")}
    ingest(build(IngestConfig, settings | {"max_bad_fraction": 0.9}))
    lines = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    found = {line["id"]: line["reason"] for line in lines}
    assert found.keys() == {name for name, reason in expected.items() if reason}
    for name, reason in found.items():
        assert reason.startswith(expected[name]), name
    reader = ShardReader(tmp_path / "out")
    rows = reader.take(np.arange(reader.num_rows)).to_pylist()
    assert sorted(row["id"] for row in rows) == sorted(name for name, reason in expected.items() if not reason)
    with pytest.raises(DataError, match=rf"{len(found)} of {len(expected)} records are bad, max_bad_fraction=0.1"):
        ingest(build(IngestConfig, settings | {"max_bad_fraction": 0.1, "output": str(tmp_path / "strict")}))
