"""A running average of the weights: what inference uses, being better than where the last step happened to land."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from setok.errors import CheckpointError


def decay_at(step: int, decay: float) -> float:
    """Share of the old average that a step keeps: min(decay, (1 + step) / (10 + step)).

    The warm-up (TensorFlow's ``ExponentialMovingAverage``) lets the first weights, which know nothing, fade quickly.
    """
    return min(decay, (1 + step) / (10 + step))


class WeightAverage:
    """Exponential moving average of the parameters that learn.

    The weights are the same on all ranks (ZeRO 0 to 2), so the rank that writes checkpoints keeps the average alone. It begins
    as a copy of the weights, lies on their device in their precision, and costs one fused pass over them per step.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self._parameters = dict(parameters)
        self._average = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights after the optimizer step with index ``step``."""
        if self._average:
            weights = [parameter.detach() for parameter in self._parameters.values()]
            torch._foreach_lerp_(list(self._average.values()), weights, 1 - decay_at(step, self.decay))

    def state(self) -> dict[str, Tensor]:
        """Copies on the CPU, by the parameters' names."""
        return {name: average.to("cpu", copy=True) for name, average in self._average.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` returned.

        Raises:
            CheckpointError: it is the average of other parameters.
        """
        wrong = sorted(
            name
            for name in self._average.keys() | state.keys()
            if name not in state or name not in self._average or state[name].shape != self._average[name].shape
        )
        if wrong:
            raise CheckpointError(
                f"the checkpoint averages other weights than this run learns: {len(wrong)} differ, such as {wrong[0]}",
                "keep the parts that learn as they were, or start a new run from it with checkpoint.init_from",
            )
        for name, average in self._average.items():
            average.copy_(state[name])
