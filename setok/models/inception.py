"""The Inception network whose features FID is taken of (Szegedy et al. 2016; Heusel et al. 2017), in plain torch.

The network is the one of the TensorFlow graph of 2015-12-05, which every FID in print goes back to; its weights come from a local
file, the ``pt_inception-2015-12-05-6726825d.pth`` that pytorch-fid publishes (torch-fidelity's file holds the same). It is not
torchvision's Inception: average pooling leaves padding out, and the last block pools by the maximum.

The two packages feed it differently, and a figure must say which way it was made:

* ``pytorch-fid``: bilinear resizing as torch does it, of pixels in [0, 1], stretched to [−1, 1];
* ``torch-fidelity``: bilinear resizing as TensorFlow 1 did it, of pixels in 0 … 255, less 128 and over
  128 (as in the original code).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from setok.errors import CheckpointError, ConfigError, did_you_mean

Variant = Literal["pytorch-fid", "torch-fidelity"]
SIDE, WIDTH, CLASSES = 299, 2048, 1008
_REMEDY = "give pytorch-fid's pt_inception-2015-12-05-6726825d.pth"
Pool = Callable[[Tensor], Tensor]


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _largest(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


class _Unit(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, size: int | tuple[int, int], *, stride: int = 1, pad: bool = True
    ) -> None:
        super().__init__()
        height, width = (size, size) if isinstance(size, int) else size
        padding = (height // 2, width // 2) if pad else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Block35(nn.Module):
    """Branches of 1, 5 and twice 3, and a pooled one, at 35 × 35."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = _Unit(inputs, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = _Unit(inputs, 48, 1), _Unit(48, 64, 5)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _Unit(inputs, 64, 1), _Unit(64, 96, 3)
        self.branch3x3dbl_3 = _Unit(96, 96, 3)
        self.branch_pool = _Unit(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_average(x))], 1)


class _To17(nn.Module):
    """From 35 × 35 to 17 × 17."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = _Unit(inputs, 384, 3, stride=2, pad=False)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _Unit(inputs, 64, 1), _Unit(64, 96, 3)
        self.branch3x3dbl_3 = _Unit(96, 96, 3, stride=2, pad=False)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class _Block17(nn.Module):
    """Branches of 1, one of 7 and two of 7, each in two strips, and a pooled one, at 17 × 17."""

    def __init__(self, inputs: int, inner: int) -> None:
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = _Unit(inputs, 192, 1)
        self.branch7x7_1, self.branch7x7_2 = _Unit(inputs, inner, 1), _Unit(inner, inner, row)
        self.branch7x7_3 = _Unit(inner, 192, column)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = _Unit(inputs, inner, 1), _Unit(inner, inner, column)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = _Unit(inner, inner, row), _Unit(inner, inner, column)
        self.branch7x7dbl_5 = _Unit(inner, 192, row)
        self.branch_pool = _Unit(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(_average(x))], 1)


class _To8(nn.Module):
    """From 17 × 17 to 8 × 8."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = _Unit(inputs, 192, 1), _Unit(192, 320, 3, stride=2, pad=False)
        self.branch7x7x3_1, self.branch7x7x3_2 = _Unit(inputs, 192, 1), _Unit(192, 192, (1, 7))
        self.branch7x7x3_3 = _Unit(192, 192, (7, 1))
        self.branch7x7x3_4 = _Unit(192, 192, 3, stride=2, pad=False)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, stride=2)], 1)


class _Block8(nn.Module):
    """Branches of 1, of 3 and of twice 3, whose ends are a row beside a column, and a pooled one, at 8 × 8."""

    def __init__(self, inputs: int, pool: Pool) -> None:
        super().__init__()
        row, column = (1, 3), (3, 1)
        self.pool = pool
        self.branch1x1 = _Unit(inputs, 320, 1)
        self.branch3x3_1 = _Unit(inputs, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = _Unit(384, 384, row), _Unit(384, 384, column)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _Unit(inputs, 448, 1), _Unit(448, 384, 3)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = _Unit(384, 384, row), _Unit(384, 384, column)
        self.branch_pool = _Unit(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        ends = [
            self.branch3x3_2a(once),
            self.branch3x3_2b(once),
            self.branch3x3dbl_3a(twice),
            self.branch3x3dbl_3b(twice),
        ]
        return torch.cat([self.branch1x1(x), *ends, self.branch_pool(self.pool(x))], 1)


class Inception(nn.Module):
    """Features of pictures for FID. The names of the parts are those of the weights file.

    Args:
        variant: how pictures are fed to the network; see the module's docstring.
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.Conv2d_1a_3x3 = _Unit(3, 32, 3, stride=2, pad=False)
        self.Conv2d_2a_3x3 = _Unit(32, 32, 3, pad=False)
        self.Conv2d_2b_3x3 = _Unit(32, 64, 3)
        self.Conv2d_3b_1x1 = _Unit(64, 80, 1)
        self.Conv2d_4a_3x3 = _Unit(80, 192, 3, pad=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _Block35(192, 32), _Block35(256, 64), _Block35(288, 64)
        self.Mixed_6a = _To17(288)
        self.Mixed_6b, self.Mixed_6c = _Block17(768, 128), _Block17(768, 160)
        self.Mixed_6d, self.Mixed_6e = _Block17(768, 160), _Block17(768, 192)
        self.Mixed_7a = _To8(768)
        self.Mixed_7b, self.Mixed_7c = _Block8(1280, _average), _Block8(WIDTH, _largest)
        self.fc = nn.Linear(WIDTH, CLASSES)  # in the file, and not used: features are taken before it

    @torch.inference_mode()
    def forward(self, pixels: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 2048"]:
        """Features of pictures in 0 … 255, of any one size."""
        x = _as_torch(pixels) if self.variant == "pytorch-fid" else _as_tensorflow(pixels)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))


def _as_torch(pixels: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 299 299"]:
    resized = F.interpolate(pixels.float() / 255, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return 2 * resized - 1


def _as_tensorflow(pixels: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 299 299"]:
    """Bilinear between the pixels at ⌊i·s⌋ and the next one, s being the old side over the new: corners count, centres do not."""
    x = pixels.float()
    for dim in (2, 3):
        side = x.shape[dim]
        place = torch.arange(SIDE, device=x.device, dtype=torch.float32) * (side / SIDE)
        low = place.floor().long()
        share = (place - low).view((-1, 1) if dim == 2 else (1, -1))
        x = x.index_select(dim, low) * (1 - share) + x.index_select(dim, (low + 1).clamp_max(side - 1)) * share
    return (x - 128) / 128


def load_inception(path: str | Path, variant: str) -> Inception:
    """The network with the weights of a file.

    Raises:
        ConfigError: the variant is unknown.
        CheckpointError: no such file, or not exactly the weights of this network.
    """
    if variant not in get_args(Variant):
        raise ConfigError(f"Inception variant {variant!r} is unknown", did_you_mean(variant, get_args(Variant)))
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"there is no file {file} with Inception's weights", _REMEDY)
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError, EOFError) as error:
        raise CheckpointError(f"{file} cannot be read as weights: {str(error)[:300]}", _REMEDY) from error
    network = Inception("pytorch-fid" if variant == "pytorch-fid" else "torch-fidelity")
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        first = str(error).splitlines()[:3]
        raise CheckpointError(f"{file} holds no Inception of FID: {' '.join(first)[:300]}", _REMEDY) from error
    return network.eval().requires_grad_(False)
