"""Encoded pictures to pixels, and segment run lengths to maps of the same geometry.

Ordinary JPEGs (gray or RGB) go through OpenCV, which can decode them at a reduced scale; everything else, and every
JPEG that OpenCV refuses, through Pillow, which also tells what is wrong. The size is read from the header and checked
before anything is decoded.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import cv2
import numpy as np
from jaxtyping import Bool, Int32, UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from setok.data import rle
from setok.data.geometry import View, centre_square
from setok.data.schema import Mask
from setok.errors import DataError

DEFAULT_MAX_SIDE = 16_384
MAX_PIXELS = 2**27
"""Pictures with more pixels (400 MB once decoded) are refused whatever their sides."""
_REMEDY = "replace or remove the file"


def configure_opencv(*, num_threads: int) -> None:
    """Set OpenCV up for a worker process: threads for resizing, and no log of broken files (errors are raised)."""
    cv2.setNumThreads(num_threads)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def decode_image(
    data: bytes, *, max_side: int = DEFAULT_MAX_SIDE, max_pixels: int = MAX_PIXELS, target_size: int | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """RGB pixels of an encoded picture: upright (EXIF), first frame, transparency on white, 16 bits cut to 8.

    Args:
        data: the file's bytes.
        max_side: longest side allowed, in pixels.
        max_pixels: most pixels allowed.
        target_size: what the shorter side will be scaled to: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where
            that leaves at least twice as much (PSNR to the full decode 48 dB on COCO at 64 pixels; leaving just as
            much, 40 dB). ``None`` decodes at full size.

    Raises:
        DataError: empty, truncated, not a picture, or too large; the part of the text before ``:`` is the kind.
    """
    with _checked(data, max_side, max_pixels) as header:
        return _decode(header, data, target_size)


def decode_alpha(
    data: bytes, *, max_side: int = DEFAULT_MAX_SIDE, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "height width"] | None:
    """Opacity of an encoded picture, upright (EXIF), from 0 for transparent to 255; ``None`` where its file says nothing of it.

    Raises:
        DataError: as ``decode_image``.
    """
    with _checked(data, max_side, max_pixels) as header, _damage_told(header):
        image = _loaded(header)
        return np.array(image.convert("RGBA").getchannel("A")) if _may_be_transparent(image) else None


def upright_rgb(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    """RGB pixels of a picture that Pillow has open, turned upright, transparency on white.

    Raises:
        DataError: its file is damaged, or its pixels have no fixed range.
    """
    return _decode_with_pillow(image)


def decode_and_resize(
    data: bytes,
    size: int,
    *,
    max_side: int = DEFAULT_MAX_SIDE,
    view: Callable[[int, int], View] = centre_square,
    colours: Callable[[np.ndarray], np.ndarray] | None = None,
) -> UInt8[np.ndarray, "3 size size"]:
    """RGB pixels of a part of a picture, scaled to a square.

    Shrinking to less than three quarters averages areas. Anything else interpolates linearly: on COCO at 4/5 that is as
    near to a Lanczos filter (39 dB) and takes less than half the time.

    Args:
        data: the file's bytes.
        size: side of the square.
        max_side: longest side allowed, in pixels.
        view: the part, from the upright picture's height and width; by default the largest square in its middle.
        colours: applied to the scaled pixels, uint8 [size, size, 3].

    Raises:
        DataError: as ``decode_image``.
    """
    square, part = decode_view(data, size, max_side=max_side, view=view)
    if square.shape[:2] != (size, size):
        averaging = 3 * max(square.shape[:2]) > 4 * size
        square = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if averaging else cv2.INTER_LINEAR)
    if part.flip:
        square = square[:, ::-1]
    if colours is not None:
        square = colours(np.ascontiguousarray(square))
    return np.ascontiguousarray(square.transpose(2, 0, 1))


def decode_view(
    data: bytes, size: int, *, max_side: int = DEFAULT_MAX_SIDE, view: Callable[[int, int], View]
) -> tuple[UInt8[np.ndarray, "height width 3"], View]:
    """RGB pixels of a part of a picture, not yet scaled nor mirrored, and which part it is.

    Args:
        data: the file's bytes.
        size: what the part's shorter side will be scaled to; a JPEG may be decoded at a reduced scale that suffices for it.
        max_side: longest side allowed, in pixels.
        view: the part, from the upright picture's height and width.

    Raises:
        DataError: as ``decode_image``.
    """
    with _checked(data, max_side) as header:
        part = view(*_upright_size(header))
        rows, columns = part.crop(*_upright_size(header))
        shown = min(rows.stop - rows.start, columns.stop - columns.start)
        pixels = _decode(header, data, -(-size * min(header.size) // shown))
    rows, columns = part.crop(*pixels.shape[:2])
    return pixels[rows, columns], part


def segment_map(
    segments: Sequence[Mask], size: int, *, view: Callable[[int, int], View] = centre_square
) -> Int32[np.ndarray, "size size"]:
    """Index of the segment at every pixel, -1 where there is none, in the geometry of ``decode_and_resize``.

    The nearest pixel is taken; where segments overlap the later one wins.

    Raises:
        DataError: a segment's runs do not fit its size, or segments differ in size.
    """
    labels = np.full((size, size), -1, np.int32)
    if not segments:
        return labels
    height, width = segments[0].height, segments[0].width
    for index, segment in enumerate(segments):
        if (segment.height, segment.width) != (height, width):
            sizes = f"{height} × {width} and {segment.height} × {segment.width}"
            raise DataError(f"broken mask: segments of one picture have sizes {sizes}", _REMEDY)
        labels[mask_map(segment, size, view=view)] = index
    return labels


def mask_map(
    mask: Mask, size: int, *, view: Callable[[int, int], View] = centre_square
) -> Bool[np.ndarray, "size size"]:
    """Where a region is, in the geometry of ``decode_and_resize``; the nearest pixel is taken.

    Raises:
        DataError: the runs do not fit the mask's size.
    """
    whole = rle.decode(mask.counts, mask.height, mask.width)
    return whole[np.ix_(*view(mask.height, mask.width).nearest(mask.height, mask.width, size))].astype(bool)


@contextmanager
def _checked(data: bytes, max_side: int, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """A picture whose header alone was read, and whose size is allowed."""
    if not data:
        raise DataError("empty file: zero bytes", _REMEDY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # _check_size has the stricter rule
        with _open(data, max_pixels) as header:
            _check_size(header.size, max_side, max_pixels)
            yield header


def _decode(header: Image.Image, data: bytes, target_size: int | None) -> UInt8[np.ndarray, "height width 3"]:
    if header.format == "JPEG" and header.mode in ("L", "RGB"):
        pixels = _decode_jpeg(data, header.size, target_size)
        if pixels is not None:
            return pixels
    return _decode_with_pillow(header)


def _upright_size(header: Image.Image) -> tuple[int, int]:
    """Height and width once the picture is turned as its EXIF says."""
    width, height = header.size
    try:
        lying = header.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError):
        return height, width  # of broken EXIF; the decoders ignore it too
    return (width, height) if lying else (height, width)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        start = data[:8].hex(" ")
        raise DataError(f"not an image: {len(data)} bytes that start with {start}", _REMEDY) from error
    except Image.DecompressionBombError as error:
        raise DataError(f"image too large: it has far more than {max_pixels} pixels", "scale it down") from error
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError) as error:
        kind = "truncated" if "truncated" in str(error).lower() else "damaged"
        raise DataError(f"{kind} header: {error}", _REMEDY) from error


def _check_size(size: tuple[int, int], max_side: int, max_pixels: int) -> None:
    width, height = size
    if max(width, height) > max_side:
        raise DataError(
            f"image too large: {width} × {height} pixels, the longest side allowed is {max_side}",
            "scale it down",
        )
    if width * height > max_pixels:
        raise DataError(
            f"image too large: {width} × {height} = {width * height} pixels of {max_pixels}", "scale it down"
        )
    if min(width, height) < 1:
        raise DataError(f"empty image: {width} × {height} pixels", _REMEDY)


_REDUCED = (
    (8, cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_COLOR_RGB),
    (4, cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_COLOR_RGB),
    (2, cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB),
)
"""The flags named after gray pictures stand for the scale alone, to which the flag for RGB adds the colours."""


def _decode_jpeg(
    data: bytes, size: tuple[int, int], target_size: int | None
) -> UInt8[np.ndarray, "height width 3"] | None:
    """Pixels turned upright by OpenCV; ``None`` where it cannot decode, or might pass over a missing end."""
    if b"\xff\xd9" not in data[-64:]:
        return None
    flag = cv2.IMREAD_COLOR_RGB
    if target_size is not None:
        flag = next((flag for factor, flag in _REDUCED if min(size) >= 2 * factor * target_size), flag)
    try:
        pixels: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error:
        return None
    return pixels


def _decode_with_pillow(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    with _damage_told(image):
        return np.array(_to_rgb(_loaded(image)))


def _loaded(image: Image.Image) -> Image.Image:
    """The first frame, upright."""
    image.seek(0)
    image.load()
    return ImageOps.exif_transpose(image)


@contextmanager
def _damage_told(image: Image.Image) -> Iterator[None]:
    """What Pillow raises of a damaged file, as a ``DataError``."""
    try:
        yield
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError) as error:
        kind = "truncated" if "truncated" in str(error).lower() or isinstance(error, EOFError) else "damaged"
        raise DataError(f"{kind} {image.format or 'image'}: {error}", _REMEDY) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB; transparent pixels show white, deep gray keeps its upper 8 bits."""
    if image.mode.startswith("I;16") or image.mode == "I":
        deep = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip(deep >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range")
    if _may_be_transparent(image):
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer).convert("RGB")
    return image.convert("RGB")


def _may_be_transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
