"""Tiny pretrained vision towers with random weights, saved to disk as the hub's are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FAMILIES = ("siglip", "siglip_vision", "siglip2_naflex", "clip", "clip_vision", "dinov2", "dinov2_registers", "dinov3")
DEPTH = 3
PATCH = 8


def save_tower(family: str, path: Path, *, image_size: int = 32, patch_size: int = PATCH, depth: int = DEPTH) -> Any:
    """Write a tower of width 32, and return it."""
    import torch
    import transformers as t

    torch.manual_seed(7)
    common = {"hidden_size": 32, "num_hidden_layers": depth, "num_attention_heads": 2}
    image = {"image_size": image_size, "patch_size": patch_size}
    wide = common | {"intermediate_size": 48}
    text = wide | {"vocab_size": 64, "max_position_embeddings": 16}
    naflex = {"patch_size": patch_size, "num_patches": (image_size // patch_size) ** 2}
    builders = {
        "siglip": lambda: t.SiglipModel(
            t.SiglipConfig(text_config=text | {"projection_size": 32}, vision_config=wide | image)
        ),
        "siglip_vision": lambda: t.SiglipVisionModel(t.SiglipVisionConfig(**wide, **image)),
        "siglip2_naflex": lambda: t.Siglip2VisionModel(t.Siglip2VisionConfig(**wide, **naflex)),
        "clip": lambda: t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=wide | image, projection_dim=32)),
        "clip_vision": lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**wide, **image)),
        "dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**common, **image)),
        "dinov2_registers": lambda: t.Dinov2WithRegistersModel(
            t.Dinov2WithRegistersConfig(**common, **image, num_register_tokens=3)
        ),
        "dinov3": lambda: t.DINOv3ViTModel(t.DINOv3ViTConfig(**wide, **image, num_register_tokens=4)),
    }
    model = builders[family]().eval()
    for parameter in model.parameters():  # some start at zero, where a mix-up would not show
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]})
    )
    return model
