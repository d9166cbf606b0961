"""Whole training runs: on Ray and in this process, stopped, killed and gone on with, on the same samples."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ray_jobs.evaluate import evaluate
from ray_jobs.evaluation.tokenizer_files import read_pictures
from ray_jobs.ingest import ingest
from ray_jobs.train import train
from ray_jobs.training.tracking import read_metrics
from setok import checkpoint
from setok.config import EvaluateConfig, IngestConfig, TrainConfig, build
from setok.errors import CheckpointError, ConfigError, DataError
from setok.predictor import TokenizerPredictor

LOSSES = ("train/loss", "train/l1", "train/contrast", "train/grad_norm")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Path:
    """A small ingested set: 40 pictures of two colours, one of them junk."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(40):
        image = np.full((20, 24, 3), rng.integers(0, 256, 3), np.uint8)
        image[4:14, 6:18] = rng.integers(0, 256, 3)
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        (folder / f"{number:02d}.png").write_bytes(buffer.getvalue())
        (folder / f"{number:02d}.txt").write_text(f"a picture of a {['red', 'blue', 'old'][number % 3]} thing")
    output = folder.parent / "set"
    config = {"name": "ingest", "sources": [{"kind": "folder", "path": str(folder)}], "output": str(output)}
    ingest(build(IngestConfig, config))
    return output


def run_config(pictures: Path, output: Path, name: str, **changes: object) -> TrainConfig:
    tree = {
        "name": name,
        "output_dir": str(output),
        "model": {
            "image_size": 16,
            "encoder": {"width": 24},
            "clustering": {"feature_dim": 8, "sharpness": 4.0, "max_tokens": 4},
            "detokenizer": {"width": 24, "depth": 1},
        },
        "loss": {"feature_target": 1.0, "contrast": 0.3},
        "data": {"train": [{"path": str(pictures)}], "steps_per_block": 2},
        "train": {
            "steps": 8,
            "global_batch_size": 8,
            "micro_batch_size": 2,
            "log_every": 1,
            "image_every": 4,
            "deterministic": True,
            "threads_per_worker": 1,
        },
        "scaling": {"num_workers": 0},
        "checkpoint": {"every": 4, "keep": 3},
    }
    for key, value in changes.items():
        tree[key] = tree[key] | value if isinstance(tree.get(key), dict) else value
    return build(TrainConfig, tree)


def losses(run: Path) -> dict[int, list[float]]:
    lines = read_metrics(run)
    steps = [int(line["step"]) for line in lines]
    assert steps == sorted(set(steps)), "a step is logged once, in order"
    return {int(line["step"]): [line[name] for name in LOSSES] for line in lines}


def drop_after(run: Path, step: int) -> None:
    """Make a finished run look as if it had been stopped right after a checkpoint."""
    for path in checkpoint.list_checkpoints(run):
        if checkpoint.step_of(path) > step:
            shutil.rmtree(path)


def test_train_4_and_resume_to_8_is_train_8_to_the_bit(pictures: Path, tmp_path: Path) -> None:
    whole = train(run_config(pictures, tmp_path, "whole"))
    halved = train(run_config(pictures, tmp_path, "halved"))
    drop_after(halved, 4)
    train(run_config(pictures, tmp_path, "halved"))
    assert losses(whole) == losses(halved)
    assert set(losses(whole)) == set(range(1, 9))
    final = [run / "checkpoints" / "step_00000008" / "model.safetensors" for run in (whole, halved)]
    assert final[0].read_bytes() == final[1].read_bytes()


def test_a_finished_run_is_left_alone(pictures: Path, tmp_path: Path) -> None:
    run = train(run_config(pictures, tmp_path, "once", train=run_config(pictures, tmp_path, "x").train.model_dump()))
    before = {path: path.stat().st_mtime_ns for path in (run / "checkpoints").rglob("*")}
    train(run_config(pictures, tmp_path, "once"))
    assert {path: path.stat().st_mtime_ns for path in (run / "checkpoints").rglob("*")} == before


def test_two_workers_equal_one(pictures: Path, tmp_path: Path) -> None:
    """Where weights are split; ``test_engine_deepspeed`` has the other stages."""
    one = train(run_config(pictures, tmp_path, "one"))
    changes = {"scaling": {"num_workers": 2, "cpus_per_worker": 0.5}, "deepspeed": {"zero_stage": 3}}
    two = train(run_config(pictures, tmp_path, "two", **changes))
    expected, got = losses(one), losses(two)
    assert expected.keys() == got.keys()
    for step, values in expected.items():
        np.testing.assert_allclose(got[step], values, rtol=2e-4, atol=1e-5, err_msg=f"step {step}")


def test_two_workers_read_the_kept_features_of_a_frozen_encoder(pictures: Path, tmp_path: Path) -> None:
    frozen = {"optim": {"learning_rate_scale": {"encoder": 0.0}}}
    computed = train(run_config(pictures, tmp_path, "computed", **frozen))
    folder = tmp_path / "features"
    kept = train(
        run_config(
            pictures,
            tmp_path,
            "kept",
            data={"features": str(folder)},
            scaling={"num_workers": 2, "cpus_per_worker": 0.5, "engine": "torch"},
            **frozen,
        )
    )
    assert len(list(folder.glob("*/*.npy"))) == 1, "computed by the workers' processes, before the training"
    one, two = losses(computed), losses(kept)
    assert one.keys() == two.keys()
    for step in one:
        assert two[step] == pytest.approx(one[step], rel=1e-4)


def test_whole_pictures_with_padding_are_trained_and_measured(pictures: Path, tmp_path: Path) -> None:
    """Of 20 × 24 pixels, 12 × 16 remain in the square of 16; the others count nowhere."""
    model = {
        "image_size": 16,
        "resize": "fit",
        "encoder": {"width": 24},
        "clustering": {"feature_dim": 8, "sharpness": 4.0, "max_tokens": 4},
        "detokenizer": {"width": 24, "depth": 1, "patch_size": 4},
    }
    # The adaptive weight balances the micro-batches that run together, which two workers divide otherwise.
    adversarial = {"adversarial": 0.1, "adversarial_start_step": 2, "adversarial_adaptive": False}
    discriminator = {"width": 4, "depth": 1}
    changes = {"model": model, "loss": adversarial, "discriminator": discriminator}
    one = train(run_config(pictures, tmp_path, "fit", **changes))
    shared = {"scaling": {"num_workers": 2, "cpus_per_worker": 0.5}, "deepspeed": {"zero_stage": 2}}
    two = train(run_config(pictures, tmp_path, "fit-two", **changes, **shared))
    expected, got = losses(one), losses(two)
    assert set(expected) == set(range(1, 9))
    for step, values in expected.items():
        np.testing.assert_allclose(got[step], values, rtol=1e-3, atol=1e-5, err_msg=f"step {step}")
    tree = {"name": "measured", "output_dir": str(tmp_path), "checkpoint": str(one), "data": str(pictures)}
    metrics = evaluate(build(EvaluateConfig, tree | {"num_pictures": 3}))
    assert (metrics["num_images"], metrics["num_skipped"]) == (40, 0)
    shown = read_pictures(tmp_path / "measured")
    for picture in shown:
        assert picture.original.shape == (16, 16, 3) and not picture.original[12:].any()
        assert not picture.reconstruction[12:].any()
        lattice = picture.assignment.reshape(4, 4)
        assert (lattice[3] == -1).all() and (lattice[:3] >= 0).all()
    error = [((p.original[:12].astype(float) - p.reconstruction[:12]) / 255) ** 2 for p in shown]
    for picture, squares in zip(shown, error, strict=True):
        assert picture.psnr == pytest.approx(-10 * np.log10(squares.mean()), abs=0.2), "over the picture alone"


def test_weights_come_back_through_the_predictor(pictures: Path, tmp_path: Path) -> None:
    run = train(run_config(pictures, tmp_path, "run"))
    predictor = TokenizerPredictor.from_checkpoint(run)
    assert predictor.image_size == 16
    started = train(run_config(pictures, tmp_path, "second", checkpoint={"init_from": str(run)}, train={"steps": 1}))
    first = json.loads((started / "metrics.jsonl").read_text().splitlines()[0])
    fresh = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert first["train/loss"] < fresh["train/loss"], "it starts from trained weights"


def test_a_checkpoint_of_another_model_is_refused(pictures: Path, tmp_path: Path) -> None:
    train(run_config(pictures, tmp_path, "run", train={"steps": 1}))
    wider = {"image_size": 16, "encoder": {"width": 48}, "detokenizer": {"width": 24, "depth": 1}}
    with pytest.raises(CheckpointError, match=r"another[\s\S]*→"):
        train(run_config(pictures, tmp_path, "run", model=wider))


def test_what_the_cluster_cannot_give_is_refused_at_once(pictures: Path, tmp_path: Path) -> None:
    changes = {"scaling": {"num_workers": 8, "cpus_per_worker": 1.0}, "train": {"global_batch_size": 16}}
    with pytest.raises(ConfigError, match=r"the run needs 8\.5 CPUs[\s\S]*→ lower scaling\.num_workers"):
        train(run_config(pictures, tmp_path, "huge", **changes))


def test_missing_data_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist[\s\S]*→ make it with: python -m ray_jobs\.ingest"):
        train(run_config(tmp_path / "nowhere", tmp_path, "run"))


def test_wandb_offline_is_written_by_one_rank(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = {"wandb": {"project": "test", "mode": "offline"}}
    run = train(run_config(pictures, tmp_path, "tracked", logging=wandb, train={"steps": 2}))
    assert len(list(run.rglob("*.wandb"))) == 1
    assert list((run / "tensorboard").glob("events.*"))


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(pictures: Path, tmp_path: Path) -> None:
    config = run_config(pictures, tmp_path, "run", train={"steps": 4})
    run = train(config)
    for path in checkpoint.list_checkpoints(run):
        (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"none of the checkpoints[\s\S]*→ to start over, delete"):
        train(config)
