"""Likeness of two pictures. Each function returns one value per image, so that means can be taken over any set."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

LARGEST_PSNR = 100.0
"""PSNR of pictures that are the same, in dB; keeps means finite."""
_TAPS, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2

Pixels = Float[Tensor, "batch 3 height width"]
PerImage = Float[Tensor, " batch"]


def mean_squared_error(pixels: Pixels, target: Pixels) -> PerImage:
    """Mean squared difference over pixels and colours; for pixels in [0, 1] it lies in [0, 1]."""
    return (pixels.double() - target.double()).pow(2).flatten(1).mean(1)


def mean_absolute_error(pixels: Pixels, target: Pixels) -> PerImage:
    """Mean absolute difference over pixels and colours (L1), in units of full brightness."""
    return (pixels.double() - target.double()).abs().flatten(1).mean(1)


def psnr(pixels: Pixels, target: Pixels) -> PerImage:
    """Peak signal-to-noise ratio −10·log10(MSE) in dB, for pixels in [0, 1]; at most ``LARGEST_PSNR``.

    The figure of a data set is the mean of its images' PSNR, not the PSNR of the mean error.
    """
    return psnr_of_error(mean_squared_error(pixels, target))


def psnr_of_error(error: PerImage) -> PerImage:
    """PSNR in dB that a mean squared error means, for pixels in [0, 1]."""
    return -10 * error.double().clamp_min(10 ** (-LARGEST_PSNR / 10)).log10()


def ssim(pixels: Pixels, target: Pixels) -> PerImage:
    """Structural similarity (Wang, Bovik, Sheikh & Simoncelli 2004), mean over positions and colours, for pixels in [0, 1].

    An 11-tap Gaussian window of σ 1.5 and population variances; only positions whose window lies inside the picture count,
    as in scikit-image with ``gaussian_weights`` (torchmetrics keeps the border and gives other figures). NaN where a side is
    shorter than the window.
    """
    if min(target.shape[-2:]) < _TAPS:
        return torch.full((target.shape[0],), torch.nan, dtype=torch.float64, device=target.device)
    x, y = pixels.double(), target.double()
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x * mean_x, _blur(y * y) - mean_y * mean_y
    covariance = _blur(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    likeness = likeness / ((mean_x * mean_x + mean_y * mean_y + _C1) * (var_x + var_y + _C2))
    return likeness.flatten(1).mean(1)


def _blur(x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h2 w2"]:
    """Gaussian mean at every position where the window fits."""
    offsets = torch.arange(_TAPS, dtype=x.dtype, device=x.device) - _TAPS // 2
    window = torch.exp(-offsets.pow(2) / (2 * _SIGMA**2))
    window = window / window.sum()
    rows = F.conv2d(x.flatten(0, 1).unsqueeze(1), window.view(1, 1, -1, 1))
    return F.conv2d(rows, window.view(1, 1, 1, -1)).squeeze(1).unflatten(0, x.shape[:2])
