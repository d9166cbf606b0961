"""How near a picture is to the one that was wanted: of reconstructions, and of edits (Zhang et al. 2023, "MagicBrush").

L1 and L2 are means over pixels and colours in [0, 1], L2 being the mean square; CLIP-I and DINO are cosines of two pictures'
features. A network is passed in, so nothing is loaded or downloaded here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from setok.metrics import reconstruction
from setok.metrics.reconstruction import PerImage, Pixels
from setok.metrics.running import Columns

Distance = Callable[[Pixels, Pixels], Shaped[Tensor, " batch"]]
"""Distance of pictures in [0, 1], such as LPIPS of ``setok.models.perceptual``."""
Features = Callable[[Pixels], Shaped[Tensor, "batch width"]]
"""Features of pictures in [0, 1], such as CLIP's picture embedding or DINO's class token."""


def feature_similarity(one: Float[Tensor, "batch width"], other: Float[Tensor, "batch width"]) -> PerImage:
    """Cosine of two pictures' features, in [−1, 1] (CLIP-I with CLIP's features, DINO with DINO's)."""
    return F.cosine_similarity(one.double(), other.double(), dim=-1)


def picture_rows(
    pixels: Pixels,
    target: Pixels,
    *,
    distances: Mapping[str, Distance] | None = None,
    features: Mapping[str, Features] | None = None,
) -> Columns:
    """Figures of each picture against its target, as columns for ``running.ImageRows``.

    Args:
        pixels: pictures in [0, 1].
        target: those that were wanted, in [0, 1].
        distances: further distances by name (``lpips``).
        features: networks by the name of their figure (``clip_i``, ``dino``).

    Returns:
        ``psnr`` in dB, ``ssim``, ``l1``, ``l2`` (the mean square), and what was passed in.
    """
    rows = {
        "psnr": reconstruction.psnr(pixels, target),
        "ssim": reconstruction.ssim(pixels, target),
        "l1": reconstruction.mean_absolute_error(pixels, target),
        "l2": reconstruction.mean_squared_error(pixels, target),
    }
    rows |= {name: measure(pixels, target) for name, measure in (distances or {}).items()}
    for name, network in (features or {}).items():
        rows[name] = feature_similarity(network(pixels), network(target))
    return {name: values.detach().cpu().double().numpy() for name, values in rows.items()}
