"""Scores of pictures beside the true ones, and of features of pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from setok.errors import ConfigError, DataError
from setok.metrics.editing import picture_rows
from setok.models.perceptual import load_perceptual
from tests.scored import Score, pictures, score
from tests.unit.test_perceptual import random_weights

__all__ = ["score"]


@pytest.mark.parametrize(("task", "figures"), [("reconstruction", "psnr ssim l1 l2"), ("editing", "l1 l2")])
def test_pictures(score: Score, tmp_path: Path, task: str, figures: str) -> None:
    made, true = pictures(tmp_path / "made", 3, seed=0), pictures(tmp_path / "true", 3, seed=1)
    found = score(task, tmp_path / "made", tmp_path / "true")
    one, other = (torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255 for stack in (made, true))
    expected = {name: values.mean() for name, values in picture_rows(one, other).items() if name in figures.split()}
    assert found == pytest.approx(expected | {"num_samples": 3})
    np.savez(tmp_path / "made.npz", made)
    np.savez(tmp_path / "true.npz", true)
    assert score(task, tmp_path / "made.npz", tmp_path / "true.npz") == found


def test_pictures_that_do_not_pair(score: Score, tmp_path: Path) -> None:
    pictures(tmp_path / "made", 2, seed=0)
    pictures(tmp_path / "true", 3, seed=1)
    with pytest.raises(DataError, match="1 of 3 missing: 2"):
        score("editing", tmp_path / "made", tmp_path / "true")
    Image.new("RGB", (5, 5)).save(tmp_path / "made" / "2.jpg")
    with pytest.raises(DataError, match=r"1 of another size than the true one: 2 \(5 × 5, not 16 × 20\)"):
        score("editing", tmp_path / "made", tmp_path / "true")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no pictures"):
        score("editing", tmp_path / "empty", tmp_path / "true")


@pytest.mark.parametrize("kept", [0, 60])
def test_a_file_of_features_that_was_cut_off(score: Score, tmp_path: Path, kept: int) -> None:
    whole = tmp_path / "whole.npz"
    np.savez(whole, features=np.eye(6))
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:kept])
    for task in ("fid", "reconstruction"):
        with pytest.raises(DataError, match=r"cut\.npz (cannot be read as|is no) npz"):
            score(task, tmp_path / "cut.npz", whole)


def test_features_that_are_none(score: Score, tmp_path: Path) -> None:
    whole, wrong = tmp_path / "whole.npz", tmp_path / "wrong.npz"
    np.savez(whole, features=np.eye(6))
    np.savez(wrong, features=np.ones(6))
    with pytest.raises(DataError, match=r"features of shape \(6,\)"):
        score("fid", wrong, whole)
    np.savez(wrong, features=np.full((6, 6), np.nan))
    with pytest.raises(DataError, match="NaN or infinity"):
        score("fid", wrong, whole)


def test_fid_of_features(score: Score, tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(30, 4))
    np.savez(tmp_path / "one.npz", features=features)
    np.savez(tmp_path / "other.npz", mu=features.mean(0) + 2, sigma=np.cov(features.T))
    assert score("fid", tmp_path / "one.npz", tmp_path / "other.npz")["fid"] == pytest.approx(16)
    pictures(tmp_path / "made", 2, seed=0)
    with pytest.raises(
        ConfigError, match=r"no network to take features with(.|\n)*--variant pytorch-fid or torch-fidelity"
    ):
        score("fid", tmp_path / "made", tmp_path / "one.npz")


def test_fid_of_pictures(score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real network takes seconds a picture here, so a small one stands in: the mean colour."""
    made, true = pictures(tmp_path / "made", 20, seed=0), pictures(tmp_path / "true", 25, seed=1)
    Image.fromarray(true[0]).resize((8, 8)).save(tmp_path / "true" / "9small.png")

    def small(_path: Path, variant: str) -> Callable[[torch.Tensor], torch.Tensor]:
        assert variant == "pytorch-fid"
        return lambda pixels: pixels.double().mean((2, 3))

    monkeypatch.setattr("setok.models.inception.load_inception", small)
    weights = tmp_path / "weights.pth"
    weights.touch()
    options = ("--inception", str(weights), "--variant", "pytorch-fid")
    found = score("fid", tmp_path / "made", tmp_path / "true", *options)
    assert found["variant"] == "pytorch-fid"
    shown = [*true, np.array(Image.fromarray(true[0]).resize((8, 8)))]
    one, other = (np.array([p.reshape(-1, 3).mean(0) for p in stack]) for stack in (made, shown))
    np.savez(tmp_path / "one.npz", features=one)
    np.savez(tmp_path / "other.npz", features=other)
    expected = score("fid", tmp_path / "one.npz", tmp_path / "other.npz")["fid"]
    assert found["fid"] == pytest.approx(expected)


def test_networks_that_are_named(score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, true = pictures(tmp_path / "made", 3, seed=0), pictures(tmp_path / "true", 3, seed=1)
    one, other = (torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255 for stack in (made, true))
    save_file(random_weights(), tmp_path / "lpips.safetensors")
    lpips = load_perceptual(tmp_path / "lpips.safetensors")
    found = score(
        "reconstruction", tmp_path / "made", tmp_path / "true", "--lpips", str(tmp_path / "lpips.safetensors")
    )
    assert found["lpips"] == pytest.approx(lpips(one, other).mean().item(), rel=1e-4)

    def brightest(_folder: Path, _kind: str) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda pixels: pixels.amax((2, 3)) - 0.9

    monkeypatch.setattr("setok.models.picture_features.load_picture_features", brightest)
    found = score("editing", tmp_path / "made", tmp_path / "true", "--clip", str(tmp_path), "--dino", str(tmp_path))
    cosine = torch.nn.functional.cosine_similarity(one.amax((2, 3)) - 0.9, other.amax((2, 3)) - 0.9)
    assert found["clip_i"] == found["dino"] == pytest.approx(cosine.mean().item(), rel=1e-4)


def test_a_missing_weights_file(score: Score, tmp_path: Path) -> None:
    pictures(tmp_path / "made", 2, seed=0)
    for task, option in (
        ("reconstruction", "--lpips"),
        ("editing", "--clip"),
        ("editing", "--dino"),
        ("fid", "--inception"),
    ):
        more = ("--variant", "pytorch-fid") if option == "--inception" else ()
        with pytest.raises(ConfigError, match=f"{option}: there is no .*nowhere"):
            score(task, tmp_path / "made", tmp_path / "made", option, str(tmp_path / "nowhere"), *more)


def test_rfid_beside_the_pairs(score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "made", 5, seed=0)
    pictures(tmp_path / "true", 5, seed=1)
    mean_colour = lambda pixels: pixels.double().mean((2, 3))  # noqa: E731
    monkeypatch.setattr("setok.models.inception.load_inception", lambda path, variant: mean_colour)
    options = ("--inception", str(tmp_path), "--variant", "torch-fidelity")
    both = score("reconstruction", tmp_path / "made", tmp_path / "true", *options)
    assert both["rfid"] == score("fid", tmp_path / "made", tmp_path / "true", *options)["fid"] > 0
    assert both["variant"] == "torch-fidelity" and both["psnr"] > 0
