"""Random views and colours of pictures, drawn from (seed, epoch, sample) alone.

Whoever decodes a sample, in whatever order, sees the same pixels; the next epoch sees others. The cut is that of
Szegedy et al., *Going Deeper with Convolutions* (CVPR 2015): a share of the area and an aspect ratio, anywhere inside.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from setok.config import AugmentConfig
from setok.data.geometry import View, centre_square
from setok.data.permutation import derive_key

_AUGMENT_STREAM = 3
_TRIES = 10
_SIDES = re.compile(r"\b(left|right|leftmost|rightmost|clockwise|counterclockwise|anticlockwise)\b", re.IGNORECASE)


def says_sides(text: str) -> bool:
    """Whether a text tells left from right, so that it would be wrong about the mirrored picture."""
    return _SIDES.search(text) is not None


class Augmenter:
    """Draws what every sample looks like.

    Args:
        config: what may be drawn.
        seed: of the run.
    """

    def __init__(self, config: AugmentConfig, *, seed: int) -> None:
        self.config, self.seed = config, seed

    def draw(self, sample: str, *, epoch: int, picture: int = 0, text: str = "") -> Draw:
        """The look of one picture of a sample.

        Args:
            sample: the record's id.
            epoch: how often the sample was seen before.
            picture: its number within the record.
            text: all that the record says; where it tells left from right the picture is not mirrored.
        """
        name = int.from_bytes(hashlib.blake2b(sample.encode(), digest_size=8).digest(), "little")
        key = int(derive_key(self.seed, _AUGMENT_STREAM, epoch, picture, name)[0])
        generator = np.random.Generator(np.random.Philox(key=key))
        return Draw(
            config=self.config, numbers=tuple(generator.random(4 + 4 * _TRIES).tolist()), may_flip=not says_sides(text)
        )


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Numbers drawn for one picture, from which its view follows once its size is known."""

    config: AugmentConfig
    numbers: tuple[float, ...]
    """Uniform in [0, 1): flip, three for colours, and four for each try of a cut."""
    may_flip: bool

    def view(self, height: int, width: int) -> View:
        """The part of a picture of this size, in pixels, that is shown."""
        flip = self.may_flip and self.numbers[0] < self.config.flip
        for trial in range(_TRIES):
            area, ratio, across, down = self.numbers[4 + 4 * trial : 8 + 4 * trial]
            share = _between(self.config.scale, area) * height * width
            aspect = math.exp(_between((math.log(self.config.ratio[0]), math.log(self.config.ratio[1])), ratio))
            wide, high = math.sqrt(share * aspect), math.sqrt(share / aspect)
            if wide <= width and high <= height:
                x0, y0 = across * (width - wide) / width, down * (height - high) / height
                return View(x0=x0, y0=y0, x1=x0 + wide / width, y1=y0 + high / height, flip=flip)
        middle = centre_square(height, width)  # a picture far longer than wide has room for few of the cuts
        return View(x0=middle.x0, y0=middle.y0, x1=middle.x1, y1=middle.y1, flip=flip)

    def colours(self, pixels: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
        """RGB pixels with brightness, contrast and saturation changed, in this order, by up to ``color_jitter``."""
        strength = self.config.color_jitter
        if not strength:
            return pixels
        brightness, contrast, saturation = (_between((1 - strength, 1 + strength), n) for n in self.numbers[1:4])
        out = pixels.astype(np.float32) * brightness
        grey = cv2.cvtColor(out, cv2.COLOR_RGB2GRAY)
        mean = grey.mean()
        out = (out - mean) * contrast + mean
        grey = cv2.cvtColor(out, cv2.COLOR_RGB2GRAY)[..., None]
        return np.clip((out - grey) * saturation + grey + 0.5, 0, 255).astype(np.uint8)


def _between(span: tuple[float, float], share: float) -> float:
    return span[0] + (span[1] - span[0]) * share
