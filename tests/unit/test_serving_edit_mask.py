"""Masks of edits: what they cover stays to the bit, what is drawn fades in, and what is no mask is refused."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from setok.config import LimitsConfig
from setok.errors import DataError
from setok.serving.edit_mask import EditMask, read_edit_mask
from setok.serving.images import ImageReader
from tests.served import NAME, opened, picture, serving

RED = picture()
"""40 × 32 pixels; the model sees the 32 in the middle as they are."""
READER = ImageReader(LimitsConfig(max_image_bytes=200_000, max_image_pixels=1_000_000), size=32)


def mask_file(may_change: np.ndarray, *, mode: str = "RGBA") -> bytes:
    """A file that is transparent where ``may_change`` says so, and shows something of no meaning beneath."""
    alpha = np.where(may_change, 0, 255).astype(np.uint8)
    pixels = np.dstack([np.full((*alpha.shape, len(mode) - 1), 90, np.uint8), alpha])
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, "PNG")
    return file.getvalue()


def box(height: int, width: int, rows: slice, columns: slice) -> np.ndarray:
    inside = np.zeros((height, width), bool)
    inside[rows, columns] = True
    return inside


def masked(data: bytes, sent: bytes = RED, feather: int = 4) -> EditMask:
    return read_edit_mask(data, READER, READER.from_bytes(sent), feather)


# ------------------------------------------------------------ what stays, and what changes


@settings(max_examples=100, deadline=None)
@given(arrays(bool, (32, 40)).filter(lambda a: a[:, 4:36].any()), st.integers(1, 9))
def test_what_fades_in_is_as_deep_inside_as_it_is_strong(may_change: np.ndarray, feather: int) -> None:
    """Against the distances to all pixels that stay, one by one."""
    seen = may_change[:, 4:36]
    share = masked(mask_file(may_change), feather=feather).share
    inside, outside = np.argwhere(seen), np.argwhere(~seen)
    assert not share[~seen].any()
    if not len(outside):
        assert (share == 1).all()
        return
    depth = np.sqrt(((inside[:, None] - outside[None]) ** 2).sum(-1)).min(1)
    np.testing.assert_allclose(share[seen], np.minimum(depth / min(feather, depth.max()), 1), atol=1e-4)
    assert share.max() == 1, "some of it is drawn wholly, however narrow the mask is"


@settings(max_examples=50, deadline=None)
@given(
    arrays(np.uint8, (3, 32, 32)),
    arrays(np.uint8, (3, 32, 32)),
    arrays(np.float32, (32, 32), elements=st.floats(0, 1, width=32)),
)
def test_what_stays_does_so_to_the_bit(kept: np.ndarray, drawn: np.ndarray, share: np.ndarray) -> None:
    mixed = EditMask(kept=kept, share=share).applied(drawn)
    assert np.array_equal(mixed[:, share == 0], kept[:, share == 0])
    assert np.array_equal(mixed[:, share == 1], drawn[:, share == 1])
    assert (mixed >= np.minimum(kept, drawn)).all() and (mixed <= np.maximum(kept, drawn)).all()


@pytest.mark.parametrize(("height", "width"), [(96, 64), (64, 96), (16, 16), (32, 33)])
def test_a_mask_is_cut_and_scaled_as_its_picture(height: int, width: int) -> None:
    """What is white in the picture may change: then the model is shown white just there."""
    inside = box(height, width, slice(height // 4, height // 2), slice(width // 4, width // 2))
    file = io.BytesIO()
    Image.fromarray(inside.astype(np.uint8) * 255).save(file, "PNG")
    mask = masked(mask_file(inside), file.getvalue())
    assert np.array_equal(mask.share > 0, mask.kept[0] > 127)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_only_what_is_wholly_transparent_may_change(mode: str) -> None:
    inside = box(32, 40, slice(4, 12), slice(10, 20))
    assert np.array_equal(masked(mask_file(inside, mode=mode)).share > 0, inside[:, 4:36])
    half = Image.open(io.BytesIO(mask_file(inside)))
    half.putalpha(half.getchannel("A").point(lambda value: max(value, 1)))
    file = io.BytesIO()
    half.save(file, "PNG")
    with pytest.raises(DataError, match="lets nothing change"):
        masked(file.getvalue())


def test_a_palette_with_a_transparent_colour() -> None:
    inside = box(32, 40, slice(4, 12), slice(10, 20))
    image = Image.fromarray(inside.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    file = io.BytesIO()
    image.save(file, "PNG", transparency=1)
    assert np.array_equal(masked(file.getvalue()).share > 0, inside[:, 4:36])


# ------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (picture(), r"the mask has no alpha channel(.|\n)*PNG of the picture's size"),
        (picture(kind="JPEG"), "the mask has no alpha channel"),
        (mask_file(np.ones((40, 32), bool)), r"the mask is 32 × 40 pixels, and the first picture 40 × 32"),
        (mask_file(np.zeros((32, 40), bool)), "lets nothing change"),
        (mask_file(box(32, 40, slice(0, 32), slice(0, 4))), "lets nothing change in the square"),
        (mask_file(np.ones((32, 40), bool))[:60], "truncated|damaged"),
        (mask_file(np.ones((2000, 2000), bool)), "4000000 pixels of 1000000"),
        (b"hello, world", "not an image that is taken"),
    ],
)
def test_what_is_no_mask_and_why(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        masked(data)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=12), st.integers(0, 10**6))
def test_broken_masks_are_refused_or_read_and_nothing_else(changes: list[tuple[int, int]], keep: int) -> None:
    data = bytearray(mask_file(box(32, 40, slice(4, 12), slice(10, 20))))
    for place, value in changes:
        data[place % len(data)] = value
    data = data[: 1 + keep % len(data)] if keep % 3 == 0 else data
    try:
        mask = masked(bytes(data))
    except DataError:
        return
    assert mask.share.shape == (32, 32)


# ------------------------------------------------------------ over HTTP


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with serving() as address:
        yield openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def test_an_edit_changes_what_the_mask_lets_and_nothing_else(client: openai.OpenAI) -> None:
    inside = box(32, 40, slice(8, 24), slice(12, 28))
    asked: dict[str, Any] = {"model": NAME, "image": [("a.png", RED), ("b.png", RED)], "prompt": "make it blue", "n": 2}
    whole = client.images.edit(**asked, extra_body={"seed": 1})
    edited = client.images.edit(**asked, mask=("m.png", mask_file(inside)), extra_body={"seed": 1})
    assert whole.data and edited.data and whole.usage == edited.usage
    sent = np.asarray(Image.open(io.BytesIO(RED)))[:, 4:36]
    deep = box(32, 40, slice(12, 20), slice(16, 24))[:, 4:36]
    """More than a patch of 4 pixels from what stays."""
    for own, other in zip(edited.data, whole.data, strict=True):
        pixels, drawn = (np.asarray(opened(one.b64_json or "")) for one in (own, other))
        assert np.array_equal(pixels[~inside[:, 4:36]], sent[~inside[:, 4:36]])
        assert np.array_equal(pixels[deep], drawn[deep])
        assert not np.array_equal(pixels, sent)
