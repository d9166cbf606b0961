"""Pretrained encoders of every family, from disk: which features they give, for which pictures, and what they say when not."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import pytest
import torch

from setok.config import EncoderConfig, TokenizerConfig
from setok.errors import CheckpointError, ConfigError, DataError
from setok.models.encoder import build_encoder
from setok.models.tokenizer import SeTok
from setok.planning import describe
from tests.tiny import tiny
from tests.towers import DEPTH, FAMILIES, PATCH, save_tower


def pictures(height: int, width: int, batch: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)


def config(path: Path, layer: int = -1) -> EncoderConfig:
    return EncoderConfig(kind="huggingface", path=str(path), layer=layer)


def reference(model: torch.nn.Module, images: torch.Tensor, family: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The last hidden state and all hidden states of a tower as transformers runs it, class tokens and all."""
    vision = getattr(model, "vision_model", model)
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    pixels = (images.float() / 255 - mean) / std
    if family == "siglip2_naflex":
        rows, columns = images.shape[-2] // PATCH, images.shape[-1] // PATCH
        cut = (
            pixels.reshape(len(pixels), 3, rows, PATCH, columns, PATCH)
            .permute(0, 2, 4, 3, 5, 1)
            .flatten(3)
            .flatten(1, 2)
        )
        inputs = {
            "pixel_values": cut,
            "pixel_attention_mask": torch.ones(cut.shape[:2], dtype=torch.long),
            "spatial_shapes": torch.tensor([[rows, columns]] * len(cut)),
        }
    else:
        inputs = {"pixel_values": pixels}
        if "dino" not in family:
            inputs["interpolate_pos_encoding"] = True
    output = vision(**inputs, output_hidden_states=True)
    return output.last_hidden_state, list(output.hidden_states)


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_of_the_tower(tmp_path: Path, family: str) -> None:
    assert len(FAMILIES) == 8
    model = save_tower(family, tmp_path)
    for height, width in ((32, 32), (64, 64), (32, 56), (72, 24)):
        images = pictures(height, width)
        patches = (height // PATCH) * (width // PATCH)
        with torch.no_grad():
            last, hidden = reference(model, images, family)
            for layer, expected in ((-1, last), (-2, hidden[DEPTH - 1]), (1, hidden[1]), (DEPTH, hidden[DEPTH])):
                encoder = build_encoder(config(tmp_path, layer)).eval()
                assert encoder.grid(height, width) == (height // PATCH, width // PATCH)
                torch.testing.assert_close(encoder(images), expected[:, -patches:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_that_learns_has_a_gradient(tmp_path: Path, family: str) -> None:
    """No pooling head, no layer past the chosen one: nothing that would stay behind in data-parallel training."""
    save_tower(family, tmp_path)
    for layer in (-1, -2):
        encoder = build_encoder(config(tmp_path, layer)).train()
        encoder(pictures(32, 40)).pow(2).sum().backward()
        assert [n for n, p in encoder.named_parameters() if (p.grad is None) == p.requires_grad] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_and_training_mode_change_nothing(tmp_path: Path, family: str) -> None:
    save_tower(family, tmp_path)
    images, results = pictures(32, 40), []
    for mode in ("eval", "train", "checkpointed"):
        encoder = build_encoder(config(tmp_path)).train(mode != "eval")
        if mode == "checkpointed":
            encoder.gradient_checkpointing_enable()
        features = encoder(images)
        features.pow(2).sum().backward()
        results.append([features, *(p.grad for p in encoder.parameters() if p.grad is not None)])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_architecture_travels_without_the_weights(tmp_path: Path, family: str) -> None:
    save_tower(family, tmp_path / "tower")
    encoder = build_encoder(config(tmp_path / "tower", -2)).eval()
    encoder.save_architecture(tmp_path / "copy")
    copy = build_encoder(config(tmp_path / "copy", encoder.layer), pretrained=False).eval()
    copy.load_state_dict(encoder.state_dict())
    images = pictures(32, 48)
    torch.testing.assert_close(copy(images), encoder(images))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tower_in_bf16(tmp_path: Path, family: str) -> None:
    save_tower(family, tmp_path).to(torch.bfloat16).save_pretrained(tmp_path)
    encoder = build_encoder(config(tmp_path)).eval()
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}, "whatever it is stored in"
    images = pictures(32, 40)
    full = encoder(images)
    half = encoder.to(torch.bfloat16)(images)
    assert half.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(full, half.float(), dim=-1).min() > 0.99


HUB_NAMES = {
    "siglip": (
        *("logit_scale", "logit_bias", "text_model.embeddings.token_embedding.weight", "vision_model.head.probe"),
        "vision_model.embeddings.patch_embedding.weight",
        "vision_model.embeddings.position_embedding.weight",
        *(f"vision_model.encoder.layers.2.self_attn.{name}_proj.bias" for name in "qkv"),
        *("vision_model.encoder.layers.0.mlp.fc1.weight", "vision_model.post_layernorm.weight"),
    ),
    "clip": (
        *("visual_projection.weight", "text_projection.weight", "vision_model.embeddings.class_embedding"),
        *("vision_model.pre_layrnorm.weight", "vision_model.encoder.layers.1.layer_norm2.bias"),
    ),
    "dinov2": (
        *("embeddings.cls_token", "embeddings.mask_token", "embeddings.position_embeddings", "layernorm.bias"),
        "embeddings.patch_embeddings.projection.weight",
        *("encoder.layer.2.attention.attention.query.weight", "encoder.layer.0.layer_scale1.lambda1"),
    ),
    "dinov3": (
        "embeddings.register_tokens",
        "layer.2.attention.q_proj.weight",
        "layer.0.layer_scale1.lambda1",
        "norm.bias",
    ),
}
"""Names of weights in google/siglip-so400m-patch14-384, openai/clip-vit-large-patch14, facebook/dinov2-large and
facebook/dinov3-vits16-pretrain-lvd1689m."""


@pytest.mark.parametrize("family", HUB_NAMES)
@pytest.mark.parametrize("variant", ["as it is", "half precision", "two files", "old buffers", "sparse config"])
def test_a_checkpoint_laid_out_as_on_the_hub(tmp_path: Path, family: str, variant: str) -> None:
    from safetensors.torch import load_file, save_file

    model = save_tower(family, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert set(HUB_NAMES[family]) <= set(weights), "transformers writes other names than the hub's"
    if variant == "half precision":
        for parameter in model.parameters():
            parameter.data = parameter.data.half().float()
        save_file({k: v.half() for k, v in weights.items()}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    elif variant == "two files":
        model.save_pretrained(tmp_path, max_shard_size="40KB")
        (tmp_path / "model.safetensors").unlink()
        assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    elif variant == "old buffers":  # OpenAI's CLIP has them
        prefix = "vision_model." if "vision_model.post_layernorm.weight" in weights else ""
        weights[f"{prefix}embeddings.position_ids"] = torch.arange(17).unsqueeze(0)
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    elif variant == "sparse config":  # the hub's name only what differs from the defaults, and often an old version
        settings = model.config.to_diff_dict() | {"transformers_version": "4.37.0.dev0"}
        (tmp_path / "config.json").write_text(json.dumps(settings, default=str))
    images = pictures(32, 56)
    with torch.no_grad():
        last, hidden = reference(model, images, family)
        for layer, expected in ((-1, last), (-2, hidden[DEPTH - 1])):
            found = build_encoder(config(tmp_path, layer)).eval()(images)
            torch.testing.assert_close(found, expected[:, -28:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["siglip_vision", "clip_vision"])
def test_a_vision_tower_stored_by_an_older_transformers(tmp_path: Path, family: str) -> None:
    """Up to version 4 a vision model alone had ``vision_model.`` before its names."""
    from safetensors.torch import load_file, save_file

    save_tower(family, tmp_path)
    images = pictures(32, 56)
    expected = build_encoder(config(tmp_path)).eval()(images)
    weights = load_file(tmp_path / "model.safetensors")
    old = {f"vision_model.{name.removeprefix('vision_model.')}": value for name, value in weights.items()}
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    torch.testing.assert_close(build_encoder(config(tmp_path)).eval()(images), expected)


def test_a_picture_that_is_no_multiple_of_the_patch_names_those_that_are(tmp_path: Path) -> None:
    save_tower("dinov2", tmp_path)
    encoder = build_encoder(config(tmp_path))
    with pytest.raises(DataError, match=r"30 pixels wide[\s\S]*patches of 8[\s\S]*→ [\s\S]*24 or 32"):
        encoder(pictures(32, 30))
    with pytest.raises(DataError, match=r"6 pixels high[\s\S]*→ [\s\S]*8 or 16"):
        encoder.grid(6, 32)
    with pytest.raises(DataError, match=r"30 pixels high[\s\S]*→ [\s\S]*28 or 32"):
        build_encoder(EncoderConfig())(pictures(30, 32))
    model = {"image_size": 36, "encoder": config(tmp_path), "detokenizer": {"patch_size": 4}}
    with pytest.raises(ConfigError, match=r"image_size=36[\s\S]*→ [\s\S]*32 or 40"):
        SeTok(TokenizerConfig.model_validate(model))


def test_a_tower_keeps_the_native_size_it_was_trained_on(tmp_path: Path) -> None:
    """SigLIP-SO400M has 27 patches of 14 pixels on 384: six pixels are left over."""
    save_tower("siglip_vision", tmp_path, image_size=34)
    encoder = build_encoder(config(tmp_path)).eval()
    assert encoder.grid(34, 34) == (4, 4)
    assert encoder(pictures(34, 34)).shape == (2, 16, 32)
    with pytest.raises(DataError, match="34 pixels wide"):
        encoder.grid(32, 34)


def test_normalisation_of_a_folder_that_does_not_tell_is_that_of_its_family(tmp_path: Path) -> None:
    for family, mean in (("dinov3", 0.485), ("clip", 0.48145466), ("siglip", 0.5)):
        save_tower(family, tmp_path / family)
        (tmp_path / family / "preprocessor_config.json").unlink()
        assert build_encoder(config(tmp_path / family)).mean[0] == mean
    nested = {"image_processor": {"image_mean": [0.1] * 3, "image_std": [0.2] * 3}}
    (tmp_path / "siglip" / "processor_config.json").write_text(json.dumps(nested))
    assert build_encoder(config(tmp_path / "siglip")).mean == (0.1, 0.1, 0.1)


def test_a_layer_that_the_tower_has_not(tmp_path: Path) -> None:
    save_tower("dinov2", tmp_path)
    for layer in (4, -5):
        with pytest.raises(ConfigError, match=rf"encoder.layer={layer}[\s\S]*→ use 0 [\s\S]*to 3[\s\S]*-4"):
            build_encoder(config(tmp_path, layer))


def test_a_tower_with_weights_missing_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_tower("dinov2", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("encoder.layer.1.norm1.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 weights[\s\S]*encoder\.layer\.1\.norm1\.weight"):
        build_encoder(config(tmp_path))


def test_what_is_no_vision_transformer_is_refused(tmp_path: Path) -> None:
    import transformers

    transformers.LlamaConfig(hidden_size=8, num_attention_heads=1).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"'llama' model[\s\S]*→ use a vision transformer"):
        build_encoder(config(tmp_path))


def test_a_hub_that_cannot_be_reached_asks_for_a_local_path(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    wanted = r"'nobody/no-such-tower' is no local folder[\s\S]*→ [\s\S]*hf download nobody/no-such-tower"
    with pytest.raises(CheckpointError, match=wanted):
        build_encoder(config(Path("nobody/no-such-tower")))


def test_a_missing_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_timm(name: str, *rest: object) -> object:
        if name == "timm":
            raise ImportError("No module named 'timm'")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_timm)
    with pytest.raises(ConfigError, match=r"needs timm[\s\S]*→ pip install 'setok\[gpu\]'"):
        build_encoder(EncoderConfig(kind="timm", path="vit_base_patch16_224"))
    with pytest.raises(ConfigError, match=r"encoder.kind=timm needs encoder.path"):
        EncoderConfig(kind="timm")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_on_a_tower_is_described_without_its_weights(tmp_path: Path, family: str) -> None:
    """What --dry-run shows."""
    save_tower(family, tmp_path)
    model = {"image_size": 32, "encoder": config(tmp_path).model_dump(), "detokenizer": {"width": 48}}
    parts = {part.name: part for part in describe(tiny(model=model, loss={"distillation": 1.0}))}
    size = sum(p.numel() for p in build_encoder(config(tmp_path)).parameters() if p.requires_grad)
    assert parts["encoder"].trainable == size
    assert parts["teacher"].trainable == 0 and parts["teacher"].parameters >= size
