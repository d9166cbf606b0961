"""The conversations in which a picture, a change or a region is asked for, in the words of training."""

from __future__ import annotations

from setok.data import wordings
from setok.data.schema import IMAGE_SLOT, Turn

SEGMENT_REQUEST = "Segment {}"
"""How the readers of referring sets ask (setok/data/sources/refcoco.py)."""


def drawing(prompt: str, *, varied: bool) -> list[Turn]:
    """Asks for a picture.

    Args:
        varied: whether the model was trained with instructions (``sequence.instructions: varied``).
    """
    asked = (wordings.GENERATE if varied else wordings.GENERATE_BARE)[0][0]
    return [Turn(role="user", text=asked.replace("{}", _plain(prompt)))]


def editing(instruction: str, *, num_pictures: int = 1) -> list[Turn]:
    """Asks for a picture that is changed, or made of several."""
    asked = wordings.EDIT_BARE[0][0].replace(IMAGE_SLOT, IMAGE_SLOT * num_pictures)
    return [Turn(role="user", text=asked.replace("{}", _plain(instruction)))]


def pointing(expression: str) -> list[Turn]:
    """Asks for a region."""
    return [Turn(role="user", text=f"{IMAGE_SLOT}\n{SEGMENT_REQUEST.format(_plain(expression))}")]


def _plain(text: str) -> str:
    """A text in which nothing is a slot."""
    return text.replace(IMAGE_SLOT, " ").strip()
