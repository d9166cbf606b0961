"""Kept features of a frozen encoder: a run that reads them is the run that computes them, and nobody computes them twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ray_jobs.train import train
from ray_jobs.training.decoding import DataSpec, open_decoder
from setok.data import features as storing
from setok.data.collate import rows_to_batch
from setok.data.features import RunFeatures
from setok.data.schema import Manifest
from tests.kept_features import FROZEN, encoded, learned, run_config, sets
from tests.towers import save_tower

__all__ = ["encoded", "sets"]


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
