"""Pictures in any form to uint8 pixels of a size that the tokenizer can take, in the manner of Hugging Face's processors."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from setok.data.images import decode_image, upright_rgb
from setok.data.letterbox import fit, fitted_size
from setok.errors import CheckpointError, ConfigError, DataError

NAME = "preprocessor_config.json"
Picture = Image.Image | np.ndarray | Tensor | bytes | str | Path
"""PIL, [height, width, 3] or [3, height, width] uint8, an encoded file's bytes, or a file's path."""


class SeTokImageProcessor:
    """Decodes and resizes; normalisation is the model's own business.

    Args:
        size: side of the square that ``crop`` gives, in pixels.
        resize: ``crop`` scales the shorter side to ``size`` and cuts the centre square; ``fit`` scales the longer side to
            ``size`` and pads to the square (a run's ``model.resize`` is one of these two); ``keep_aspect`` keeps the whole
            picture and its shape as ``fit`` does, at about the number of patches of the square, and does not pad.
        multiple_of: what a picture's sides are multiples of under ``fit`` and ``keep_aspect``: all patches of the model.
        max_pixels: ``keep_aspect`` gives at most this many, so that the number of patches is bounded.
    """

    def __init__(self, *, size: int, resize: str = "crop", multiple_of: int = 1, max_pixels: int) -> None:
        if resize not in ("crop", "fit", "keep_aspect"):
            raise ConfigError(f"resize={resize!r} is unknown", "use 'crop', 'fit' or 'keep_aspect'")
        if resize == "fit" and size % multiple_of:
            raise ConfigError(
                f"resize='fit' pads to a square of size={size} pixels, which is no multiple of {multiple_of}",
                "use 'keep_aspect', or a model whose image_size all its patches divide",
            )
        if max_pixels < multiple_of**2:
            raise ConfigError(
                f"max_pixels={max_pixels} is less than one square of multiple_of={multiple_of} pixels",
                f"use {multiple_of**2} or more",
            )
        self.size = size
        self.resize = resize
        self.multiple_of = multiple_of
        self.max_pixels = max_pixels

    @classmethod
    def from_pretrained(cls, path: str | Path, *, resize: str | None = None) -> SeTokImageProcessor:
        """Read the settings of an exported tokenizer, from its folder or the hub; ``resize`` replaces the stored way.

        Raises:
            CheckpointError: there are none.
        """
        file = Path(path) / NAME
        if not Path(path).is_dir():
            import huggingface_hub  # slow to import, and not needed for local folders

            try:
                file = Path(huggingface_hub.hf_hub_download(str(path), NAME))
            except (OSError, ValueError) as error:
                raise CheckpointError(
                    f"{str(path)!r} is no local folder, and could not be had from the hub: {error}",
                    "check the name; without a network give the local path of an exported tokenizer",
                ) from error
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{file} cannot be read: {error}", "give the folder of an exported tokenizer"
            ) from error
        if stored.get("image_processor_type") != cls.__name__:
            raise CheckpointError(
                f"{file} is of image_processor_type {stored.get('image_processor_type')!r}, not {cls.__name__!r}",
                "give the folder of an exported tokenizer",
            )
        return cls(
            size=int(stored["size"]),
            resize=resize or stored["resize"],
            multiple_of=int(stored["multiple_of"]),
            max_pixels=int(stored["max_pixels"]),
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``preprocessor_config.json``."""
        settings: dict[str, Any] = {"image_processor_type": type(self).__name__} | vars(self)
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / NAME).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")

    def __call__(self, images: Picture | Sequence[Picture]) -> dict[str, Tensor | list[Tensor]]:
        """One picture or several.

        Returns:
            ``pixel_values``: uint8 [batch, 3, height, width]; under ``keep_aspect``, where the pictures come out in different
            sizes, a list of [3, height, width] in their place, to be tokenized one by one or by size. Under ``fit`` also
            ``sizes``: [batch, 2], each picture's height and width in its square; pass both on to ``SeTok.tokenize``.

        Raises:
            DataError: what is given is no picture, or a damaged one.
        """
        several = [images] if not isinstance(images, Sequence) or isinstance(images, (bytes, str)) else list(images)
        if isinstance(images, (np.ndarray, Tensor)) and images.ndim == 4:
            several = list(images)
        if not several:
            raise DataError("no pictures were given", "give at least one")
        if self.resize == "fit":
            fitted = [fit(to_pixels(picture), self.size, self.multiple_of) for picture in several]
            squares = torch.from_numpy(np.stack([square for square, _ in fitted]))
            return {"pixel_values": squares, "sizes": torch.tensor([size for _, size in fitted])}
        resized = [torch.from_numpy(self._resize(to_pixels(picture))) for picture in several]
        same = len({picture.shape for picture in resized}) == 1
        return {"pixel_values": torch.stack(resized) if same else resized}

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that a picture of this size comes out with; under ``fit``, without the padding."""
        if self.resize == "crop":
            return self.size, self.size
        if self.resize == "fit":
            return fitted_size(height, width, self.size, self.multiple_of)
        step = self.multiple_of
        scale = math.sqrt(self.max_pixels / (height * width))
        budget = self.max_pixels // step**2
        rows = min(max(1, round(height * scale / step)), budget)
        columns = min(max(1, round(width * scale / step)), budget)
        while rows * columns > budget:  # rounding up may have gone over; the longer side gives way
            if rows >= columns:
                rows -= 1
            else:
                columns -= 1
        return rows * step, columns * step

    def _resize(self, pixels: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "3 new_height new_width"]:
        height, width = self.output_size(*pixels.shape[:2])
        if self.resize == "crop":
            side = min(pixels.shape[:2])
            top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
            pixels = pixels[top : top + side, left : left + side]
        if pixels.shape[:2] != (height, width):
            shrinking = pixels.shape[0] * pixels.shape[1] > height * width
            pixels = cv2.resize(
                pixels, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
            )
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def to_pixels(picture: Picture) -> UInt8[np.ndarray, "height width 3"]:
    """RGB pixels of a picture in any of the forms of ``Picture``.

    Raises:
        DataError: it is none.
    """
    if isinstance(picture, (str, Path)):
        path = Path(picture)
        try:
            picture = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}", "give the path of a picture") from error
    if isinstance(picture, bytes):
        return decode_image(picture)
    if isinstance(picture, Image.Image):
        return upright_rgb(picture)
    if not isinstance(picture, (Tensor, np.ndarray)):
        raise DataError(
            f"{picture!r} is no picture",
            "give a path, a file's bytes, a PIL image, or an array of uint8 [height, width, 3]",
        )
    array = picture.detach().cpu().numpy() if isinstance(picture, Tensor) else picture
    shape = list(array.shape)
    if array.dtype != np.uint8:
        raise DataError(
            f"a picture of {array.dtype} values was given, and only uint8 has a known range",
            "for values in [0, 1]: (picture * 255).round().astype(numpy.uint8)",
        )
    if array.ndim == 3 and shape[0] == 3 and shape[2] != 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in shape:
        raise DataError(f"an array of shape {shape} is no RGB picture", "give [height, width, 3] or [3, height, width]")
    return np.ascontiguousarray(array)
