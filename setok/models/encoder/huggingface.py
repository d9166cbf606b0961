"""Vision towers that transformers loads: SigLIP, SigLIP2 (NaFlex too), CLIP, DINOv2 with and without registers, DINOv3."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from safetensors import SafetensorError
from torch import Tensor, nn

from setok.config import EncoderConfig
from setok.errors import CheckpointError, how_to_get
from setok.models.encoder.base import absolute_layer, normalise, patch_grid, refuse_mask

PREPROCESSOR = "preprocessor_config.json"
NAFLEX = "siglip2_vision_model"
"""The variant of SigLIP2 that takes patches and a grid; the others are stored as ordinary SigLIP."""
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_NORMALISATION = {
    "clip_vision_model": _OPENAI,
    "dinov2": _IMAGENET,
    "dinov2_with_registers": _IMAGENET,
    "dinov3_vit": _IMAGENET,
}
_FINAL_NORMS = ("post_layernorm", "layernorm", "norm")


class HuggingFaceEncoder(nn.Module):
    """A pretrained vision tower, cut off after the chosen layer; whatever is not needed for its features is left out.

    Tokens in front of the patches (class token, registers) are told from the patches by their number and dropped.
    """

    def __init__(self, config: EncoderConfig, *, pretrained: bool = True) -> None:
        super().__init__()
        assert config.path is not None  # by config validation
        vision = _read_vision_config(config.path)
        self.layer = absolute_layer(config, vision.num_hidden_layers)
        if self.layer is not None:
            vision.num_hidden_layers = self.layer
        for unused in ("vision_use_head", "use_mask_token"):
            if hasattr(vision, unused):
                setattr(vision, unused, False)
        for augmentation in (
            "pos_embed_shift",
            "pos_embed_jitter",
            "pos_embed_rescale",
        ):  # DINOv3's, random in training
            if hasattr(vision, augmentation):
                setattr(vision, augmentation, None)
        self.tower: Any = _load_tower(config.path, vision, pretrained=pretrained)
        if self.layer is not None or vision.model_type == "clip_vision_model":  # CLIP's is for its class token only
            for name in _FINAL_NORMS:
                if hasattr(self.tower, name):
                    setattr(self.tower, name, nn.Identity())
        for name, parameter in self.tower.named_parameters():
            if name.endswith("mask_token"):
                parameter.requires_grad_(False)
        self.width: int = vision.hidden_size
        self.patch_size: int = _one_side(vision.patch_size)
        native = getattr(vision, "image_size", None)
        self.native_size = None if native is None or vision.model_type == NAFLEX else _one_side(native)
        self.mean, self.std = _normalisation(config.path, vision.model_type)
        self.takes_mask = vision.model_type == NAFLEX
        self._interpolates = "interpolate_pos_encoding" in inspect.signature(self.tower.forward).parameters

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches."""
        native = self.native_size if height == width else None
        return patch_grid(height, width, self.patch_size, native_size=native)

    def gradient_checkpointing_enable(self) -> None:
        """Recompute the layers' activations in the backward pass."""
        self.tower.gradient_checkpointing_enable({"use_reentrant": False})

    def save_architecture(self, folder: Path) -> None:
        """Write the tower's config and its image normalisation."""
        folder.mkdir(parents=True, exist_ok=True)
        described = self.tower.config.to_dict()
        # DINO's configs list their stages, which the cut has made fewer; they mean nothing here.
        described = {k: v for k, v in described.items() if k not in ("stage_names", "out_features", "out_indices")}
        (folder / "config.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
        settings = {"image_mean": self.mean, "image_std": self.std}
        (folder / PREPROCESSOR).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")

    def forward(
        self,
        pixel_values: UInt8[Tensor, "batch 3 height width"],
        patch_mask: Bool[Tensor, "batch patches"] | None = None,
    ) -> Float[Tensor, "batch patches dim"]:
        rows, columns = self.grid(*pixel_values.shape[-2:])
        pixels = normalise(pixel_values, self.mean, self.std)
        if self.tower.config.model_type == NAFLEX:
            return self._naflex(pixels, (rows, columns), patch_mask)
        refuse_mask(patch_mask, f"a {self.tower.config.model_type!r} tower takes")
        if self._interpolates:
            output = self.tower(pixel_values=pixels, interpolate_pos_encoding=True)
        else:  # DINO's towers do so by themselves
            output = self.tower(pixel_values=pixels)
        hidden = output.last_hidden_state
        if hidden.shape[1] < rows * columns:
            raise CheckpointError(
                f"a {self.tower.config.model_type!r} tower gives {hidden.shape[1]} features for {rows} × {columns} patches",
                "use a plain vision transformer: SigLIP, CLIP, DINOv2, DINOv3",
            )
        return hidden[:, hidden.shape[1] - rows * columns :]

    def _naflex(
        self,
        pixels: Float[Tensor, "batch 3 height width"],
        grid: tuple[int, int],
        patch_mask: Bool[Tensor, "batch patches"] | None,
    ) -> Float[Tensor, "batch patches dim"]:
        """A picture's patches come first, row by row, and its own grid with them; then padding."""
        p = self.patch_size
        patches = rearrange(pixels, "b c (h p) (w q) -> b (h w) (p q c)", p=p, q=p)
        if patch_mask is None:
            everywhere = torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device)
            shapes = torch.tensor([grid] * len(patches))  # read on the CPU
            return self.tower(
                pixel_values=patches, pixel_attention_mask=everywhere, spatial_shapes=shapes
            ).last_hidden_state
        order = (~patch_mask).long().argsort(dim=-1, stable=True)
        lattice = patch_mask.unflatten(1, grid)
        shapes = torch.stack([lattice.any(2).sum(-1), lattice.any(1).sum(-1)], -1).cpu()
        output = self.tower(
            pixel_values=patches.gather(1, order.unsqueeze(-1).expand_as(patches)),
            pixel_attention_mask=patch_mask.gather(1, order).long(),
            spatial_shapes=shapes,
        ).last_hidden_state
        return output.gather(1, order.argsort(dim=-1).unsqueeze(-1).expand_as(output))


def _read_vision_config(path: str) -> Any:
    from transformers import AutoConfig  # slow to import, and not needed for encoders from scratch

    try:
        full = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise not_loadable(path, error) from error
    vision = getattr(full, "vision_config", full)
    if not hasattr(vision, "patch_size") or not hasattr(vision, "num_hidden_layers"):
        raise CheckpointError(
            f"encoder.path={path!r} is a {vision.model_type!r} model, which has no patches",
            "use a vision transformer: SigLIP, SigLIP2, CLIP, DINOv2, DINOv3",
        )
    return vision


def _load_tower(path: str, vision: Any, *, pretrained: bool) -> Any:
    from transformers import AutoModel
    from transformers.utils import logging as transformers_logging

    if not pretrained:
        return AutoModel.from_config(vision, dtype=torch.float32)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it would list every weight that is left out on purpose
    try:
        # In fp32 whatever it is stored in: lower precision is the caller's choice.
        tower, report = AutoModel.from_pretrained(path, config=vision, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise not_loadable(path, error) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"encoder.path={path!r} lacks {len(missing)} weights of its {vision.model_type!r} tower: {', '.join(missing[:3])}",
            "download it again, or use another tower",
        )
    return tower


def not_loadable(path: str, error: Exception, *, hub_id: str | None = None) -> CheckpointError:
    """Why a tower cannot be loaded: a folder without one, or a hub that does not give it."""
    if Path(path).exists():
        return CheckpointError(
            f"encoder.path={path!r} holds no vision tower that can be loaded: {error}",
            "point it to a folder with config.json and model.safetensors, for example of google/siglip-so400m-patch14-384",
        )
    return CheckpointError(
        f"encoder.path={path!r} is no local folder, and could not be had from the hub: {error}",
        how_to_get(path, "a vision tower", setting="encoder.path", hub_id=hub_id),
    )


def _normalisation(path: str, model_type: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that the tower was trained with; those of its family where nothing says."""
    from transformers.utils import cached_file

    settings: dict[str, Any] = {}
    for name in (PREPROCESSOR, "processor_config.json"):
        file = cached_file(
            path, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
        if file is not None and not settings:
            found = json.loads(Path(file).read_text(encoding="utf-8"))
            settings = found.get("image_processor", found)
    mean, std = _NORMALISATION.get(model_type, ((0.5,) * 3, (0.5,) * 3))
    return tuple(settings.get("image_mean", mean)), tuple(settings.get("image_std", std))


def _one_side(size: int | list[int] | tuple[int, ...]) -> int:
    """The side of a square that a config may give as one or two numbers."""
    return size if isinstance(size, int) else int(size[0])
