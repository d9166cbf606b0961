"""What is known of a run's checkpoints from evaluating them during training: a file for each, beside the checkpoints.

    runs/NAME/evaluations/step_00000500.json

They outlive the checkpoints, so that a restart neither repeats nor loses one. Each names the manifest of the checkpoint that
was evaluated: where a run went back and wrote the step again, the file is of no use and is written again, too.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from setok.checkpoint.manifest import Manifest
from setok.checkpoint.store import NAME, DamagedError, Store, name_of
from setok.data.storage import Storage, beside

State = Literal["running", "done", "failed", "skipped"]
MOST_WAITING = 4
"""More checkpoints than these are not kept for being evaluated, however long that takes."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Where the evaluation of one checkpoint stands."""

    state: State
    manifest: str = ""
    """Identifies the contents of the checkpoint."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Finite ones, by names under ``eval/``."""
    reason: str = ""
    """Why it failed or was skipped."""


class Evaluations:
    """The evaluations of a run.

    Args:
        run: its folder, or its address in a store; as of ``home_of``.
    """

    def __init__(self, run: str | Path) -> None:
        self._storage = Storage(beside(str(run), "/evaluations"))
        self._store = Store.of_run(run)

    def write(self, step: int, evaluation: Evaluation) -> None:
        """Say where the evaluation of a checkpoint stands."""
        finite = {name: value for name, value in evaluation.metrics.items() if math.isfinite(value)}
        body = asdict(evaluation) | {"metrics": finite}
        self._storage.write(f"{name_of(step)}.json", (json.dumps(body, indent=1) + "\n").encode())

    def read(self, step: int) -> Evaluation | None:
        """Where the evaluation of a step stands, if anything is known of it."""
        try:
            data = self._storage.read(f"{name_of(step)}.json")
            return None if data is None else Evaluation(**json.loads(data.decode("utf-8")))
        except (ValueError, TypeError):  # not of this version: as if it were not there
            return None

    def forget_after(self, step: int) -> None:
        """Delete what is said of later steps, for a run that goes back to this one."""
        for later in self.steps():
            if later > step:
                self._storage.delete(f"{name_of(later)}.json")

    def steps(self) -> list[int]:
        """Steps that something is known of, oldest first."""
        found = (NAME.fullmatch(name.removesuffix(".json")) for name in self._storage.files())
        return sorted(int(match.group(1)) for match in found if match)

    def metrics(self, step: int, manifest: Manifest) -> Mapping[str, float]:
        """What was measured of the checkpoint with this manifest; nothing if it was another one."""
        known = self.read(step)
        return known.metrics if known is not None and known.manifest == identity(manifest) else {}

    def unfinished(self, steps: Iterable[int]) -> list[int]:
        """Those of some steps whose checkpoints are there and of which there is no last word, newest first."""
        wanted = set(steps)
        return [step for step in self._store.steps() if step in wanted and self._is_open(step)]

    def contents(self, step: int) -> str:
        """Identifies the contents of a checkpoint; empty where it is not there, or damaged."""
        try:
            return identity(self._store.manifest(step))
        except DamagedError:
            return ""

    def _is_open(self, step: int) -> bool:
        contents, known = self.contents(step), self.read(step)
        if not contents:
            return False  # nobody can evaluate it
        return known is None or known.state == "running" or known.manifest != contents


def identity(manifest: Manifest) -> str:
    """Tells one checkpoint from another, by its checksums."""
    return hashlib.sha256(manifest.to_bytes()).hexdigest()[:16]
