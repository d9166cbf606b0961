"""The image processor: every form of picture, both ways of resizing, and the two that must agree with training."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from setok.config import TokenizerConfig
from setok.data.images import decode_and_resize
from setok.data.processor import SeTokImageProcessor
from setok.errors import ConfigError, DataError
from setok.models.tokenizer import SeTok


def array(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_every_form_of_a_picture_gives_the_same_pixels(tmp_path: Path) -> None:
    processor = SeTokImageProcessor(size=16, max_pixels=256)
    pixels = array(40, 60)
    (tmp_path / "picture.png").write_bytes(encoded(pixels))
    forms = [
        pixels,
        pixels.transpose(2, 0, 1),
        torch.from_numpy(pixels),
        torch.from_numpy(pixels).permute(2, 0, 1),
        Image.fromarray(pixels),
        encoded(pixels),
        tmp_path / "picture.png",
        str(tmp_path / "picture.png"),
    ]
    together = processor(forms)["pixel_values"]
    assert isinstance(together, torch.Tensor)
    assert together.shape == (8, 3, 16, 16) and together.dtype == torch.uint8
    assert (together == together[0]).all()
    for form in forms:
        assert torch.equal(processor(form)["pixel_values"], together[:1])
    batch = torch.stack([torch.from_numpy(pixels).permute(2, 0, 1)] * 2)
    assert torch.equal(processor(batch)["pixel_values"], together[:2])


def test_cropping_is_what_training_does() -> None:
    for height, width in ((40, 60), (60, 40), (10, 14), (16, 16)):
        data = encoded(array(height, width))
        expected = torch.from_numpy(decode_and_resize(data, 16))
        assert torch.equal(SeTokImageProcessor(size=16, max_pixels=256)(data)["pixel_values"][0], expected)


def test_a_picture_held_by_pillow_is_turned_upright_and_gets_a_white_ground() -> None:
    processor = SeTokImageProcessor(size=8, max_pixels=64)
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert (processor(clear)["pixel_values"] == 255).all()
    gray = Image.new("L", (8, 8), 9)
    assert (processor(gray)["pixel_values"] == 9).all()


@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    step=st.sampled_from([4, 14, 16, 112]),
    side=st.integers(112, 448),
)
def test_keep_aspect_stays_in_its_budget(height: int, width: int, step: int, side: int) -> None:
    processor = SeTokImageProcessor(size=side, resize="keep_aspect", multiple_of=step, max_pixels=side * side)
    rows, columns = (n // step for n in processor.output_size(height, width))
    new_height, new_width = processor.output_size(height, width)
    assert new_height % step == new_width % step == 0 and rows >= 1 and columns >= 1
    assert new_height * new_width <= side * side
    if min(rows, columns) >= 8:
        assert np.log((new_width / new_height) / (width / height)) == pytest.approx(0, abs=0.25)


def test_keep_aspect_end_to_end(tmp_path: Path) -> None:
    model = {"image_size": 32, "encoder": {"width": 48}, "detokenizer": {"width": 48}}
    tokenizer = SeTok(TokenizerConfig.model_validate(model)).eval()
    tokenizer.save_pretrained(tmp_path)
    processor = SeTokImageProcessor.from_pretrained(tmp_path, resize="keep_aspect")
    assert processor.multiple_of == 8
    alike = processor([array(30, 60), array(60, 120)])["pixel_values"]
    assert isinstance(alike, torch.Tensor) and alike.shape == (2, 3, 24, 40)
    assert tokenizer.tokenize(alike).grid == (6, 10)
    assert tokenizer.reconstruct(alike).shape == alike.shape
    different = processor([array(30, 60), array(60, 30)])["pixel_values"]
    assert isinstance(different, list)
    assert [tuple(p.shape) for p in different] == [(3, 24, 40), (3, 40, 24)]


def test_settings_come_back(tmp_path: Path) -> None:
    processor = SeTokImageProcessor(size=32, resize="keep_aspect", multiple_of=8, max_pixels=999)
    processor.save_pretrained(tmp_path)
    assert vars(SeTokImageProcessor.from_pretrained(tmp_path)) == vars(processor)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    processor = SeTokImageProcessor(size=8, max_pixels=64)
    for wrong, message in (
        (array(8, 8) / 255.0, r"float64 values[\s\S]*→ [\s\S]*\* 255"),
        (array(8, 8)[..., 0], r"shape \[8, 8\][\s\S]*→ give \[height, width, 3\]"),
        (tmp_path / "none.jpg", r"none\.jpg cannot be read"),
        (b"text", r"not an image"),
        ([], r"no pictures"),
    ):
        with pytest.raises(DataError, match=message):
            processor(wrong)
    with pytest.raises(ConfigError, match=r"resize='stretch'"):
        SeTokImageProcessor(size=8, resize="stretch", max_pixels=64)
    with pytest.raises(ConfigError, match=r"max_pixels=9"):
        SeTokImageProcessor(size=8, multiple_of=4, max_pixels=9)
