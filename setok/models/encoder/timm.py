"""Vision transformers of timm, which is imported only when one is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from setok.config import EncoderConfig
from setok.errors import ConfigError
from setok.models.encoder.base import absolute_layer, normalise, patch_grid, refuse_mask
from setok.models.encoder.huggingface import not_loadable


class TimmEncoder(nn.Module):
    """A vision transformer of timm, by model name or from a folder with timm's config.json and weights."""

    takes_mask = False

    def __init__(self, config: EncoderConfig, *, pretrained: bool = True) -> None:
        super().__init__()
        assert config.path is not None  # by config validation
        timm = _import_timm()
        name = f"local-dir:{config.path}" if Path(config.path).is_dir() else config.path
        try:
            self.tower: Any = timm.create_model(name, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            # TypeError: the model does not know dynamic_img_size, so it is no transformer on plain patches.
            raise not_loadable(config.path, error, hub_id=f"timm/{config.path}") from error
        if not hasattr(self.tower, "num_prefix_tokens") or not hasattr(self.tower, "forward_intermediates"):
            raise ConfigError(
                f"encoder.path={config.path!r} is a {type(self.tower).__name__}, which gives no grid of patch tokens",
                "use a plain vision transformer, for example vit_so400m_patch14_siglip_378",
            )
        self.layer = absolute_layer(config, len(self.tower.blocks))
        if self.layer == 0:
            raise ConfigError(
                f"encoder.layer={config.layer} asks for the embedding, which timm does not give",
                f"use 1 to {len(self.tower.blocks)}, or -1",
            )
        if self.layer is not None:
            self.tower.prune_intermediate_layers([self.layer - 1], prune_norm=True)
        self.width: int = self.tower.num_features
        height, width = self.tower.patch_embed.patch_size
        assert height == width, "timm's vision transformers have square patches"
        self.patch_size: int = height
        settings = self.tower.pretrained_cfg
        self.mean = tuple(float(value) for value in settings["mean"])
        self.std = tuple(float(value) for value in settings["std"])
        self._architecture = _architecture(self.tower, config.path)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches."""
        return patch_grid(height, width, self.patch_size)

    def gradient_checkpointing_enable(self) -> None:
        """Recompute the blocks' activations in the backward pass."""
        self.tower.set_grad_checkpointing(True)

    def save_architecture(self, folder: Path) -> None:
        """Write timm's config.json."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self._architecture, indent=1) + "\n", encoding="utf-8")

    def forward(
        self,
        pixel_values: UInt8[Tensor, "batch 3 height width"],
        patch_mask: Bool[Tensor, "batch patches"] | None = None,
    ) -> Float[Tensor, "batch patches dim"]:
        refuse_mask(patch_mask, "timm's vision transformers take")
        self.grid(*pixel_values.shape[-2:])  # complains where timm would only assert
        pixels = normalise(pixel_values, self.mean, self.std).to(next(self.tower.parameters()).dtype)
        if self.layer is None:
            return self.tower.forward_features(pixels)[:, self.tower.num_prefix_tokens :]
        (features,) = self.tower.forward_intermediates(
            pixels, indices=[self.layer - 1], norm=False, output_fmt="NLC", intermediates_only=True
        )
        return features


def _import_timm() -> Any:
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
        raise ConfigError(
            f"encoder.kind=timm needs timm, which cannot be imported here: {error}",
            "pip install 'setok[gpu]' on a machine with the CUDA build of torch, or use encoder.kind=huggingface",
        ) from error
    return timm


def _architecture(tower: Any, path: str) -> dict[str, Any]:
    """The config.json of timm for a tower: that of its folder, or its name and normalisation."""
    stored = Path(path) / "config.json"
    if stored.is_file():
        return json.loads(stored.read_text(encoding="utf-8"))
    settings = tower.pretrained_cfg
    kept = {key: settings[key] for key in ("mean", "std", "input_size") if key in settings}
    return {"architecture": settings["architecture"], "pretrained_cfg": kept}
