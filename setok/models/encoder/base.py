"""What the encoders share: the interface, the patch grid, and image normalisation."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from setok.config import EncoderConfig
from setok.errors import ConfigError, DataError


class VisionEncoder(Protocol):
    """What the tokenizer needs of an encoder."""

    width: int
    patch_size: int
    takes_mask: bool
    """Whether it can leave patches of padding out."""

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of a picture of this size, in pixels."""

    def gradient_checkpointing_enable(self) -> None:
        """Recompute activations in the backward pass from now on, while in training mode."""

    def save_architecture(self, folder: Path) -> None:
        """Write what ``build_encoder(…, pretrained=False)`` needs where the original tower is not at hand."""

    def __call__(
        self,
        pixel_values: UInt8[Tensor, "batch 3 height width"],
        patch_mask: Bool[Tensor, "batch patches"] | None = None,
    ) -> Float[Tensor, "batch patches dim"]:
        """Patch features, row by row, without class tokens or registers.

        Args:
            pixel_values: pictures.
            patch_mask: True for patches of the picture, a rectangle in the upper left; the others are padding, and what
                comes out for them carries no meaning. Only where ``takes_mask``.
        """


def patch_grid(height: int, width: int, patch_size: int, *, native_size: int | None = None) -> tuple[int, int]:
    """Rows and columns of patches.

    Args:
        native_size: a side that is allowed though it is no multiple: some towers were trained with pixels left over
            (SigLIP-SO400M: 384 = 27 × 14 + 6), which their patch embedding passes over.

    Raises:
        DataError: a side is not a multiple of the patch size.
    """
    for name, side in (("high", height), ("wide", width)):
        if side < patch_size or (side % patch_size and side != native_size):
            lower = max(1, side // patch_size) * patch_size
            near = sorted({lower, lower + patch_size})
            raise DataError(
                f"a picture {side} pixels {name} cannot be cut into the encoder's patches of {patch_size} pixels",
                f"resize it (or set image_size) to {' or '.join(map(str, near))}",
            )
    return height // patch_size, width // patch_size


def refuse_mask(patch_mask: Bool[Tensor, "batch patches"] | None, who: str) -> None:
    """Stop where an encoder is given padding that it cannot leave out.

    Raises:
        ConfigError: there is padding.
    """
    if patch_mask is not None:
        raise ConfigError(
            f"pictures with padding were given, and {who} no mask",
            "use model.resize=crop, an encoder from scratch, or a NaFlex tower; or tokenize pictures without padding,"
            " all of one shape at a time",
        )


def normalise(
    pixel_values: UInt8[Tensor, "batch 3 height width"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "batch 3 height width"]:
    """Pixels in fp32 as a pretrained tower expects them; mean and deviation stay exact when the model is cast to bf16."""
    pixels = pixel_values.float() / 255
    return (pixels - pixels.new_tensor(mean).view(3, 1, 1)) / pixels.new_tensor(std).view(3, 1, 1)


def absolute_layer(config: EncoderConfig, depth: int) -> int | None:
    """The hidden layer as a number of blocks from the start; ``None`` for the last one, normalised.

    Raises:
        ConfigError: the tower is not as deep.
    """
    if config.layer == -1:
        return None
    layer = config.layer if config.layer >= 0 else depth + 1 + config.layer
    if not 0 <= layer <= depth:
        raise ConfigError(
            f"encoder.layer={config.layer} is none of the {depth + 1} hidden layers of {config.path or 'this encoder'!r}",
            f"use 0 (the embedding) to {depth}, or -1 (the last, normalised) to {-depth - 1}",
        )
    return layer
