"""What Setokim's language has besides words: the tokens around a picture, and the one that means a mask."""

from __future__ import annotations

IMAGE_START, IMAGE_END = "[Img]", "[/Img]"
"""Before and after the tokens of a picture."""
SEGMENT = "[Seg]"
"""Where a mask is meant."""
SPECIAL_TOKENS = (IMAGE_START, IMAGE_END, SEGMENT)
