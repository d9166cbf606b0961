"""PSNR, SSIM, L1 and MSE against scikit-image's figures and by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from setok.metrics import references
from setok.metrics.reconstruction import LARGEST_PSNR, mean_absolute_error, mean_squared_error, psnr, ssim

GOLDEN = Path(__file__).parents[3] / "shared" / "realdata" / "golden" / "recon"


def picture(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).unsqueeze(0).float() / 255


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the golden pictures are not at {GOLDEN}")
def test_scikit_image_agrees_on_photos() -> None:
    pairs = json.loads((GOLDEN / "expected.json").read_text())["pairs"]
    assert len(pairs) == 12
    for pair in pairs:  # three degradations of four photos
        target, got = picture(GOLDEN / pair["ref"]), picture(GOLDEN / pair["rec"])
        wang = next(value for key, value in pair.items() if key.startswith("ssim_skimage_wang2004"))
        assert ssim(got, target).item() == pytest.approx(wang, abs=1e-6)
        assert psnr(got, target).item() == pytest.approx(pair["psnr_skimage_uint8"], abs=1e-4)
        assert mean_squared_error(got, target).item() == pytest.approx(pair["mse_01"], rel=1e-5)
        assert mean_absolute_error(got, target).item() == pytest.approx(pair["l1_01"], rel=1e-5)


def test_by_hand() -> None:
    target = torch.zeros(3, 3, 16, 16)
    pixels = torch.stack([target[0], target[0] + 0.1, target[0] + 1])
    assert mean_squared_error(pixels, target).tolist() == pytest.approx([0, 0.01, 1])
    assert mean_absolute_error(pixels, target).tolist() == pytest.approx([0, 0.1, 1])
    assert psnr(pixels, target).tolist() == pytest.approx([LARGEST_PSNR, 20, 0], abs=1e-5)


def test_ssim_by_definition_at_one_window() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 1, 3, 11, 11, generator=generator, dtype=torch.float64)
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(taps, taps) / taps.sum() ** 2
    expected = []
    for a, b in zip(x[0].numpy(), y[0].numpy(), strict=True):
        mean_a, mean_b = (window * a).sum(), (window * b).sum()
        var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
        covariance = (window * (a - mean_a) * (b - mean_b)).sum()
        top = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
        expected.append(top / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
    assert ssim(x, y).item() == pytest.approx(np.mean(expected), abs=1e-12)
    assert ssim(x, x).item() == pytest.approx(1)


def test_ssim_of_a_picture_smaller_than_the_window_is_unknown() -> None:
    assert math.isnan(ssim(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)).item())


def test_trivial_references() -> None:
    target = torch.zeros(2, 3, 8, 8)
    target[0, :, :, 4:] = 1.0
    assert references.own_mean_colour_psnr(target).tolist() == pytest.approx([-10 * math.log10(0.25), LARGEST_PSNR])
    mean_image = torch.full((3, 8, 8), 0.5)
    assert references.mean_image_psnr(target, mean_image).tolist() == pytest.approx([-10 * math.log10(0.25)] * 2)


def test_painting_groups_with_their_mean_colour() -> None:
    target = torch.zeros(1, 3, 8, 8)
    target[0, :, :, 4:] = 1.0
    halves = references.grid_assignment((4, 4), 2).unsqueeze(0)
    assert references.painted_psnr(target, halves, (4, 4)).item() == LARGEST_PSNR
    whole = torch.zeros_like(halves)
    assert references.painted_psnr(target, whole, (4, 4)).item() == pytest.approx(-10 * math.log10(0.25))
