"""The memory that a real training step takes on a CPU, as torch's allocator has it: the same on every run."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ray_jobs.training.engines import build_engine
from setok.config import TrainConfig
from setok.planning.pretend import size_of
from setok.stages import build_stage


def measured_step(config: TrainConfig, micro_batches: Sequence[Any]) -> int:
    """Bytes at the worst moment of the third step: weights, optimizer, micro-batches, and all that the step allocates."""
    torch.manual_seed(0)
    before = _alive()
    stage = build_stage(config)
    for module in stage.modules.values():
        module.train()
    engines = {
        name: build_engine(name, module, stage.optimizer(name), config, torch.device("cpu"))
        for name, module in stage.modules.items()
    }

    def step(number: int) -> None:
        """As the loop does it."""
        contexts = stage.prepare(micro_batches, step=number)
        outputs = []
        for name, engine in engines.items():
            if not stage.is_active(name, number):
                continue
            for batch, context in zip(micro_batches, contexts, strict=True):
                output = engine(batch, context)
                engine.backward(output.loss)
                outputs.append(output)
            engine.step(1.0, step=number)

    step(0)
    step(1)
    batches = [value for batch in micro_batches for value in vars(batch).values() if isinstance(value, Tensor)]
    held = _alive() - before + sum(tensor.untyped_storage().nbytes() for tensor in batches)
    return held + _peak(lambda: step(2))


def _alive() -> int:
    """Bytes of all tensors of this process, each storage once."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if isinstance(thing, Tensor)]
    return size_of(tensor for tensor in found if tensor.device.type == "cpu")


def _peak(function: Any) -> int:
    """Most bytes that are allocated at once while a function runs, beside those that were before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    assert recorded.profiler is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most
