"""One vector per picture, of a network in a local folder as transformers saves it: CLIP's embedding, or a class token.

They are what the editing figures CLIP-I and DINO compare. Nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from setok.errors import CheckpointError

_PROCESSOR = "preprocessor_config.json"
Kind = Literal["clip", "dino"]
_REMEDY = "give a folder that `save_pretrained` wrote, such as a clone of openai/clip-vit-base-patch32 or facebook/dino-vits16"


def load_picture_features(folder: str | Path, kind: Kind) -> Callable[[Tensor], Tensor]:
    """What gives pictures of any size, in [0, 1], as vectors: the projected embedding of a CLIP, the first token of a DINO.

    Pictures are resized to the network's side by their shorter side (bicubic, antialiased), the middle square is taken, and
    colours are normalised with the numbers of the folder's ``preprocessor_config.json``.

    Raises:
        CheckpointError: the folder holds no such network, or one of the other kind.
    """
    path = Path(folder)
    if not (path / "config.json").is_file() or not (path / _PROCESSOR).is_file():
        raise CheckpointError(f"{path} has no config.json and {_PROCESSOR}", _REMEDY)
    from transformers import AutoConfig, AutoModel

    is_clip = kind == "clip"
    try:
        settings = json.loads((path / _PROCESSOR).read_text(encoding="utf-8"))
        found = AutoConfig.from_pretrained(path).model_type
        if is_clip != (found == "clip"):
            raise CheckpointError(f"{path} holds a network of type {found!r}, which is no {kind.upper()}", _REMEDY)
        network, report = AutoModel.from_pretrained(path, output_loading_info=True)
        config = network.config.vision_config if is_clip else network.config
        side = int(config.image_size)
        mean, deviation = (torch.tensor(settings[f"image_{name}"]).view(3, 1, 1) for name in ("mean", "std"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be loaded: {str(error).strip()[:300]}", _REMEDY) from error
    _refuse_invented(path, report)
    network = network.eval().requires_grad_(False)

    @torch.inference_mode()
    def features(pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        normal = (_square(pixels, side) - mean) / deviation
        if is_clip:
            return network.visual_projection(network.vision_model(pixel_values=normal).pooler_output)
        return network(pixel_values=normal).last_hidden_state[:, 0]

    return features


def _refuse_invented(path: Path, report: Mapping[str, Any]) -> None:
    """Transformers draws weights that a file lacks or has in another shape; figures of those would mean nothing.

    The pooler of a vision transformer is left alone: the class token is taken before it, and DINO's files have none.
    """
    drawn = [str(name) for kind in ("missing_keys", "mismatched_keys") for name in report.get(kind, ())]
    drawn = sorted(name for name in drawn if not name.startswith("pooler."))
    if drawn:
        raise CheckpointError(f"{path} lacks {len(drawn)} weight(s) of its network, such as {drawn[0]}", _REMEDY)


def _square(pixels: Float[Tensor, "batch 3 height width"], side: int) -> Float[Tensor, "batch 3 side side"]:
    """The middle square, ``side`` pixels wide."""
    height, width = pixels.shape[-2:]
    scale = side / min(height, width)
    size = (max(side, round(height * scale)), max(side, round(width * scale)))
    resized = F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return resized[..., top : top + side, left : left + side]
