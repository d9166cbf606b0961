"""How to continue prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from setok.errors import ConfigError

Mode = Literal["free", "text", "picture", "mask"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How to continue prompts."""

    mode: Mode = "free"
    """``text`` says nothing but text; ``picture`` draws one picture at once, ``mask`` points once, and both stop there."""
    max_new_tokens: int = 64
    """Most text tokens, special ones included; visual tokens are bounded by ``max_image_tokens`` a picture."""
    temperature: float = 0.0
    """Of text; 0 takes the most likely token."""
    top_k: int = 0
    """Choose among so many most likely tokens; 0 for all."""
    top_p: float = 1.0
    """Choose among the most likely tokens that together have this probability."""
    min_image_tokens: int | None = None
    """``None``: the tokenizer's ``min_tokens``."""
    max_image_tokens: int | None = None
    """``None``: the most that the tokenizer makes."""
    stop_threshold: float = 0.5
    """A picture ends where [/Img] is at least so likely, against [Img] (that it goes on)."""
    guidance: float = 1.0
    """How closely pictures follow their condition (classifier-free guidance); 1 for none."""
    image_temperature: float = 1.0
    """Factor on the noise of drawing; 0 draws without."""
    sampling_steps: int | None = None
    """Denoising steps of a visual token; ``None``: those of the model's config."""
    stop_ids: tuple[int, ...] = ()
    """Tokens that end a row; empty takes the text tokenizer's end-of-sequence, and in a ``Predictor`` also the end of a turn."""
    use_cache: bool = True
    """Without, every step reads the whole row again: slow, and the same."""

    def __post_init__(self) -> None:
        low, high = self.min_image_tokens, self.max_image_tokens
        for name, right, allowed in (
            ("mode", self.mode in MODES, " or ".join(map(repr, MODES))),
            ("max_new_tokens", _whole(self.max_new_tokens, 1), "1 or more"),
            ("temperature", _number(self.temperature), "0 or more"),
            ("top_k", _whole(self.top_k, 0), "0 (all) or more"),
            ("top_p", _number(self.top_p) and 0 < self.top_p <= 1, "a share above 0, at most 1"),
            (
                "stop_threshold",
                _number(self.stop_threshold) and 0 < self.stop_threshold <= 1,
                "a share above 0, at most 1",
            ),
            ("guidance", _number(self.guidance), "0 or more"),
            ("image_temperature", _number(self.image_temperature), "0 or more"),
            ("sampling_steps", self.sampling_steps is None or _whole(self.sampling_steps, 1), "1 or more"),
            ("min_image_tokens", low is None or _whole(low, 1), "1 or more"),
            ("max_image_tokens", high is None or _whole(high, low or 1), f"{low or 1} or more"),
        ):
            if not right:
                raise ConfigError(f"{name}={getattr(self, name)!r} is not possible", f"use {allowed}")


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and value >= least


def _number(value: object) -> bool:
    """Finite, and not below 0."""
    return isinstance(value, (int, float)) and math.isfinite(value) and value >= 0
