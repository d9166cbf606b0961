"""Records that are the same: equal pictures, and equal texts with them."""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Bool, UInt64

from setok.data.schema import Record

KEY_BYTES = 16


def record_key(record: Record) -> bytes:
    """128 bits that are equal for records with the same pictures, conversation, caption, answers, choices and masks.

    Other questions on the same picture make another record. Where a record comes from plays no part.
    """
    digest = hashlib.blake2b(digest_size=KEY_BYTES)

    def add(*parts: bytes) -> None:
        for part in parts:
            digest.update(len(part).to_bytes(8, "big") + part)

    add(*(part for image in record.images for part in (image.role.encode(), image.data)), b"conversation")
    add(*(part.encode() for turn in record.conversation for part in (turn.role, turn.text)), b"texts")
    add(record.caption.encode(), *(text.encode() for text in record.answers), b"choices")
    add(*(text.encode() for text in record.choices), b"masks")
    add(*(repr((mask.height, mask.width, list(mask.counts))).encode() for mask in record.masks))
    return digest.digest()


def repeated(keys: UInt64[np.ndarray, "records 2"]) -> Bool[np.ndarray, " records"]:
    """Which records are like an earlier one."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: among equal keys the first in order comes first
    ordered = keys[order]
    same = np.zeros(len(keys), bool)
    same[order[1:]] = (ordered[1:] == ordered[:-1]).all(axis=1)
    return same
