"""Pictures that strangers send: told from their first bytes, measured before they are decoded, and cut to what the model sees."""

from __future__ import annotations

import base64
import binascii
import io
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor

from setok.config import LimitsConfig
from setok.data.images import decode_alpha, decode_image
from setok.data.processor import SeTokImageProcessor
from setok.errors import DataError

T = TypeVar("T")
DATA_URL = re.compile(r"data:(?P<kind>[\w.+/-]*)(?:;[\w=.-]+)*;base64,(?P<data>.*)", re.DOTALL | re.IGNORECASE)
SMALL_BYTES, SMALL_PIXELS = 2**14, 2**15
"""What takes well below a millisecond to decode."""
_REMEDY = "send a PNG, JPEG, WebP, GIF or BMP"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture as the model sees it."""

    pixels: UInt8[np.ndarray, "3 size size"]
    size: tuple[int, int]
    """Height and width of the picture that was sent, upright."""


class ImageReader:
    """Decodes within limits.

    Args:
        size: side of the square in the middle that the model sees, in pixels.
    """

    def __init__(self, limits: LimitsConfig, *, size: int) -> None:
        self.limits = limits
        self._processor = SeTokImageProcessor(size=size, max_pixels=size**2)

    def small_from_data_url(self, url: str) -> Shown | None:
        """A picture in a ``data:`` URL if it is good and so small that handing it to another thread would take longer."""
        if len(url) > 2 * SMALL_BYTES:
            return None
        try:
            data = self.bytes_of(url)
            return self._shown(data, max_pixels=min(SMALL_PIXELS, self.limits.max_image_pixels))
        except DataError:  # what is wrong is told by whoever reads it in earnest
            return None

    def from_data_url(self, url: str) -> Shown:
        """A picture in a ``data:`` URL.

        Raises:
            DataError: it is no such URL, or as ``from_bytes``.
        """
        return self.from_bytes(self.bytes_of(url))

    def bytes_of(self, url: str) -> bytes:
        """The bytes in a ``data:`` URL.

        Raises:
            DataError: it is none, or too long.
        """
        match = DATA_URL.fullmatch(url)
        if match is None:
            raise DataError(
                f"{url[:40]!r} is no data URL", "send the picture as data:image/png;base64,… (or in another format)"
            )
        text = match["data"]
        if len(text) > self.limits.max_image_bytes * 4 // 3 + 4:
            raise DataError(
                f"image too large: about {len(text) * 3 // 4} bytes of {self.limits.max_image_bytes}",
                "send a smaller file",
            )
        try:
            return base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise DataError(f"the data URL holds no base64: {error}", "encode the file's bytes anew") from error

    def from_bytes(self, data: bytes) -> Shown:
        """A picture from its file's bytes.

        Raises:
            DataError: not a format that is taken, damaged, or above a limit.
        """
        return self._shown(data, max_pixels=self.limits.max_image_pixels)

    def opacity(self, data: bytes) -> UInt8[np.ndarray, "height width"] | None:
        """How opaque a picture is, 0 where it is transparent, in its own size; ``None`` where its file says nothing of it.

        Raises:
            DataError: as ``from_bytes``.
        """
        return self._decoded(data, lambda: decode_alpha(data, max_pixels=self.limits.max_image_pixels))

    def _shown(self, data: bytes, *, max_pixels: int) -> Shown:
        pixels = self._decoded(data, lambda: decode_image(data, max_pixels=max_pixels))
        shown = self._processor(pixels)["pixel_values"]
        assert isinstance(shown, Tensor)
        return Shown(pixels=shown[0].numpy(), size=(pixels.shape[0], pixels.shape[1]))

    def _decoded(self, data: bytes, decode: Callable[[], T]) -> T:
        if len(data) > self.limits.max_image_bytes:
            raise DataError(
                f"image too large: {len(data)} bytes of {self.limits.max_image_bytes}", "send a smaller file"
            )
        if not _is_taken(data):
            raise DataError(f"not an image that is taken: it starts with {data[:8].hex(' ') or 'nothing'}", _REMEDY)
        try:
            return decode()
        except (struct.error, zlib.error, KeyError, TypeError, AttributeError, RuntimeError, MemoryError) as error:
            # What decoders raise of files that are broken in ways nobody has thought of.
            raise DataError(f"damaged image: {type(error).__name__}", _REMEDY) from error


def _is_taken(data: bytes) -> bool:
    """Whether the first bytes are those of a format that is taken: a decoder that is never called has no holes."""
    if data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM")):
        return True
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def png(pixels: UInt8[np.ndarray, "height width 3"] | Bool[np.ndarray, "height width"]) -> str:
    """A picture or a mask as PNG, in base64."""
    image = Image.fromarray(pixels if pixels.dtype == np.uint8 else pixels.astype(np.uint8) * 255)
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
