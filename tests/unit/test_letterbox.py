"""Whole pictures in a square: sizes, pixels, segments, and the columns that carry them to the workers."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from setok.batch import real_cells
from setok.data import rle
from setok.data.collate import decode_rows, rows_to_batch
from setok.data.geometry import View
from setok.data.letterbox import decode_and_fit, fit, fit_segment_map, fitted_size
from setok.data.processor import SeTokImageProcessor
from setok.data.schema import EncodedImage, Segment
from setok.errors import ConfigError, DataError
from tests.unit.test_collate import record, table_of


def array(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@given(
    height=st.integers(1, 3000), width=st.integers(1, 3000), step=st.sampled_from([4, 8, 14, 16]), n=st.integers(1, 30)
)
def test_the_longer_side_fills_the_square_and_the_shape_stays(height: int, width: int, step: int, n: int) -> None:
    new = fitted_size(height, width, n * step, step)
    assert max(new) == n * step
    assert new[0] % step == new[1] % step == 0 and min(new) >= step
    exact = n * step * min(height, width) / max(height, width)
    assert abs(min(new) - exact) <= max(step / 2, step - exact)
    assert fitted_size(width, height, n * step, step) == new[::-1]


def test_pixels_lie_in_the_upper_left_and_the_rest_is_black() -> None:
    square, size = fit(array(30, 60), 16, 4)
    assert size == (8, 16)
    assert square.shape == (3, 16, 16) and not square[:, 8:].any()
    unpadded = np.asarray(Image.fromarray(array(30, 60)).resize((16, 8), Image.Resampling.BOX)).transpose(2, 0, 1)
    assert np.abs(square[:, :8].astype(int) - unpadded).mean() < 12
    exact, size = fit(array(16, 8), 16, 4)
    assert size == (16, 8)
    np.testing.assert_array_equal(exact[:, :, :8], array(16, 8).transpose(2, 0, 1))
    same, size = decode_and_fit(encoded(array(16, 8)), 16, 4)
    np.testing.assert_array_equal(same, exact)


def segment(mask: np.ndarray) -> Segment:
    """A region of any picture."""
    (counts,) = rle.encode_map(np.where(mask, 0, -1), [0])
    return Segment(counts=counts, height=mask.shape[0], width=mask.shape[1], category="c", is_thing=True)


def test_segments_follow_the_pixels() -> None:
    """The halves of a picture whose sides are doubled."""
    left = np.zeros((4, 6), bool)
    left[:, :3] = True
    labels = fit_segment_map([segment(left), segment(~left)], 12, (8, 12))
    assert (labels[:8, :6] == 0).all() and (labels[:8, 6:] == 1).all() and (labels[8:] == -1).all()
    assert (fit_segment_map([], 12, (8, 12)) == -1).all()
    with pytest.raises(DataError, match="4 × 6 and 6 × 4"):
        fit_segment_map([segment(left), segment(left.T)], 12, (8, 12))


def test_views_and_colours_come_before_the_padding() -> None:
    """The right half, mirrored and inverted, of pixels and of segments."""
    pixels = array(16, 32)
    view = View(x0=0.5, y0=0.0, x1=1.0, y1=1.0, flip=True)
    square, size = decode_and_fit(encoded(pixels), 16, 4, view=lambda height, width: view, colours=lambda p: 255 - p)
    assert size == (16, 16)
    np.testing.assert_array_equal(square, 255 - pixels[:, :15:-1].transpose(2, 0, 1))
    edge = np.zeros((16, 32), bool)
    edge[:, 24:] = True
    labels = fit_segment_map([segment(edge)], 16, size, view=lambda height, width: view)
    assert (labels[:, :8] == 0).all() and (labels[:, 8:] == -1).all()


def test_columns_carry_the_sizes() -> None:
    rows = [record(0), record(1), replace(record(2), images=[EncodedImage(data=b"junk")])]
    columns = decode_rows(table_of(rows), image_size=24, with_segments=True, fit_multiple=8)
    batch = rows_to_batch(columns)
    assert batch.sizes is not None and batch.pixel_mask is not None
    assert batch.valid.tolist() == [True, True, False]
    assert batch.sizes.tolist() == [[16, 24], [16, 24], [24, 24]], "what cannot be read fills the square with nothing"
    for i in range(len(batch)):
        height, width = batch.sizes[i].tolist()
        inside = batch.pixel_mask[i, 0]
        assert inside[:height, :width].all() and int(inside.sum()) == height * width
        assert not batch.pixel_values[i][:, ~inside].any()
        assert (batch.segments[i][~inside] == -1).all()
    plain = rows_to_batch(decode_rows(table_of(rows), image_size=24, with_segments=False))
    assert plain.sizes is None and plain.pixel_mask is None


def test_cells_of_a_picture_and_of_padding() -> None:
    cells = real_cells(torch.tensor([[8, 16], [16, 4], [16, 16]]), (4, 4), 4).view(3, 4, 4)
    assert cells[0].tolist() == [[True] * 4] * 2 + [[False] * 4] * 2
    assert cells[1].tolist() == [[True, False, False, False]] * 4
    assert cells[2].all()


def test_the_processor_pads_as_training_does() -> None:
    processor = SeTokImageProcessor(size=16, resize="fit", multiple_of=4, max_pixels=256)
    found = processor([array(30, 60), array(60, 30), array(20, 20)])
    assert isinstance(found["sizes"], torch.Tensor)
    assert found["sizes"].tolist() == [[8, 16], [16, 8], [16, 16]]
    assert [processor.output_size(*size) for size in ((30, 60), (60, 30))] == [(8, 16), (16, 8)]
    expected, _ = decode_and_fit(encoded(array(30, 60)), 16, 4)
    np.testing.assert_array_equal(found["pixel_values"][0].numpy(), expected)
    with pytest.raises(ConfigError, match=r"size=18[\s\S]*multiple of 4"):
        SeTokImageProcessor(size=18, resize="fit", multiple_of=4, max_pixels=400)
