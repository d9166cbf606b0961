"""DeepSpeed behind the engines' interface: ZeRO stages 0 to 3, and what its release needs to be told or worked around."""

from __future__ import annotations

import functools
import importlib
import logging
import math
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ray_jobs.training.engine import (
    BUCKET_ELEMENTS,
    COUNTER,
    Engine,
    clip_gradients,
    load_plain_state,
    plain_state,
    this_rank,
)
from setok.batch import Batch, LossOutput, StepContext
from setok.checkpoint import copy_weights
from setok.collectives import world_size
from setok.config import TrainConfig


class DeepSpeedEngine(Engine):
    """DeepSpeed with ZeRO stage 0 to 3 in fp32; lower precision is the module's own autocast.

    The module's weights must be in place before; the process group must exist. In stages 1 to 3 DeepSpeed clips, checks the
    norm and passes over an update whose norm is not finite, which becomes a ``NotFiniteError`` here. In stage 0 it would
    not check, so this class clips and checks in its place.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        config: TrainConfig,
        zero_stage: int,
    ) -> None:
        super().__init__(name, module, optimizer)
        self._stage = zero_stage
        self._max_grad_norm = config.optim.max_grad_norm
        self._accumulation = config.gradient_accumulation_steps
        self._wrapper = _LossOnly(module)
        self._wrapper.train(module.training)
        self._engine = _initialize(self._wrapper, optimizer, config, zero_stage)
        self._optimizer = self._engine.optimizer

    def _forward(self, batch: Batch, context: StepContext) -> LossOutput:
        last = len(self._losses) + 1 >= self._accumulation
        self._engine.set_gradient_accumulation_boundary(last)
        loss = self._engine(batch, context)
        return replace(self._wrapper.take_output(), loss=loss)

    def backward(self, loss: Tensor) -> None:
        # DeepSpeed averages over ranks; without scale_wrt_gas it does not divide by the accumulation steps.
        self._engine.backward(loss * world_size(), scale_wrt_gas=False)

    def whole(self, part: nn.Module | None) -> AbstractContextManager[None]:
        if self._stage < 3 or part is None:
            return nullcontext()
        from deepspeed.runtime.zero import GatheredParameters

        gathered: AbstractContextManager[None] = GatheredParameters(list(part.parameters()))
        return gathered

    def _update(self) -> float | None:
        if self._stage == 0:
            norm = clip_gradients(self.trainable.values(), self._max_grad_norm)
            if math.isfinite(norm):
                self._engine.step()
            else:
                self._drop()
            return norm
        self._engine.step()
        if not self._engine.was_step_applied():
            return None
        return float(self._engine.get_global_grad_norm())

    def _drop(self) -> None:
        if self._stage == 0:
            self._engine.zero_grad()
            return
        # DeepSpeed's only way to forget the parts of a gradient is to find its norm impossible.
        norm = "scaled_global_norm" if self._stage < 3 else "_get_norm_groups"
        nan = torch.tensor(math.nan, device=self._engine.device)
        setattr(self._optimizer, norm, lambda: nan if self._stage < 3 else [nan])
        try:
            self._engine.step()
        finally:
            delattr(self._optimizer, norm)

    def named_state(self, rank: int, world: int) -> dict[str, Tensor]:
        if self._stage == 0:
            return plain_state(self, self._optimizer, rank, world)
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link_state()
        result: dict[str, Tensor] = {}
        flats = self._flat_of_parameter()
        for index, (name, parameter) in enumerate(self.trainable.items()):
            flat = flats[name]
            for key, value in self._optimizer.optimizer.state.get(flat, {}).items():
                if key != COUNTER:
                    value = safe_get_full_optimizer_state(parameter, key)  # on every rank: it is a collective
                if index % world == rank:
                    result[f"{name}/{key}"] = torch.as_tensor(value).detach().to("cpu", copy=True)
        return result

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if self._stage == 0:
            load_plain_state(self, self._optimizer, state)
            return
        found = self._by_parameter(state)
        flats = self._flat_of_parameter()
        inner = self._optimizer.optimizer.state
        whole: list[tuple[str, str]] = []
        for name, keys in found.items():
            flat = flats[name]
            slots = inner.setdefault(flat, {})
            for key in keys:
                value = state[f"{name}/{key}"]
                if key == COUNTER:  # kept once for all parameters of a group
                    slots[key] = value if key not in slots else torch.maximum(slots[key], value)
                else:
                    slots.setdefault(key, torch.zeros_like(flat))
                    whole.append((name, key))
        self._link_state()
        for name, key in whole:
            self._set_state(self.trainable[name], key, state[f"{name}/{key}"])

    def full_weights(self) -> dict[str, Tensor]:
        if self._stage < 3:
            return copy_weights(self.module) if this_rank() == 0 else {}
        from deepspeed.runtime.zero import GatheredParameters

        result: dict[str, Tensor] = {}
        for name, value in self.module.state_dict(keep_vars=True).items():
            with GatheredParameters([value] if isinstance(value, nn.Parameter) else []):
                if this_rank() == 0:
                    result[name] = value.detach().to("cpu", copy=True)
        return result

    def _set_state(self, parameter: Tensor, key: str, value: Tensor) -> None:
        """Keep this rank's part of a whole state tensor."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        value = value.to(parameter.device)
        if self._stage < 3:
            safe_set_full_optimizer_state(parameter, value, key)
            return
        # In stage 3 the function above fails for parameters that the ranks do not divide (DeepSpeed 0.19).
        size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        part = value.flatten()[size * dist.get_rank() :][:size]
        safe_set_local_optimizer_state(parameter, torch.cat([part, part.new_zeros(size - len(part))]), key)

    def _link_state(self) -> None:
        """Let DeepSpeed find each parameter's part of the flat state.

        In stages 1 and 2 DeepSpeed 0.19 does so once, after the update of the first parameter group, when the others have
        no state yet.
        """
        if self._stage < 3 and self._optimizer.optimizer.state:
            self._optimizer._hp_optimizer_states_linked = False
            self._optimizer._lazy_init_hp_params_optimizer_state()

    def _flat_of_parameter(self) -> dict[str, Tensor]:
        """The flat tensor through which ZeRO's inner optimizer sees (this rank's part of) each parameter."""
        zero = self._optimizer
        groups, flats = (
            (zero.bit16_groups, zero.single_partition_of_fp32_groups)
            if self._stage < 3
            else (zero.fp16_groups, zero.fp32_partitioned_groups_flat)
        )
        by_identity = {id(p): flat for group, flat in zip(groups, flats, strict=True) for p in group}
        return {name: by_identity[id(parameter)] for name, parameter in self.trainable.items()}


class _LossOnly(nn.Module):
    """Shows DeepSpeed a module that returns one tensor; it cannot look into a ``LossOutput``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._output: LossOutput | None = None

    def forward(self, batch: Batch, context: StepContext) -> Tensor:
        self._output = self.module(batch, context)
        return self._output.loss

    def take_output(self) -> LossOutput:
        output, self._output = self._output, None
        assert output is not None, "forward comes first"
        return output


def _initialize(module: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, stage: int) -> Any:
    """A ``deepspeed.DeepSpeedEngine``, without its greetings and without building what training does not use."""
    import deepspeed

    _import_muon_uncompiled()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # A shared-memory all-reduce for inference, which DeepSpeed otherwise compiles at the first start.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    _show_dataclasses_to_deepspeed()
    numel = sum(p.numel() for p in module.parameters())
    # The default would reserve 2 GB for the smallest model; DeepSpeed wants a multiple of an alignment.
    bucket = -(-min(BUCKET_ELEMENTS, numel) // 1024) * 1024
    zero: dict[str, Any] = {"stage": stage, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if config.deepspeed.offload_optimizer and stage > 0:
        zero["offload_optimizer"] = {"device": "cpu"}
    settings = {
        "train_micro_batch_size_per_gpu": config.train.micro_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "gradient_clipping": config.optim.max_grad_norm if stage > 0 else 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings, dist_init_required=False)
    return engine


def _import_muon_uncompiled() -> None:
    """Import DeepSpeed's Muon, which nobody uses here, without what its decorators do to it.

    They compile it, for which torch imports its compiler: a second and a half of every start.
    """
    compiler = torch.compile
    torch.compile = lambda function: function  # type: ignore[assignment]
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    finally:
        torch.compile = compiler


def _show_dataclasses_to_deepspeed() -> None:
    """Let ZeRO-3 find the tensors in dataclasses that modules return.

    When the gradient of a module's output arrives, it gathers the module's own parameters again. It looks for outputs in
    tuples, lists and dicts only, and else the backward pass meets parameters of size 0. Tensors in dataclasses get a hook
    in place of the node that DeepSpeed puts behind the others, so that they stay the tensors the loss was computed from.
    """
    from deepspeed.runtime.zero import parameter_offload

    original = parameter_offload.apply_to_tensors_only
    if getattr(original, "knows_dataclasses", False):
        return

    def apply_to_tensors_only(function: Any, value: Any, warning_msg_fn: Any = None) -> Any:
        if not is_dataclass(value):
            return original(function, value, warning_msg_fn)
        if function.__self__.__name__ == "PreBackwardFunctionForModule":  # and not for inputs
            for field in fields(value):
                tensor = getattr(value, field.name)
                if is_dataclass(tensor):
                    apply_to_tensors_only(function, tensor)
                elif isinstance(tensor, Tensor) and tensor.requires_grad:
                    tensor.register_hook(functools.partial(_gather_again, function))
        return value

    apply_to_tensors_only.knows_dataclasses = True  # type: ignore[attr-defined]
    parameter_offload.apply_to_tensors_only = apply_to_tensors_only


def _gather_again(function: Any, gradient: Tensor) -> None:
    """Do what DeepSpeed's node does when a gradient passes it, however often one does."""
    with torch.enable_grad():
        probe = function(torch.zeros(1, requires_grad=True))
    probe.grad_fn.apply(gradient)
