"""Kept features that cannot be right are refused, and a run that stops or fails while it computes them says so."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_jobs.launch import Stopped
from ray_jobs.train import train
from ray_jobs.training import features as computing
from ray_jobs.training.dataset import check_block_size
from ray_jobs.training.decoding import DataSpec
from ray_jobs.training.dry_run import dry_run
from ray_jobs.training.preflight import check_features
from ray_jobs.training.stopping import STOP
from ray_jobs.tuning.before_start import check_before_start as check_sweep
from setok.config import TuneConfig, build
from setok.data import features as storing
from setok.data.features import RunFeatures
from setok.errors import CheckpointError, ConfigError, DataError
from setok.models.encoder.scratch import ScratchEncoder
from tests.kept_features import encoded, run_config, sets

__all__ = ["encoded", "sets"]


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
