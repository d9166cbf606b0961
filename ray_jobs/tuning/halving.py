"""Which trials end early: asynchronous successive halving (ASHA, Li et al. 2020, arXiv 1810.05934).

The rule is that of ``ray.tune.schedulers.ASHAScheduler`` with one bracket, and a test holds it to that. It is here because
Tune's own would kill a trial where it stands, with the workers of its Ray Train run; ours asks it to save and stop, so that it
takes everything down itself. And what it knows can be read from the trials' files, so that a restart judges as before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from ray_jobs.tuning.trials import Halted


class Halving:
    """Judges trials at rungs, which lie ``factor`` times apart.

    Args:
        first_step: the first rung, in optimizer steps.
        factor: the share that goes on is 1 over it.
        last_step: of every trial; no rung lies there or beyond.
        best_is: which values are good.
    """

    def __init__(
        self, *, first_step: int, factor: float, last_step: int, best_is: Literal["lowest", "highest"]
    ) -> None:
        self._sign = 1.0 if best_is == "highest" else -1.0
        self._factor = factor
        self._rungs: dict[float, dict[int, float]] = {}
        rung = float(first_step)
        while rung < last_step:
            self._rungs[rung] = {}
            rung *= factor

    def remember(self, number: int, history: Mapping[int, float]) -> None:
        """Take note of a trial's values without judging it: what an earlier start of the sweep has seen."""
        for step in sorted(history):
            self._note(number, step, history[step])

    def judge(self, number: int, history: Mapping[int, float]) -> Halted | None:
        """Look at a trial's values by step, those that were seen before included; why it should end, if it should."""
        for step in sorted(history):
            cutoff = self._note(number, step, history[step])
            if cutoff is not None and self._sign * history[step] < cutoff:
                return Halted(step=step, value=history[step], cutoff=self._sign * cutoff)
        return None

    def _note(self, number: int, step: int, value: float) -> float | None:
        """What a value is measured by if it is the trial's first on the highest rung that it reaches; then it is noted, too."""
        reached = [rung for rung in self._rungs if step >= rung]
        if not reached:
            return None
        others = self._rungs[max(reached)]
        if number in others:
            return None
        cutoff = float(np.percentile(list(others.values()), (1 - 1 / self._factor) * 100)) if others else None
        others[number] = self._sign * value
        return cutoff
