"""Running modules without memory or values: what they would keep, and the arithmetic they would do.

Tensors of the model are torch's fake ones: shapes, types and storages, no values. Bookkeeping beside them (indices, masks,
labels) keeps its values, so that code which asks for them takes the way it would take. Both are counted.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_DEVICE = torch.ops.prim.device.default
_SCALAR = torch.ops.aten._local_scalar_dense.default


def _attention(query: Any, key: Any, value: Any, *_: Any, out_val: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, out_val: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape))


_FLOPS: dict[Any, Any] = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""Arithmetic of matrix products, convolutions and attention, as torch counts it; attention on CPU is the same.

Attention inside clusters has no entry: it is below one hundredth of the whole.
"""


class Pretend(TorchDispatchMode):
    """Runs what is in the block without values, and counts the bytes that are alive after every operation.

    An operation that has no fake tensor among its arguments is done for real: that is the bookkeeping. A number asked of a
    fake tensor is 1 (checks for values that are not finite pass). What an operation needs while it runs is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.live = 0
        """Bytes of all that was made in the block and is still there, gradients of parameters left out."""
        self.gradients = 0
        """Bytes of parameters' gradients."""
        self.peak = 0
        """Most of ``live`` since ``restart``."""
        self.joint_peak = 0
        """Most of ``live`` and ``gradients`` together."""
        self.flops = 0
        """Floating-point operations so far; a multiplication and an addition are two."""
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def restart(self) -> None:
        """Look for new peaks from here on."""
        self.peak, self.joint_peak = self.live, self.live + self.gradients

    def watch(self, module: nn.Module) -> None:
        """Take a module's weights as there already, and count what lands in their ``grad`` as gradients."""
        for tensor in (*module.parameters(), *module.buffers()):
            storage = tensor.untyped_storage()
            self._known[storage._cdata] = weakref.ref(storage)
            if tensor.requires_grad:
                tensor.register_post_accumulate_grad_hook(self._gradient)

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """Everything that is made in the block is fake, and is not counted."""
        with self.fake:
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _DEVICE:
            return func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func is _SCALAR and isinstance(args[0], FakeTensor):
            return 1
        if tensors and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            result = func(*args, **kwargs)
        else:
            with self.fake:
                result = func(*args, **kwargs)
            if not tensors and isinstance(result, Tensor) and not result.is_floating_point():
                result = func(*args, **kwargs)  # new indices or masks: bookkeeping begins
        if (formula := _FLOPS.get(func._overloadpacket)) is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if (known := self._known.get(key)) is not None and known() is storage:
            return
        size = storage.nbytes()
        self._known[key] = weakref.ref(storage, lambda _: self._forget(key, size))
        self.live += size
        self.peak = max(self.peak, self.live)
        self.joint_peak = max(self.joint_peak, self.live + self.gradients)

    def _forget(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self.live -= size

    def _gradient(self, parameter: Tensor) -> None:
        """Move a parameter's gradient from what is alive to the gradients."""
        assert parameter.grad is not None
        storage = parameter.grad.untyped_storage()
        known = self._known.pop(storage._cdata, None)
        if known is None:  # was moved before: this micro-batch was added to it
            return
        size = storage.nbytes()
        self.live -= size
        self.gradients += size
        weakref.finalize(storage, self._forget_gradient, size)

    def _forget_gradient(self, size: int) -> None:
        self.gradients -= size


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, each storage once."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
