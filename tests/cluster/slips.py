"""What is expected of a slip of the pen in a file of ``cluster/``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def expect(problems: Sequence[Any], file: str, path: str, what: str, remedy: str) -> None:
    """One of the problems names file, place and remedy."""
    told = "\n".join(map(str, problems))
    assert problems, "nothing was found"
    assert any(p.file.endswith(file) and path in p.path and what in p.what and remedy in p.remedy for p in problems), (
        told
    )
