"""Our LPIPS against the real ``lpips`` package, where that imports: it needs torchvision (the ``gpu`` extra).

With CPU torch, torchvision's operators do not register; STACK.md tells how a test of its own process declares them, which
is what happens here, in a subprocess, so that no other test meets a patched torchvision.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import torch

if not torch.cuda.is_available():
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import lpips
from setok.models.perceptual import convert, load_perceptual
from pathlib import Path

folder = Path(sys.argv[1])
torch.manual_seed(0)
theirs = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)  # the package brings the heads; the backbone is random
import torchvision
backbone = torchvision.models.vgg16(weights=None)
layers = [layer for name in ("slice1", "slice2", "slice3", "slice4", "slice5") for layer in getattr(theirs.net, name)]
for ours, layer in zip(backbone.features, layers):
    assert type(ours) is type(layer)
    if layer.state_dict():
        ours.load_state_dict(layer.state_dict())
torch.save(backbone.state_dict(), folder / "vgg16.pth")
convert(folder / "vgg16.pth", Path(lpips.__file__).parent / "weights/v0.1/vgg.pth", folder / "lpips_vgg16.safetensors")
one, other = torch.rand(2, 3, 64, 48), torch.rand(2, 3, 64, 48)
with torch.no_grad():
    expected = theirs(one, other, normalize=True).flatten()
    found = load_perceptual(folder)(one, other)
assert (expected > 1e-4).all(), expected
torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
print("equal", found.tolist())
"""


def test_equals_the_lpips_package(tmp_path: Path, repo_root: Path) -> None:
    for package in ("lpips", "torchvision"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: it is part of the gpu extra")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=repo_root, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "equal" in done.stdout
