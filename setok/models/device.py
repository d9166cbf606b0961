"""The kind of device that a computation is arranged for; planning pretends one that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

_pretended: str | None = None  # a plain global: torch.compile can look at it


def device_kind(tensor: Tensor) -> str:
    """``cpu``, ``cuda``, …: where a tensor lies, or what is pretended."""
    return _pretended or tensor.device.type


def is_pretended() -> bool:
    """Whether computations are only gone through: tensors have no values then that could decide anything."""
    return _pretended is not None


@contextmanager
def pretend_device(kind: str) -> Iterator[None]:
    """Arrange computations as on another kind of device; for tensors without values (``setok.planning``)."""
    global _pretended
    before, _pretended = _pretended, kind
    try:
        yield
    finally:
        _pretended = before
