"""An ingest whose driver is killed goes on where it was, and ends with the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ray_jobs.ingest import ingest
from ray_jobs.ingesting.journal import JOURNAL, Entry
from setok.config import IngestConfig, build
from setok.data.schema import MANIFEST
from tests.killing import kill_in_the_middle

NUM_PICTURES, ROWS = 160, 4


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Pictures of noise, every fifth one like the one before; large enough to be busy with."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(NUM_PICTURES):
        random = np.random.default_rng(index - (index % 5 == 4))
        pixels = random.integers(0, 255, (500, 500, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03d}.png", compress_level=1)
    return folder


@pytest.mark.usefixtures("ray_local")
def test_killed_and_started_again(pictures: Path, tmp_path: Path) -> None:
    source = {"kind": "folder", "path": str(pictures)}
    tree = {"job": "ingest", "name": "t", "sources": [source], "rows_per_shard": ROWS, "duplicates": "drop"}
    output = tmp_path / "out"
    config_file = tmp_path / "job.yaml"
    config_file.write_text(yaml.safe_dump(tree | {"output": str(output)}))
    kill_in_the_middle("ingest", config_file, once=lambda: len(list((output / JOURNAL).glob("part-*.json"))) >= 3)

    assert not (output / MANIFEST).exists()
    entries = [Entry.from_json(path.read_bytes()) for path in (output / JOURNAL).glob("part-*.json")]
    done = {shard.file: output / shard.file for entry in entries for shard in entry.contents[0].shards}
    assert 3 <= len(done) < NUM_PICTURES // ROWS
    stamps = {name: path.stat().st_mtime_ns for name, path in done.items()}
    inodes = {name: path.stat().st_ino for name, path in done.items()}

    seen: dict[str, int] = {}
    from ray_jobs import ingest as module

    original = module.finish

    def finish_and_look(*arguments: object) -> object:  # before shards with duplicates are taken away
        seen.update({name: path.stat().st_mtime_ns for name, path in done.items()})
        seen.update({f"{name} inode": path.stat().st_ino for name, path in done.items()})
        return original(*arguments)  # type: ignore[arg-type]

    module.finish = finish_and_look  # type: ignore[assignment]
    try:
        resumed = ingest(build(IngestConfig, tree | {"output": str(output)}))
    finally:
        module.finish = original
    assert seen == stamps | {f"{name} inode": inode for name, inode in inodes.items()}

    fresh = ingest(build(IngestConfig, tree | {"output": str(tmp_path / "fresh")}))
    assert resumed == fresh
    assert resumed.num_duplicates == NUM_PICTURES // 5
    assert resumed.num_rows == NUM_PICTURES - NUM_PICTURES // 5
    names = sorted(path.name for path in output.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "fresh").iterdir())
    for name in names:
        assert (output / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()
