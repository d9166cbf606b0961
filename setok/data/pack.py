"""Sequences and their pictures to rows of one length: what the data workers do. Without torch.

A row holds several samples, one after the other, and padding. Its number of pictures and masks varies; they travel between
processes as bytes. A sample that cannot be used keeps its places: nothing in it is trained, and shapes stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int32, UInt8

from setok.data.decode import Columns
from setok.data.images import decode_and_resize, segment_map
from setok.data.schema import Record
from setok.data.sequences import UNTRAINED, TokenSequence
from setok.errors import DataError

TOKEN_COLUMNS = ("input_ids", "labels", "segment_ids", "image_index", "image_offset", "mask_index")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sequence with its pictures and masks in pixels."""

    sequence: TokenSequence
    pixel_values: UInt8[np.ndarray, "images 3 size size"]
    """0 where ``error`` is set."""
    masks: Bool[np.ndarray, "masks size size"]
    """None where ``error`` is set."""
    error: str = ""
    """Why the sample takes no part in training."""


@dataclass(frozen=True, kw_only=True)
class PackedRow:
    """Samples in one row; the columns are those of ``SequenceBatch``, with pictures and masks counted from 0 in the row."""

    input_ids: Int32[np.ndarray, " length"]
    labels: Int32[np.ndarray, " length"]
    segment_ids: Int32[np.ndarray, " length"]
    image_index: Int32[np.ndarray, " length"]
    image_offset: Int32[np.ndarray, " length"]
    mask_index: Int32[np.ndarray, " length"]
    pixel_values: UInt8[np.ndarray, "images 3 size size"]
    image_is_target: Bool[np.ndarray, " images"]
    image_valid: Bool[np.ndarray, " images"]
    masks: Bool[np.ndarray, "masks size size"]
    mask_image: Int32[np.ndarray, " masks"]
    ids: tuple[str, ...]
    errors: tuple[str, ...]
    """For every sample why it cannot be used, or ""."""


def decode_sample(record: Record, sequence: TokenSequence, *, image_size: int) -> Sample:
    """Decode the pictures and masks of a sequence that was built from the record.

    Args:
        record: with the encoded pictures.
        sequence: says which of them it has places for, and how many masks.
        image_size: side S of the square that pictures and masks are cut to, in pixels.
    """
    count = len(sequence.images)
    nothing = np.zeros((0, image_size, image_size), bool)
    try:
        if sequence.error:
            raise DataError(sequence.error)
        pictures = [decode_and_resize(record.images[index].data, image_size) for index in sequence.images]
        masks = [segment_map([mask], image_size) >= 0 for mask in record.masks[: sequence.num_masks]]
    except DataError as error:
        blank = np.zeros((count, 3, image_size, image_size), np.uint8)
        return Sample(sequence=sequence, pixel_values=blank, masks=nothing, error=error.problem)
    return Sample(
        sequence=sequence,
        pixel_values=np.stack(pictures) if pictures else np.zeros((0, 3, image_size, image_size), np.uint8),
        masks=np.stack(masks) if masks else nothing,
    )


def pack_row(samples: Sequence[Sample], *, max_length: int, pad_id: int, image_size: int) -> PackedRow:
    """Put samples into one row, in their order.

    Args:
        samples: may be none: then the row is all padding.
        max_length: places in the row.
        pad_id: stands behind the last sample.
        image_size: side S of the pictures.

    Raises:
        DataError: the samples are longer than the row.
    """
    total = sum(len(sample.sequence) for sample in samples)
    if total > max_length:
        names = ", ".join(sample.sequence.id for sample in samples)
        raise DataError(
            f"row too long: {names} have {total} tokens, {total - max_length} more than sequence.max_length={max_length}",
            "make the packing plan again with the lengths of this tokenizer and these settings",
        )
    fills = {"input_ids": pad_id, "labels": UNTRAINED, "image_index": -1, "mask_index": -1}
    columns = {name: np.full(max_length, fills.get(name, 0), np.int32) for name in TOKEN_COLUMNS}
    position = num_images = num_masks = 0
    mask_image: list[int] = []
    for number, sample in enumerate(samples, start=1):
        part = _usable(sample)
        place = slice(position, position + len(part))
        columns["input_ids"][place] = part.input_ids
        columns["labels"][place] = part.labels
        columns["segment_ids"][place] = number
        columns["image_offset"][place] = part.image_offset
        columns["image_index"][place] = _shifted(part.image_index, num_images)
        columns["mask_index"][place] = _shifted(part.mask_index, num_masks)
        if len(sample.masks):
            mask_image += [num_images + part.image_is_target.index(False)] * len(sample.masks)
        position += len(part)
        num_images += len(part.images)
        num_masks += len(sample.masks)
    return PackedRow(
        **columns,
        pixel_values=np.concatenate(
            [np.zeros((0, 3, image_size, image_size), np.uint8), *(sample.pixel_values for sample in samples)]
        ),
        image_is_target=np.array([flag for sample in samples for flag in sample.sequence.image_is_target], bool),
        image_valid=np.array([not sample.error for sample in samples for _ in sample.sequence.images], bool),
        masks=np.concatenate([np.zeros((0, image_size, image_size), bool), *(sample.masks for sample in samples)]),
        mask_image=np.array(mask_image, np.int32),
        ids=tuple(sample.sequence.id for sample in samples),
        errors=tuple(sample.error for sample in samples),
    )


def row_columns(rows: Sequence[PackedRow]) -> Columns:
    """Rows as columns that travel between processes: arrays of one shape, bytes, and JSON.

    Returns:
        ``TOKEN_COLUMNS`` (int32 [n, max_length]), ``pixels`` (bytes of uint8 [images, 3, S, S]), ``masks`` (bits of
        [masks, S, S], 8 in a byte), and as JSON ``image_is_target``, ``image_valid``, ``mask_image``, ``id`` and
        ``error`` (lists over pictures, masks, samples). ``setok.data.collate.columns_to_sequences`` is the inverse.
    """
    columns: Columns = {name: np.stack([getattr(row, name) for row in rows]) for name in TOKEN_COLUMNS}
    return columns | {
        "pixels": [row.pixel_values.tobytes() for row in rows],
        "masks": [np.packbits(row.masks).tobytes() for row in rows],
        "image_is_target": [json.dumps(row.image_is_target.tolist()) for row in rows],
        "image_valid": [json.dumps(row.image_valid.tolist()) for row in rows],
        "mask_image": [json.dumps(row.mask_image.tolist()) for row in rows],
        "id": [json.dumps(row.ids, ensure_ascii=False) for row in rows],
        "error": [json.dumps(row.errors, ensure_ascii=False) for row in rows],
    }


def _usable(sample: Sample) -> TokenSequence:
    """The sample's sequence, without anything to learn where it has an error."""
    if not sample.error:
        return sample.sequence
    return replace(
        sample.sequence,
        labels=np.full_like(sample.sequence.labels, UNTRAINED),
        mask_index=np.full_like(sample.sequence.mask_index, -1),
    )


def _shifted(index: Int32[np.ndarray, " length"], offset: int) -> Int32[np.ndarray, " length"]:
    """Numbers counted on from ``offset``; -1 stays."""
    return np.where(index < 0, index, index + np.int32(offset)).astype(np.int32)
