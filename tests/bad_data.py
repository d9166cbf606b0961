"""Every kind of bad or unusual picture, by name: what is in the file, and what must become of it."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

RED, GREEN, WHITE = (220, 30, 30), (20, 180, 40), (255, 255, 255)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A file. ``reason`` is how the quarantine's reason begins; without one the picture is good, and looks as told."""

    data: bytes
    suffix: str = ".jpg"
    reason: str = ""
    left: tuple[int, int, int] = RED
    right: tuple[int, int, int] = GREEN


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(height: int = 40, width: int = 60) -> Image.Image:
    """Left half red, right half green."""
    pixels = np.full((height, width, 3), RED, np.uint8)
    pixels[:, width // 2 :] = GREEN
    return Image.fromarray(pixels)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size, and has no pixels behind it."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return head + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def _noise(kind: str, share: float) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    data = encode(Image.fromarray(pixels), kind)
    return data[: int(len(data) * share)]


def _animation(kind: str) -> bytes:
    blue = Image.new("RGB", (60, 40), (0, 0, 255))
    return encode(picture(), kind, save_all=True, append_images=[blue, blue])


def _lying(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    return encode(picture().rotate(90, expand=True), kind, exif=exif)


def _see_through() -> Image.Image:
    layer = picture().convert("RGBA")
    layer.putalpha(Image.fromarray(np.where(np.arange(60) < 30, 255, 0).astype(np.uint8)[None].repeat(40, 0)))
    return layer


def _see_through_palette() -> bytes:
    palette = picture().convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    return encode(palette, "PNG", transparency=int(np.asarray(palette)[0, -1]))


_DEEP = Image.fromarray(np.where(np.arange(60) < 30, 0x4000, 0xFFFF).astype(np.uint16)[None].repeat(40, 0))
_GRAY = Image.fromarray(np.full((40, 60), 77, np.uint8))

CASES: dict[str, Case] = {
    "truncated": Case(data=_noise("JPEG", 0.9), reason="truncated JPEG"),
    "truncated at a third": Case(data=_noise("JPEG", 0.3), reason="truncated JPEG"),
    "truncated PNG": Case(data=_noise("PNG", 0.6), suffix=".png", reason="truncated PNG"),
    "zero-byte": Case(data=b"", reason="empty file"),
    "not an image": Case(data=b"<html>not found</html>", reason="not an image"),
    "three bytes of a JPEG": Case(data=b"\xff\xd8\xff", reason="not an image"),
    "CMYK": Case(data=encode(picture().convert("CMYK"), "JPEG", quality=95)),
    "16-bit": Case(data=encode(_DEEP, "PNG"), suffix=".png", left=(64,) * 3, right=WHITE),
    "gray": Case(data=encode(_GRAY, "JPEG"), left=(77,) * 3, right=(77,) * 3),
    "palette": Case(data=encode(picture().convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), suffix=".png"),
    "palette with a transparent colour": Case(data=_see_through_palette(), suffix=".png", right=WHITE),
    "alpha": Case(data=encode(_see_through(), "PNG"), suffix=".png", right=WHITE),
    "alpha in WebP": Case(data=encode(_see_through(), "WEBP", lossless=True), suffix=".webp", right=WHITE),
    "EXIF-rotated": Case(data=_lying("JPEG")),
    "EXIF-rotated PNG": Case(data=_lying("PNG"), suffix=".png"),
    "animated GIF": Case(data=_animation("GIF"), suffix=".gif"),
    "animated WebP": Case(data=_animation("WEBP"), suffix=".webp"),
    "animated PNG": Case(data=_animation("PNG"), suffix=".png"),
    "1x1": Case(data=encode(Image.new("RGB", (1, 1), RED), "PNG"), suffix=".png", right=RED),
    "40000 pixels wide": Case(data=png_header(40_000, 4), suffix=".png", reason="image too large"),
    "decompression bomb": Case(data=png_header(16_000, 16_000), suffix=".png", reason="image too large"),
    "decompression bomb past Pillow's limit": Case(
        data=png_header(60_000, 60_000), suffix=".png", reason="image too large"
    ),
    "wrong extension": Case(data=encode(picture(), "PNG"), suffix=".jpg"),
}
