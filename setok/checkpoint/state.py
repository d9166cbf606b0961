"""What a checkpoint says about its run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class TrainerState:
    """Where a run stands."""

    step: int
    """Optimizer steps done; also the next step's index."""
    samples: int
    """Samples seen, masked ones included."""
    world_size: int
    """Workers that wrote the checkpoint; for information only."""
    counters: dict[str, float] = field(default_factory=dict)
    """Sums that go on over a restart, such as seconds trained."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What was logged last before the checkpoint, by its whole name; the best checkpoint is found by one of them."""
