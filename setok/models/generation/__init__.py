"""Saying, drawing and pointing in one stream, with a cache of keys and values, over a batch of prompts in lockstep.

At every step each row takes one place: a text token, or a visual token that the denoising network draws from the hidden
state. ``[Img]`` opens a picture; then the logits of ``[/Img]`` and ``[Img]`` say before every further token whether it ends,
within its least and largest number of tokens. ``[Seg]`` becomes a mask of the row's first picture.

A row depends on its prompt and its seed only, not on its batch mates: each has a generator of its own.
"""

from __future__ import annotations

from setok.models.generation.continuation import Continuation, Joined
from setok.models.generation.events import (
    Event,
    Finished,
    Generated,
    ImageEnd,
    ImageToken,
    MaskFound,
    Segment,
    Text,
    TextToken,
)
from setok.models.generation.options import GenerationOptions, Mode
from setok.models.generation.rows import choose_token
from setok.models.generation.stream import generate, stream

__all__ = [
    "Continuation",
    "Event",
    "Finished",
    "Generated",
    "GenerationOptions",
    "ImageEnd",
    "ImageToken",
    "Joined",
    "MaskFound",
    "Mode",
    "Segment",
    "Text",
    "TextToken",
    "choose_token",
    "generate",
    "stream",
]
