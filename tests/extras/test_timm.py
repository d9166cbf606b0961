"""timm's vision transformers as encoders, with timm itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from setok.config import EncoderConfig, TokenizerConfig
from setok.errors import CheckpointError, ConfigError, DataError
from setok.models.encoder import build_encoder
from setok.models.tokenizer import SeTok

timm = pytest.importorskip(
    "timm",
    reason="timm cannot be imported here: make test-extras builds an environment where it can",
    exc_type=Exception,
)

MODELS = {
    # name: (settings, tokens in front of the patches)
    "vit_tiny_patch16_224": ({"img_size": 32, "patch_size": 8, "depth": 3}, 1),
    "vit_base_patch16_siglip_224": ({"img_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 32, "num_heads": 2}, 0),
    "vit_small_patch14_reg4_dinov2": ({"img_size": 32, "patch_size": 8, "depth": 3}, 5),
    "vit_small_patch16_dinov3": ({"img_size": 32, "patch_size": 8, "depth": 3}, 5),
}


def save(name: str, path: Path) -> torch.nn.Module:
    """A model of random weights in timm's own format for the hub."""
    from timm.models import save_for_hf

    torch.manual_seed(3)
    settings, _ = MODELS[name]
    model = timm.create_model(name, pretrained=False, num_classes=0, **settings).eval()
    save_for_hf(model, str(path), model_args=settings | {"num_classes": 0}, safe_serialization=True)
    return model


def pictures(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)


def pixels_for(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (images.float() / 255 - mean) / std


@pytest.mark.parametrize("name", MODELS)
def test_features_are_those_of_timm(tmp_path: Path, name: str) -> None:
    model = save(name, tmp_path)
    prefix = MODELS[name][1]
    images = pictures(32, 32)
    with torch.no_grad():
        last = model.forward_features(pixels_for(model, images))
        assert last.shape[1] == 16 + prefix
        _, hidden = model.forward_intermediates(pixels_for(model, images), norm=False, output_fmt="NLC")
    for layer, expected in ((-1, last[:, prefix:]), (-2, hidden[1]), (1, hidden[0]), (3, hidden[2])):
        encoder = build_encoder(EncoderConfig(kind="timm", path=str(tmp_path), layer=layer)).eval()
        torch.testing.assert_close(encoder(images), expected)
        wide = encoder(pictures(24, 48))
        assert wide.shape == (2, 18, encoder.width)
        assert wide.isfinite().all()
        assert encoder.grid(24, 48) == (3, 6)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_checkpointing_bf16_and_architecture(tmp_path: Path, name: str) -> None:
    save(name, tmp_path / "tower")
    config = EncoderConfig(kind="timm", path=str(tmp_path / "tower"), layer=-2)
    images, results = pictures(32, 40), []
    for checkpointed in (False, True):
        encoder = build_encoder(config).train()
        if checkpointed:
            encoder.gradient_checkpointing_enable()
        encoder(images).pow(2).sum().backward()
        assert [n for n, p in encoder.named_parameters() if p.grad is None] == []
        results.append([p.grad for p in encoder.parameters()])
    torch.testing.assert_close(*results)
    encoder.eval().save_architecture(tmp_path / "copy")
    again = EncoderConfig(kind="timm", path=str(tmp_path / "copy"), layer=encoder.layer)
    copy = build_encoder(again, pretrained=False).eval()
    copy.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(copy(images), encoder(images))
    assert encoder.to(torch.bfloat16)(images).dtype == torch.bfloat16


def test_a_tokenizer_on_timm(tmp_path: Path) -> None:
    save("vit_tiny_patch16_224", tmp_path / "tower")
    model = {"image_size": 32, "encoder": {"kind": "timm", "path": str(tmp_path / "tower")}}
    visual, painted = SeTok(TokenizerConfig.model_validate(model)).eval()(pictures(32, 48))
    assert visual.grid == (4, 6)
    assert painted.shape == (2, 3, 32, 48)


def test_what_people_get_wrong(tmp_path: Path) -> None:
    save("vit_tiny_patch16_224", tmp_path)
    local = EncoderConfig(kind="timm", path=str(tmp_path))
    with pytest.raises(DataError, match=r"30 pixels wide[\s\S]*24 or 32"):
        build_encoder(local)(pictures(32, 30))
    with pytest.raises(ConfigError, match=r"encoder.layer=0[\s\S]*use 1 to 3"):
        build_encoder(local.model_copy(update={"layer": 0}))
    with pytest.raises(CheckpointError, match=r"'no_such_model'"):
        build_encoder(EncoderConfig(kind="timm", path="no_such_model"))
    with pytest.raises((CheckpointError, ConfigError), match="resnet18"):
        build_encoder(EncoderConfig(kind="timm", path="resnet18"), pretrained=False)
