"""Kept features of a frozen encoder: a run that reads them is the run that computes them, and nobody computes them twice."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.launch import Stopped
from ray_jobs.train import train
from ray_jobs.training import features as computing
from ray_jobs.training.dataset import check_block_size
from ray_jobs.training.decoding import DataSpec, open_decoder
from ray_jobs.training.dry_run import dry_run
from ray_jobs.training.preflight import check_features
from ray_jobs.training.stopping import STOP
from ray_jobs.training.tracking import read_metrics
from ray_jobs.tuning.before_start import check_before_start as check_sweep
from setok.config import TrainConfig, TuneConfig, build
from setok.data import features as storing
from setok.data.collate import rows_to_batch
from setok.data.features import FeatureSet, RunFeatures
from setok.data.schema import Manifest
from setok.data.shards import write_shard
from setok.errors import CheckpointError, ConfigError, DataError
from setok.models.encoder.scratch import ScratchEncoder
from tests import squares
from tests.towers import save_tower

FROZEN = {"learning_rate_scale": {"encoder": 0.0}}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two sets; of the second one a picture cannot be read."""
    folder = tmp_path_factory.mktemp("sets")
    first = squares.write_set(folder / "one")
    made = squares.records()[:13]
    made[4] = replace(made[4], images=[replace(image, data=b"no picture") for image in made[4].images])
    (second := folder / "two").mkdir()
    shard = write_shard(second / "shard.parquet", made)
    assert shard is not None
    Manifest(shards=[shard], records_by_source={"s": 13}, quarantined_by_reason={}).save(second)
    return [str(first), str(second)]


def run_config(sets: list[str], output: Path, name: str = "run", *, kept: bool = True, **changes: Any) -> TrainConfig:
    tree: dict[str, Any] = {
        "name": name,
        "output_dir": str(output / "runs"),
        "model": {
            "image_size": 16,
            "encoder": {"width": 24},
            "clustering": {"feature_dim": 8, "sharpness": 4.0, "max_tokens": 4},
            "detokenizer": {"width": 24, "depth": 1},
        },
        "loss": {"feature_target": 1.0, "contrast": 0.3},
        "data": {"train": [{"path": path} for path in sets], "features": str(output / "features") if kept else None},
        "optim": FROZEN,
        "train": {
            "steps": 6,
            "global_batch_size": 6,
            "micro_batch_size": 3,
            "log_every": 1,
            "deterministic": True,
            "threads_per_worker": 1,
        },
        "scaling": {"num_workers": 0},
        "checkpoint": {"every": 3},
        "logging": {"tensorboard": False},
    }
    for key, value in changes.items():
        tree[key] = tree[key] | value if isinstance(tree.get(key), dict) else value
    return build(TrainConfig, tree)


def learned(run: Path) -> list[dict[str, float]]:
    """All that was logged of the training itself."""
    return [{k: v for k, v in row.items() if k.startswith("train/") or k == "step"} for row in read_metrics(run)]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of pictures that encoders are asked for."""
    asked: list[int] = []
    forward = ScratchEncoder.forward

    def counted(self: ScratchEncoder, pixel_values: torch.Tensor, patch_mask: torch.Tensor | None = None) -> Any:
        asked.append(len(pixel_values))
        return forward(self, pixel_values, patch_mask)

    monkeypatch.setattr(ScratchEncoder, "forward", counted)
    return asked


# ---------------------------------------------------------------- exact


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train": {"precision": "bf16", "micro_batch_size": 2}},
        {"model": {"image_size": 16, "resize": "fit"}},
    ],
    ids=["fp32", "bf16", "fit"],
)
def test_a_run_on_kept_features_is_the_same_to_the_bit(
    sets: list[str], tmp_path: Path, encoded: list[int], changes: dict[str, Any]
) -> None:
    computed = learned(train(run_config(sets, tmp_path, "computed", kept=False, **changes)))
    in_training = len(encoded)
    kept = learned(train(run_config(sets, tmp_path, "kept", **changes)))
    assert len(computed) == 6 and kept == computed
    known = RunFeatures.load(tmp_path / "runs" / "kept")
    assert known is not None
    size = 2 if "train" in changes else 3
    once = sum(-(-one.num_rows // size) for one in known.sets)
    assert len(encoded) - in_training == 2 + once, "every picture once, the first one to see what features are like"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_on_kept_features_of_a_pretrained_tower_is_the_same_to_the_bit(
    sets: list[str], tmp_path: Path, precision: str
) -> None:
    save_tower("siglip_vision", tmp_path / "tower")
    changes = {
        "model": {"image_size": 32, "encoder": {"kind": "huggingface", "path": str(tmp_path / "tower")}},
        "train": {"precision": precision},
    }
    computed = learned(train(run_config(sets, tmp_path, "computed", kept=False, **changes)))
    assert learned(train(run_config(sets, tmp_path, "kept", **changes))) == computed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_travel_as_they_are(dtype: torch.dtype) -> None:
    features = torch.randn(2, 4, 3).to(dtype)
    stored = features.view(torch.int16).numpy() if dtype == torch.bfloat16 else features.numpy()
    columns = {"pixels": np.zeros((2, 3, 4, 4)), "valid": [True, True], "concepts": ["[]"] * 2, "id": ["a", "b"]}
    batch = rows_to_batch(columns | {storing.COLUMN: stored})
    assert batch.features is not None and batch.features.dtype == dtype and torch.equal(batch.features, features)


def test_a_row_of_padding_and_a_picture_that_cannot_be_read_change_nothing(sets: list[str], tmp_path: Path) -> None:
    train(config := run_config(sets, tmp_path))
    decoder = open_decoder(DataSpec.of(config, start_step=0, num_workers=1))
    batch = rows_to_batch(decoder.read(np.array([*range(36), -1])))
    assert 1 < int((~batch.valid).sum()) < 5 and not batch.valid[-1]
    assert batch.features is not None and batch.features.shape == (37, 16, 24)
    assert torch.isfinite(batch.features).all()


def test_a_run_goes_on_from_its_checkpoint(sets: list[str], tmp_path: Path) -> None:
    half = {"steps": 3, "threads_per_worker": 1}
    schedule = {"optim": FROZEN | {"schedule": "constant", "warmup_fraction": 0.0}}
    whole = learned(train(run_config(sets, tmp_path, "constant", kept=False, **schedule)))
    train(run_config(sets, tmp_path, train=half, **schedule))
    assert learned(train(run_config(sets, tmp_path, **schedule))) == whole


# ---------------------------------------------------------------- shared


def test_runs_with_the_same_encoder_share_them(sets: list[str], tmp_path: Path, encoded: list[int]) -> None:
    train(run_config(sets, tmp_path, "first"))
    assert len(encoded) > 2
    encoded.clear()
    train(run_config(sets, tmp_path, "second", loss={"contrast": 0.0}, optim=FROZEN | {"learning_rate": 1e-4}))
    assert encoded == [3, 3], "one picture, twice, to see that it does not draw at random"
    encoded.clear()
    train(run_config(sets, tmp_path, "another", seed=1))
    assert len(encoded) > 2, "the seed draws other weights"
    assert len(list((tmp_path / "features").iterdir())) == 4


def test_what_a_killed_run_had_is_not_computed_again(
    sets: list[str], tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "_PART_BYTES", 1)  # a file for every micro-batch
    train(run_config(sets, tmp_path, "first"))
    paths = sorted((tmp_path / "features").glob("*/*.npy"))
    assert len(paths) == sum(-(-Manifest.load(path).num_rows // 3) for path in sets) > 10
    whole = paths[3].read_bytes()
    paths[3].unlink()
    encoded.clear()
    train(run_config(sets, tmp_path, "second"))
    assert encoded == [3, 3, 3] and paths[3].read_bytes() == whole


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"optim": {"learning_rate_scale": {}}}, r"encoder is missing(.|\n)*learning_rate_scale.encoder=0"),
        ({"optim": {"learning_rate_scale": {"encoder": 0.1}}}, r"encoder is 0.1(.|\n)*learning_rate_scale.encoder=0"),
        ({"data": {"features": "f", "augment": {}}}, r"another view(.|\n)*data.augment=null"),
        ({"data": {"features": "s3://bucket/f"}}, r"too slow(.|\n)*a folder"),
    ],
)
def test_where_features_are_not_the_same_every_time_they_are_refused(
    sets: list[str], tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        run_config(sets, tmp_path, **changes)


def test_an_encoder_that_draws_is_refused(sets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = ScratchEncoder.forward
    monkeypatch.setattr(
        ScratchEncoder, "forward", lambda self, *given: torch.nn.functional.dropout(forward(self, *given), 0.5)
    )
    with pytest.raises(ConfigError, match=r"draws at random(.|\n)*data.features=null"):
        train(run_config(sets, tmp_path))


def test_a_disk_that_is_too_small_is_refused(sets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(computing.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(ConfigError, match=r"GiB are free(.|\n)*a larger disk"):
        train(run_config(sets, tmp_path))


def test_features_of_other_weights_are_refused(sets: list[str], tmp_path: Path) -> None:
    run = train(config := run_config(sets, tmp_path))
    stage = computing.build_stage(config)
    with pytest.raises(CheckpointError, match=r"of other weights(.|\n)*start the run again"):
        computing.check_encoder(config, stage)  # drawn from another seed
    (run / storing.ABOUT).unlink()
    with pytest.raises(DataError, match=r"has no features.json(.|\n)*ray_jobs.train"):
        DataSpec.of(config, start_step=0, num_workers=1)


def test_blocks_count_them(sets: list[str], tmp_path: Path) -> None:
    run = train(config := run_config(sets, tmp_path))
    check_block_size(config, num_workers=1)
    known = json.loads((run / storing.ABOUT).read_text())
    for one in known["sets"]:
        one["shape"] = [4096, 1024]
    (run / storing.ABOUT).write_text(json.dumps(known))
    with pytest.raises(ConfigError, match=r"with their features(.|\n)*steps_per_block=1"):
        check_block_size(config, num_workers=1)


# ---------------------------------------------------------------- files


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


# ---------------------------------------------------------------- stopped, failed


@pytest.mark.parametrize("by", ["signal", "file"])
def test_a_run_that_is_asked_to_stop_computes_no_further_batch(
    sets: list[str], tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(storing, "_PART_BYTES", 1)  # a file for every micro-batch
    config = run_config(sets, tmp_path)
    forward = ScratchEncoder.forward

    def asked(self: ScratchEncoder, *given: Any) -> Any:
        if len(encoded) == 5:
            os.kill(os.getpid(), signal.SIGTERM) if by == "signal" else (config.run_dir / STOP).touch()
        return forward(self, *given)

    monkeypatch.setattr(ScratchEncoder, "forward", asked)
    with pytest.raises(Stopped) as stopped:
        train(config)
    assert stopped.value.number == signal.SIGTERM and not stopped.value.saved
    assert len(encoded) == 6 and len(list((tmp_path / "features").glob("*/*.npy"))) == 4
    train(config)
    assert (config.run_dir / "metrics.jsonl").is_file(), "the same command goes on"


def test_what_fails_while_features_are_computed_is_in_the_runs_folder(
    sets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: Any) -> None:
        raise DataError("the shard is gone", "ingest it again")

    monkeypatch.setattr(computing.FeatureSet, "write", broken)
    config = run_config(sets, tmp_path)
    with pytest.raises(DataError, match="the shard is gone"):
        train(config)
    assert "the shard is gone" in (config.run_dir / "failure.txt").read_text()


@pytest.mark.parametrize("place", ["a file", "within a file"])
def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_starts(
    sets: list[str], tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" if place == "a file" else tmp_path / "file" / "features"
    config = run_config(sets, tmp_path, data={"features": str(folder)})
    expected = rf"data.features={folder} cannot be written to(.|\n)*data.features=null"
    for start in (train, dry_run):
        with pytest.raises(ConfigError, match=expected):
            start(config)
    sweep = {
        "name": "sweep",
        "output_dir": str(tmp_path),
        "train": config.model_dump(mode="json"),
        "space": {"seed": {"values": [0, 1]}},
        "objectives": [{"metric": "train/loss"}],
    }
    with pytest.raises(ConfigError, match=expected):
        check_sweep(build(TuneConfig, sweep))


def test_looking_whether_a_folder_can_be_written_to_leaves_nothing(tmp_path: Path) -> None:
    check_features(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "a").mkdir()
    check_features(tmp_path / "a")
    assert not list((tmp_path / "a").iterdir())


def test_features_are_named_by_the_threads_that_compute_them(sets: list[str], tmp_path: Path) -> None:
    threads = {"threads_per_worker": None, "steps": 1}
    run = train(run_config(sets, tmp_path, train=threads, checkpoint={"every": 1}))
    known = RunFeatures.load(run)
    assert known is not None
    about = json.loads((Path(known.sets[0].folder) / storing.ABOUT).read_text())
    assert about["made_from"]["threads"] == len(os.sched_getaffinity(0))
