"""The file that makes a folder a checkpoint: names, sizes and checksums of all others, and a checksum of itself."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FORMAT = 2
_WITHOUT_CHECKSUM = 1
"""The format before, whose manifests have no checksum of their own and name no metrics."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file as it was written."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Best:
    """What the best checkpoint of a run is."""

    metric: str
    order: Literal["lowest", "highest"]

    def key(self, metrics: Mapping[str, float]) -> float:
        """Sorts checkpoints by what they measured, best first; those that did not measure it come last."""
        value = metrics.get(self.metric, math.nan)
        if not math.isfinite(value):
            return math.inf
        return value if self.order == "lowest" else -value


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is in a checkpoint."""

    step: int
    files: dict[str, Entry]
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the run when the checkpoint was written; finite ones only."""
    best: Best | None = None
    """How the run that wrote it tells its best checkpoint."""

    def to_bytes(self) -> bytes:
        """As a file."""
        body: dict[str, Any] = {
            "format": FORMAT,
            "step": self.step,
            "files": {name: vars(entry) for name, entry in self.files.items()},
            "metrics": {name: value for name, value in self.metrics.items() if math.isfinite(value)},
            "best": self.best and vars(self.best),
        }
        checksum = hashlib.sha256(json.dumps(body).encode()).hexdigest()
        return (json.dumps(body | {"sha256": checksum}, indent=1) + "\n").encode()

    @staticmethod
    def from_bytes(data: bytes) -> Manifest:
        """What ``to_bytes`` wrote.

        Raises:
            ValueError: it did not write this; says in a few words why not.
        """
        try:
            body = json.loads(data.decode("utf-8"))
            written = body.get("format")
            if written not in (FORMAT, _WITHOUT_CHECKSUM):
                raise _WrongError(f"has format {written!r}, and this version reads {FORMAT}")
            manifest = Manifest(
                step=int(body["step"]),
                files={str(k): Entry(size=int(v["size"]), sha256=str(v["sha256"])) for k, v in body["files"].items()},
                metrics={str(name): float(value) for name, value in body.get("metrics", {}).items()},
                best=Best(**body["best"]) if body.get("best") else None,
            )
            if written == FORMAT and manifest.to_bytes() != data:  # the checksum in it among the rest
                raise _WrongError("has another checksum than when it was written")
            return manifest
        except _WrongError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError("cannot be read") from error


class _WrongError(ValueError):
    pass
