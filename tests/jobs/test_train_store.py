"""Runs whose checkpoints lie in a bucket: the same training, an exact resume, and damage that costs steps and nothing else."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from ray_jobs.train import train
from setok import checkpoint
from setok.checkpoint import Store
from setok.config import TrainConfig
from setok.data.storage import beside
from setok.errors import CheckpointError, DataError
from setok.export import export_tokenizer
from setok.predictor import TokenizerPredictor
from tests.checkpoints import damage, flipped
from tests.jobs.test_train import losses, pictures, run_config  # noqa: F401 - a fixture among them
from tests.s3_faults import S3Faults


def in_bucket(pictures: Path, output: Path, name: str, address: str, **changes: object) -> TrainConfig:  # noqa: F811
    saving = {"store": address, "every": 4, "keep": 3}
    return run_config(pictures, output, name, **{"checkpoint": saving} | changes)


def test_resume_from_a_bucket_is_exact_to_the_bit(
    pictures: Path,  # noqa: F811
    tmp_path: Path,
    s3_folder: str,
) -> None:
    whole = train(run_config(pictures, tmp_path, "whole"))
    config = in_bucket(pictures, tmp_path, "halved", s3_folder)
    run = train(config)
    home = checkpoint.home_of(config)
    assert Store.of_run(home).steps() == [8, 4] and not (run / "checkpoints").exists()
    Store.of_run(home).delete(8)
    assert train(config) == run
    assert losses(whole) == losses(run)
    weights = [checkpoint.resolve(there) / "model.safetensors" for there in (whole, run, home)]
    assert weights[0].read_bytes() == weights[1].read_bytes() == weights[2].read_bytes()
    # What takes a run's folder takes its address too.
    assert TokenizerPredictor.from_checkpoint(beside(home, "@best")).image_size == 16
    export_tokenizer(home, tmp_path / "exported")
    assert (tmp_path / "exported" / "model.safetensors").is_file()
    second = run_config(pictures, tmp_path, "second", checkpoint={"init_from": home}, train={"steps": 1})
    assert losses(train(second))[1][0] < losses(whole)[1][0], "it starts from trained weights"


def test_two_workers_fall_back_in_a_bucket_whatever_ray_has_kept(
    pictures: Path,  # noqa: F811
    tmp_path: Path,
    s3_folder: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = train(run_config(pictures, tmp_path, "whole"))
    config = in_bucket(pictures, tmp_path, "two", s3_folder, scaling={"num_workers": 2, "cpus_per_worker": 0.5})
    run = train(config)
    damage(checkpoint.home_of(config), 8, "model.safetensors", flipped)
    snapshots = [path for path in (run / "ray").rglob("*") if path.is_file()]
    assert snapshots, "Ray keeps something of its own, which is spoilt here"
    for path in snapshots:
        path.write_bytes(b'{"checkpoint_results": [')
    with caplog.at_level(logging.WARNING):
        train(config)
    assert "step_00000008 is damaged and is skipped: model.safetensors has another checksum" in caplog.text
    assert Store.of_run(checkpoint.home_of(config)).problems(8) == []
    for step, values in losses(whole).items():
        np.testing.assert_allclose(losses(run)[step], values, rtol=2e-3, atol=1e-4, err_msg=f"step {step}")


def test_a_store_that_refuses_is_told_before_anything_is_trained(
    pictures: Path,  # noqa: F811
    tmp_path: Path,
    s3_folder: str,
    s3_faults: S3Faults,
) -> None:
    s3_faults.refuse("probe")
    with pytest.raises((CheckpointError, DataError), match="AWS_ACCESS_KEY_ID"):
        train(in_bucket(pictures, tmp_path, "refused", s3_folder))
    assert not (tmp_path / "refused" / "metrics.jsonl").exists()
