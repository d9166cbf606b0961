"""LPIPS: the distance of two pictures as a network sees it (Zhang et al. 2018, "The Unreasonable Effectiveness of Deep
Features as a Perceptual Metric", version 0.1 with VGG16; github.com/richzhang/PerceptualSimilarity, BSD-2-Clause).

Written here in plain torch, because the ``lpips`` package needs torchvision. The weights come from a local file that this
module makes of the two official ones::

    python -m setok.models.perceptual vgg16-397923af.pth lpips/weights/v0.1/vgg.pth lpips_vgg16.safetensors
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from setok.errors import CheckpointError

FILE = "lpips_vgg16.safetensors"
"""Name of the weights in a folder."""
MIN_SIZE = 16
"""Smallest side of a picture: the network halves it four times."""
STAGES: tuple[tuple[int, ...], ...] = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
"""VGG16's convolutions up to relu5_3, by their channels; a stage ends in a feature map, and pooling leads to the next."""
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


def weight_shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight: ``features.N`` as torchvision numbers VGG16's layers, ``heads.K`` per stage."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (inputs, outputs) in zip(_layers(), pairwise((3, *(c for stage in STAGES for c in stage))), strict=True):
        shapes[f"features.{layer}.weight"] = (outputs, inputs, 3, 3)
        shapes[f"features.{layer}.bias"] = (outputs,)
    return shapes | {f"heads.{k}.weight": (1, stage[-1], 1, 1) for k, stage in enumerate(STAGES)}


def _layers() -> list[int]:
    """Number of every convolution in torchvision's ``vgg16().features``: ReLUs follow each, a pooling each stage."""
    numbers, number = [], 0
    for stage in STAGES:
        for _ in stage:
            numbers.append(number)
            number += 2
        number += 1
    return numbers


class Perceptual(nn.Module):
    """LPIPS with fixed weights.

    They are buffers that go into no checkpoint: they move with the module that holds this one, and neither an optimizer nor
    ZeRO-3 sees them.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in weights.items():
            self.register_buffer(name.replace(".", "_"), tensor.detach().float(), persistent=False)
        self.register_buffer("shift", torch.tensor(_SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(3, 1, 1), persistent=False)

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"], target: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, " batch"]:
        """Distance of every picture from its target, both in [0, 1]; gradients reach ``pixels`` only."""
        with torch.autocast(pixels.device.type, enabled=False):
            found = self._features(pixels.float())
            with torch.no_grad():
                wanted = self._features(target.float())
            distance = pixels.new_zeros(len(pixels), dtype=torch.float32)
            for k, (one, other) in enumerate(zip(found, wanted, strict=True)):
                squares = F.conv2d((one - other).square(), self.get_buffer(f"heads_{k}_weight"))
                distance = distance + squares.mean((1, 2, 3))
        return distance

    def _features(self, pixels: Float[Tensor, "batch 3 height width"]) -> list[Tensor]:
        """The feature map at the end of every stage, of unit length at every position."""
        x = (pixels * 2 - 1 - self.get_buffer("shift")) / self.get_buffer("scale")
        layers, maps = iter(_layers()), []
        for k, stage in enumerate(STAGES):
            if k:
                x = F.max_pool2d(x, 2)
            for _ in stage:
                name = f"features_{next(layers)}"
                x = F.relu(F.conv2d(x, self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias"), padding=1))
            # vector_norm has gradient 0, and not NaN, where no channel fires.
            maps.append(x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10))
        return maps


def load_perceptual(path: str | Path) -> Perceptual:
    """LPIPS with the weights of a file that ``convert`` wrote, or of a folder that holds it as ``lpips_vgg16.safetensors``.

    Raises:
        CheckpointError: no such file, or not exactly the weights of this network.
    """
    file = Path(path)
    file = file / FILE if file.is_dir() else file
    remedy = (
        "make it from the official weights: python -m setok.models.perceptual VGG16.pth LPIPS_VGG.pth OUT.safetensors"
    )
    if not file.is_file():
        raise CheckpointError(f"there is no file {file}", remedy)
    try:
        with torch.device("cpu"):  # also where a run is only described, on the meta device
            weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}", remedy) from error
    _check(weights, str(file), remedy)
    return Perceptual(weights)


def convert(backbone: Path, heads: Path, out: Path) -> None:
    """Write one safetensors file from the official state dicts.

    Args:
        backbone: torchvision's VGG16 trained on ImageNet, such as ``vgg16-397923af.pth``; its classifier is left out.
        heads: LPIPS's linear layers, ``vgg.pth`` of version 0.1.
        out: the file to write.

    Raises:
        CheckpointError: they are other networks' weights, or no weights at all.
    """
    weights = {name: tensor for name, tensor in _read(backbone).items() if name.startswith("features.")}
    for name, tensor in _read(heads).items():
        weights[name.replace("lin", "heads.").replace(".model.1.", ".")] = tensor
    remedy = "take torchvision's vgg16 and LPIPS's weights/v0.1/vgg.pth"
    _check(weights, f"{backbone} and {heads}", remedy)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.float().contiguous() for name, tensor in weights.items()}, out)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be read as a state dict: {error}", "download it again") from error
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise CheckpointError(f"{path} holds no state dict but {type(state).__name__}", "download it again")
    return dict(state)


def _check(weights: Mapping[str, Tensor], what: str, remedy: str) -> None:
    wanted, found = weight_shapes(), {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        listed = [f"{name} {found.get(name, 'missing')} instead of {wanted.get(name, 'nothing')}" for name in wrong[:3]]
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(f"{what} hold(s) no LPIPS on VGG16: {'; '.join(listed)}{more}", remedy)


def main(arguments: Sequence[str] | None = None) -> None:
    """The converter's command line."""
    parser = argparse.ArgumentParser(
        prog="python -m setok.models.perceptual",
        description="Write the weights of LPIPS as one safetensors file, from the official state dicts.",
    )
    parser.add_argument("backbone", type=Path, help="torchvision's VGG16, such as vgg16-397923af.pth")
    parser.add_argument("heads", type=Path, help="LPIPS's linear layers: vgg.pth of version 0.1")
    parser.add_argument("out", type=Path, help="the file to write")
    given = parser.parse_args(arguments)
    convert(given.backbone, given.heads, given.out)


if __name__ == "__main__":
    main()
