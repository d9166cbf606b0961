"""What is given to a ``Predictor``: one thing or several, and refused plainly where it is something else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from setok.data.chat import Message
from setok.data.processor import Picture
from setok.data.schema import ROLES, Turn
from setok.errors import ConfigError, DataError


def pictures_of(given: Picture | Sequence[Picture]) -> list[Picture]:
    """One picture or several; an array of four dimensions is several."""
    one = isinstance(given, (Image.Image, bytes, str, Path))
    if one or (isinstance(given, (np.ndarray, Tensor)) and given.ndim < 4):
        return [given]  # type: ignore[list-item]
    return list(_sequence(given, "pictures"))


def texts_of(given: str | Sequence[str], name: str) -> list[str]:
    """One text or several.

    Args:
        given: of the caller.
        name: what they are to the caller.
    """
    texts = [given] if isinstance(given, str) else list(_sequence(given, name))
    for text in texts:
        if not isinstance(text, str):
            raise DataError(f"{text!r} is no text", f"give one str for each of the {name}")
    return texts


def check_conversations(given: Any) -> None:
    """Refuse what is no list of conversations, such as one conversation alone.

    Raises:
        DataError: with what was found in the place of a turn.
    """
    for talk in _sequence(given, "conversations"):
        if isinstance(talk, (str, Turn, Message)) or not isinstance(talk, Sequence):
            raise DataError(f"{talk!r} is no conversation", "give a list of conversations, each a list of turns")
        check_turns(talk)


def check_turns(talk: Sequence[Any]) -> None:
    """Refuse what is no turn, and roles that templates do not know.

    Raises:
        DataError: with the turn or its role.
    """
    for turn in talk:
        if not isinstance(turn, (Turn, Message)):
            raise DataError(f"{turn!r} is no turn", "give setok.data.schema.Turn(role=…, text=…)")
        if turn.role not in ROLES:
            raise DataError(f"a turn has the role {turn.role!r}", f"use one of: {', '.join(ROLES)}")


def check_seeds(seeds: Sequence[Any]) -> None:
    """Refuse seeds that are no whole numbers.

    Raises:
        ConfigError: with the first such one.
    """
    for seed in seeds:
        if not isinstance(seed, (int, np.integer)) or not -(2**63) <= seed < 2**64:
            raise ConfigError(f"{seed!r} is no seed", "give whole numbers of at most 64 bits")


def same_number(wanted: int, **found: int) -> None:
    """Refuse lists of another length than ``wanted``.

    Raises:
        DataError: with both lengths.
    """
    for name, number in found.items():
        if number != wanted:
            raise DataError(f"{wanted} were asked and there are {number} {name}", f"give one of {name} for each")


def _sequence(given: Any, name: str) -> Any:
    if isinstance(given, (Sequence, np.ndarray, Tensor)) and not isinstance(given, (str, bytes)):
        return given
    raise DataError(f"{given!r} is given as {name}", f"give a list of {name}")
