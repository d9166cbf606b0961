"""The files of kept features: in any order, whole or found damaged, and computed again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.train import train
from setok.data import features as storing
from setok.data.features import FeatureSet, RunFeatures
from setok.errors import DataError
from tests.kept_features import encoded, run_config, sets

__all__ = ["encoded", "sets"]


@settings(max_examples=40)
@given(
    num_rows=st.integers(1, 40),
    batch=st.integers(1, 5),
    part_bytes=st.integers(1, 600),
    wanted=st.lists(st.integers(0, 39), max_size=20),
    turn=st.integers(0, 99),
)
def test_rows_come_back_in_the_order_asked_for(
    tmp_path_factory: pytest.TempPathFactory,
    num_rows: int,
    batch: int,
    part_bytes: int,
    wanted: list[int],
    turn: int,
) -> None:
    values = np.random.default_rng(0).normal(size=(num_rows, 2, 3)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storing, "_PART_BYTES", part_bytes)
        folder = tmp_path_factory.mktemp("features")
        one = FeatureSet.create(folder, {"batch": batch}, num_rows=num_rows, row=values[0])
    assert one.missing() == list(range(one.num_parts))
    for part in one.missing_from(turn):
        rows = one.rows_of(part)
        assert len(rows) % batch == 0 or rows.stop == num_rows
        one.write(part, values[rows.start : rows.stop])
    assert one.missing() == [] == list(one.missing_from(turn))
    rows = np.array([row for row in wanted if row < num_rows], np.int64)
    assert np.array_equal(one.read(rows), values[rows])


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    values = np.zeros((4, 2, 3), np.float32)
    one = FeatureSet.create(tmp_path, {"batch": 2}, num_rows=4, row=values[0])
    one.write(0, values[:3])
    with pytest.raises(DataError, match=r"000000.npy holds float32\[3, 2, 3\](.|\n)*delete it"):
        one.read(np.array([0]))
    (Path(one.folder) / "000000.npy").write_bytes(b"half")
    with pytest.raises(DataError, match=r"000000.npy cannot be read(.|\n)*delete it"):
        one.read(np.array([0]))


@pytest.mark.parametrize("damage", ["empty", "half", "flipped", "header"])
def test_a_damaged_file_is_found_by_its_checksum_and_computed_again(
    sets: list[str], tmp_path: Path, encoded: list[int], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = train(run_config(sets[:1], tmp_path, "first"))
    known = RunFeatures.load(run)
    assert known is not None
    path = Path(known.sets[0].folder) / "000000.npy"
    whole = path.read_bytes()
    place = {"flipped": len(whole) // 2, "header": 20}.get(damage)
    if place is None:
        path.write_bytes(whole[: {"empty": 0, "half": len(whole) // 2}[damage]])
    else:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
    with pytest.raises(DataError, match=r"000000.npy cannot be read: its(.|\n)*checksum(.|\n)*delete it"):
        known.sets[0].read(np.array([0]))
    encoded.clear()
    train(run_config(sets[:1], tmp_path, "second"))
    assert len(encoded) > 2 and path.read_bytes() == whole
    assert "000000.npy cannot be read" in caplog.text and "is computed again" in caplog.text
    encoded.clear()
    train(run_config(sets[:1], tmp_path, "third"))
    assert len(encoded) == 2


def test_a_whole_file_is_verified_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    one = FeatureSet.create(tmp_path, {"batch": 2}, num_rows=4, row=values[0])
    one.write(0, values)
    assert np.array_equal(one.read(np.arange(4)), values)
    monkeypatch.setattr(storing.zlib, "crc32", lambda *given: 0)
    assert np.array_equal(one.read(np.arange(4)), values)
