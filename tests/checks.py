"""The run-time type check that tests/conftest.py puts on every signature of setok."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep3119Exception

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as it is for mypy


def typechecked(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype, but for signatures that name a ``Protocol`` without ``@runtime_checkable``: those cannot be checked."""
    try:
        return _check(function)
    except BeartypeDecorHintPep3119Exception:
        return function
