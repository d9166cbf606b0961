"""Stored rows to columns of decoded pixels: what the data workers do. Without torch, so that they start quickly.

Columns are what travels between processes: arrays of one shape, and strings. Lists of varying length travel as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int32

from setok.data.augment import Augmenter
from setok.data.geometry import View, centre_square, whole
from setok.data.images import decode_and_resize, segment_map
from setok.data.letterbox import decode_and_fit, fit_segment_map
from setok.data.schema import Segment
from setok.errors import DataError

Columns = dict[str, Any]
"""Column name to an array, or a list of strings, with one entry for each row."""
STORED_COLUMNS = ("id", "images", "caption", "concepts")
"""What ``decode_rows`` needs of a stored row, besides ``segments`` if asked for."""


def decode_rows(
    table: pa.Table,
    *,
    image_size: int,
    with_segments: bool,
    fit_multiple: int | None = None,
    augmenter: Augmenter | None = None,
    epochs: Int32[np.ndarray, " n"] | None = None,
) -> Columns:
    """Decode the first input picture of every row.

    A row that cannot be decoded keeps its place: ``valid`` is False, ``pixels`` 0, ``segments`` -1, ``error`` says why.

    Args:
        table: rows of ``ARROW_SCHEMA`` with at least ``STORED_COLUMNS``.
        image_size: side S of the square, in pixels.
        with_segments: also give ``segments`` and ``is_thing``.
        fit_multiple: show whole pictures, padded to the square, with sides of multiples of this; see ``letterbox.fit``.
        augmenter: chooses the part of every picture that is shown; without one it is the square in the middle, or all of it
            with ``fit_multiple``.
        epochs: how often every row was seen before, for the augmenter; 0 for all if not given.

    Returns:
        ``id``, ``caption``, ``error`` (strings, error "" where valid), ``concepts`` (JSON list of strings), ``valid``
        bool [n], ``pixels`` uint8 [n, 3, S, S]; with segments also ``segments`` int16 [n, S, S] (index or -1) and
        ``is_thing`` (JSON list of booleans); with ``fit_multiple`` also ``size`` int32 [n, 2], the pictures' height and width.
    """
    num_rows = table.num_rows
    names = [
        name for name in (*STORED_COLUMNS, *(("segments",) if with_segments else ())) if name in table.column_names
    ]
    rows = table.select(names).to_pylist()
    pixels = np.zeros((num_rows, 3, image_size, image_size), np.uint8)
    segments = np.full((num_rows, image_size, image_size), -1, np.int16) if with_segments else None
    sizes = np.full((num_rows, 2), image_size, np.int32)
    errors, is_thing = [""] * num_rows, ["[]"] * num_rows
    for index, row in enumerate(rows):
        view: Callable[[int, int], View] = centre_square if fit_multiple is None else whole
        colours: Callable[[np.ndarray], np.ndarray] | None = None
        if augmenter is not None:
            epoch = 0 if epochs is None else int(epochs[index])
            draw = augmenter.draw(row["id"], epoch=epoch, text=row["caption"] or "")
            view, colours = draw.view, draw.colours
        try:
            if fit_multiple is None:
                pixels[index] = decode_and_resize(_input_image(row), image_size, view=view, colours=colours)
            else:
                pixels[index], sizes[index] = decode_and_fit(
                    _input_image(row), image_size, fit_multiple, view=view, colours=colours
                )
            if segments is not None:
                parts = [Segment(**segment) for segment in row["segments"]]
                height, width = sizes[index].tolist()
                segments[index] = (
                    segment_map(parts, image_size, view=view)
                    if fit_multiple is None
                    else fit_segment_map(parts, image_size, (height, width), view=view)
                )
                is_thing[index] = json.dumps([part.is_thing for part in parts])
        except DataError as error:
            errors[index] = error.problem
            pixels[index], sizes[index] = 0, image_size
    columns: Columns = {
        "id": [row["id"] for row in rows],
        "caption": [row["caption"] or "" for row in rows],
        "concepts": [json.dumps(row["concepts"] or [], ensure_ascii=False) for row in rows],
        "pixels": pixels,
        "valid": np.array([not error for error in errors], bool),
        "error": errors,
    }
    if fit_multiple is not None:
        columns |= {"size": sizes}
    if segments is not None:
        columns |= {"segments": segments, "is_thing": is_thing}
    return columns


def padding_columns(*, image_size: int, fit_multiple: int | None = None) -> Columns:
    """One row of ``decode_rows`` that stands for no record: a black picture that takes no part in anything."""
    columns: Columns = {
        "id": [""],
        "caption": [""],
        "concepts": ["[]"],
        "pixels": np.zeros((1, 3, image_size, image_size), np.uint8),
        "valid": np.zeros(1, bool),
        "error": [""],
    }
    return columns if fit_multiple is None else columns | {"size": np.full((1, 2), image_size, np.int32)}


def _input_image(row: Mapping[str, Any]) -> bytes:
    for image in row["images"]:
        if image["role"] == "input":
            return bytes(image["data"])
    raise DataError("no picture: the record has no input image", "leave it out of an image stage")
