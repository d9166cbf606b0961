"""A source's record to the one that is stored: checked, its pictures decoded once, large ones encoded anew."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from setok.config import IngestConfig
from setok.data import rle
from setok.data.images import decode_image
from setok.data.schema import EncodedImage, Mask, Record
from setok.data.sources import BadRecord
from setok.errors import DataError

M = TypeVar("M", bound=Mask)
_KEPT = 8


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """A picture as it will be stored, and its height and width before and after."""

    data: bytes
    old_size: tuple[int, int]
    new_size: tuple[int, int]


class Preparer:
    """Prepares records one by one, and remembers the last pictures: the questions on one picture follow each other.

    Args:
        config: limits of the pictures, and what is encoded anew.
    """

    def __init__(self, config: IngestConfig) -> None:
        self._config = config
        self._known: OrderedDict[bytes, _Stored | DataError] = OrderedDict()

    def prepare(self, record: Record | BadRecord) -> Record | BadRecord:
        """The record as it is stored, if its text is UTF-8, its pictures can be decoded, and its parts fit together."""
        if isinstance(record, BadRecord):
            return BadRecord(id=printable(record.id), reason=printable(record.reason))
        try:
            check_text(record)
            record.check()
            stored = [self._stored(image.data) for image in record.images]
            for mask in (*record.segments, *record.masks):
                rle.decode(mask.counts, mask.height, mask.width)
            return _with_pictures(record, stored)
        except DataError as error:
            return BadRecord(id=printable(record.id), reason=printable(error.problem))

    def _stored(self, data: bytes) -> _Stored:
        key = hashlib.blake2b(data, digest_size=16).digest()
        if key not in self._known:
            try:
                self._known[key] = self._decoded(data)
            except DataError as error:
                self._known[key] = error
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        found = self._known[key]
        if isinstance(found, DataError):
            raise DataError(found.problem, found.remedy)
        return found

    def _decoded(self, data: bytes) -> _Stored:
        config = self._config
        pixels = decode_image(data, max_side=config.max_image_side)
        height, width = pixels.shape[:2]
        size = (height, width)
        too_long = config.reencode_above_side is not None and max(size) > config.reencode_above_side
        too_heavy = config.reencode_above_bytes is not None and len(data) > config.reencode_above_bytes
        if too_long:
            scale = (config.reencode_above_side or 0) / max(size)
            size = (max(1, round(height * scale)), max(1, round(width * scale)))
            pixels = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA)
        if too_long or too_heavy:
            encoded = encode_jpeg(pixels, quality=config.jpeg_quality)
            if too_long or len(encoded) < len(data):
                return _Stored(data=encoded, old_size=(height, width), new_size=size)
        return _Stored(data=data, old_size=(height, width), new_size=(height, width))


def encode_jpeg(pixels: UInt8[np.ndarray, "height width 3"], *, quality: int) -> bytes:
    """RGB pixels as a JPEG file, the same for the same pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def check_text(record: Record) -> None:
    """Look whether every text of a record can be stored.

    Raises:
        DataError: a text has a lone surrogate, which is what Python makes of bytes that are not UTF-8.
    """
    texts = {
        "id": [record.id],
        "caption": [record.caption],
        "conversation": [turn.text for turn in record.conversation],
        "concepts": record.concepts,
        "answers": record.answers,
        "choices": record.choices,
        "labels": [*(box.label for box in record.boxes), *(segment.category for segment in record.segments)],
        "provenance": [text for pair in record.provenance.items() for text in pair],
    }
    for part, values in texts.items():
        for text in values:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise DataError(
                    f"invalid UTF-8: {part} at character {error.start} of {printable(text[:60])!r}", "mend the text"
                ) from error


def printable(text: str) -> str:
    """A text that can be written as UTF-8: what cannot is spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _with_pictures(record: Record, stored: Sequence[_Stored]) -> Record:
    """The record with pictures as they are stored, and with its masks at the new size of the first input picture."""
    if all(new.data is image.data for new, image in zip(stored, record.images, strict=True)):
        return record
    images = [EncodedImage(data=new.data, role=image.role) for new, image in zip(stored, record.images, strict=True)]
    first = next((new for new, image in zip(stored, images, strict=True) if image.role == "input"), None)
    if first is None:
        return dataclasses.replace(record, images=images)
    return dataclasses.replace(
        record,
        images=images,
        segments=[_resized(segment, first) for segment in record.segments],
        masks=[_resized(mask, first) for mask in record.masks],
    )


def _resized(mask: M, picture: _Stored) -> M:
    """The mask at the picture's new size, if it had the old one; one of another size is no mask of its pixels."""
    old, new = picture.old_size, picture.new_size
    if old == new or (mask.height, mask.width) != old:
        return mask
    return dataclasses.replace(mask, counts=rle.resize(mask.counts, old, new), height=new[0], width=new[1])
