"""LPIPS: what the published code computes, from weights that a checkpoint never holds."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from setok.checkpoint import copy_weights
from setok.errors import CheckpointError
from setok.models import perceptual
from setok.models.perceptual import Perceptual, load_perceptual, weight_shapes
from setok.stages import build_stage
from tests.tiny import batch_of, pictures, tiny


def random_weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in weight_shapes().items():
        fan = shape[1] * shape[2] * shape[3] if len(shape) == 4 else 100
        weights[name] = torch.randn(shape, generator=generator) * (2 / fan) ** 0.5
        if name.startswith("heads"):
            weights[name] = weights[name].abs()
    return weights


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return random_weights()


@pytest.fixture(scope="module")
def file(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lpips") / perceptual.FILE
    save_file(weights, path)
    return path


def vgg16_features() -> nn.Sequential:
    """torchvision's ``vgg16().features``, from its published table of layers."""
    layers: list[nn.Module] = []
    channels = 3
    for entry in (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"):
        if entry == "M":
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        else:
            layers += [nn.Conv2d(channels, int(entry), kernel_size=3, padding=1), nn.ReLU()]
            channels = int(entry)
    return nn.Sequential(*layers)


def reference(weights: dict[str, Tensor], one: Tensor, other: Tensor) -> Tensor:
    """The published forward pass, one picture, one slice, one position's channel vector at a time."""
    features = vgg16_features()
    features.load_state_dict({k.removeprefix("features."): v for k, v in weights.items() if k.startswith("features")})
    result = []
    for pair in zip(one, other, strict=True):
        distance = torch.zeros(())
        x, y = [
            (2 * image - 1 - torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
            / torch.tensor([0.458, 0.448, 0.450])[:, None, None]
            for image in pair
        ]
        x, y = x[None], y[None]
        first = 0
        for k, last in enumerate((3, 8, 15, 22, 29)):  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
            for layer in features[first : last + 1]:
                x, y = layer(x), layer(y)
            first = last + 1
            unit = [f / (f.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for f in (x, y)]
            squares = (unit[0] - unit[1]) ** 2
            distance = distance + (squares[0] * weights[f"heads.{k}.weight"][0]).sum(0).mean()
        result.append(distance)
    return torch.stack(result).detach()


def test_equals_a_literal_reimplementation(weights: dict[str, Tensor]) -> None:
    one, other = torch.rand(2, 3, 32, 48), torch.rand(2, 3, 32, 48)
    distance = Perceptual(weights)(one, other)
    torch.testing.assert_close(distance, reference(weights, one, other), atol=1e-6, rtol=1e-5)
    assert (distance > 0.01).all()


def test_gradients_reach_the_reconstruction_alone_and_are_finite(weights: dict[str, Tensor]) -> None:
    model = Perceptual(weights)
    one, other = torch.zeros(1, 3, 16, 16, requires_grad=True), torch.rand(1, 3, 16, 16, requires_grad=True)
    model(one, other).sum().backward()
    assert one.grad is not None and one.grad.isfinite().all() and one.grad.abs().sum() > 0
    assert other.grad is None
    dead = Perceptual({k: torch.zeros_like(v) for k, v in weights.items()})  # no channel ever fires
    one.grad = None
    dead(one, other.detach()).sum().backward()
    assert one.grad is not None and not one.grad.isnan().any()


def test_every_picture_by_itself(weights: dict[str, Tensor]) -> None:
    model, one, other = Perceptual(weights), torch.rand(3, 3, 16, 16), torch.rand(3, 3, 16, 16)
    torch.testing.assert_close(model(one, other)[1:2], model(one[1:2], other[1:2]))
    torch.testing.assert_close(model(one, one), torch.zeros(3))


def test_the_converter_takes_the_official_state_dicts(weights: dict[str, Tensor], tmp_path: Path) -> None:
    backbone = {k: v for k, v in weights.items() if k.startswith("features")} | {"classifier.0.weight": torch.zeros(2)}
    heads = {f"lin{k}.model.1.weight": weights[f"heads.{k}.weight"] for k in range(5)}
    torch.save(backbone, tmp_path / "vgg16.pth")
    torch.save(heads, tmp_path / "vgg.pth")
    out = tmp_path / "out" / perceptual.FILE
    perceptual.main([str(tmp_path / "vgg16.pth"), str(tmp_path / "vgg.pth"), str(out)])
    one, other = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    expected = Perceptual(weights)(one, other)
    for path in (out, out.parent):
        assert torch.equal(load_perceptual(path)(one, other), expected)
    with pytest.raises(
        CheckpointError, match=r"heads\.0\.weight missing instead of \(1, 64, 1, 1\)[\s\S]*v0\.1/vgg\.pth"
    ):
        perceptual.convert(tmp_path / "vgg16.pth", tmp_path / "vgg16.pth", out)
    (tmp_path / "torn.pth").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"torn\.pth cannot be read"):
        perceptual.convert(tmp_path / "torn.pth", tmp_path / "vgg.pth", out)


def test_wrong_weights_are_named(weights: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no file .*lpips_vgg16\.safetensors[\s\S]*python -m setok\.models\.perceptual"
    ):
        load_perceptual(tmp_path)
    small = weights | {"heads.1.weight": torch.zeros(1, 64, 1, 1)}
    save_file(small, tmp_path / "small.safetensors")
    with pytest.raises(CheckpointError, match=r"heads\.1\.weight \(1, 64, 1, 1\) instead of \(1, 128, 1, 1\)"):
        load_perceptual(tmp_path / "small.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match=r"torn\.safetensors cannot be read"):
        load_perceptual(tmp_path / "torn.safetensors")


# ---------------------------------------------------------------- in the stage


def test_it_is_part_of_the_reconstruction_loss(file: Path, weights: dict[str, Tensor]) -> None:
    loss = {"contrast": 0.0, "perceptual": 0.5, "perceptual_path": str(file), "adversarial": 0.3}
    config = tiny(loss=loss)
    stage = build_stage(config)
    model, batch = stage.modules["model"], batch_of(pictures(2))
    seen = []
    model._adversarial_weight = lambda reconstruction, *_: seen.append(reconstruction) or 0.0
    output = model(batch, stage.prepare([batch], step=0)[0])
    parts = output.parts
    unclipped = model.tokenizer(batch.pixel_values)[1]
    expected = Perceptual(weights)(unclipped, batch.pixel_values / 255).mean()
    torch.testing.assert_close(parts["perceptual"], expected.detach(), atol=1e-6, rtol=1e-5)
    whole = parts["l1"] + parts["l2"] + 0.5 * parts["perceptual"]
    torch.testing.assert_close(output.loss.detach(), whole)
    torch.testing.assert_close(seen[0].detach(), whole)
    output.loss.backward()
    # No checkpoint and no optimizer knows of it.
    assert not [name for name in copy_weights(model) if "perceptual" in name]
    assert not [name for name, _ in model.named_parameters() if "perceptual" in name]
    assert {name for name, _ in model.named_buffers() if "perceptual" in name}


def test_without_weights_it_is_off_and_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    config = tiny(loss={"contrast": 0.0, "perceptual": 1.0})
    with caplog.at_level(logging.WARNING):
        stages = [build_stage(config) for _ in range(2)]
    assert [record.message for record in caplog.records].count(
        "loss.perceptual is above 0 and loss.perceptual_path is empty: the perceptual term is off"
    ) == 1
    batch = batch_of(pictures(2))
    output = stages[0].modules["model"](batch, stages[0].prepare([batch], step=0)[0])
    assert "perceptual" not in output.parts
