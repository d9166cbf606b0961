"""The stream of tensors is what the safetensors library writes and reads."""

from __future__ import annotations

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load
from torch import Tensor

from setok.checkpoint.tensors import _TYPES, write_tensors
from setok.errors import CheckpointError

shapes = st.lists(st.integers(0, 4), max_size=3)
named = st.dictionaries(st.text(max_size=12), st.tuples(shapes, st.sampled_from(sorted(_TYPES, key=str))), max_size=8)


def written(tensors: dict[str, Tensor]) -> bytes:
    stream = io.BytesIO()
    write_tensors(stream, tensors)
    return stream.getvalue()


@given(named)
@settings(max_examples=200, deadline=None)
def test_the_library_reads_what_is_written(parts: dict[str, tuple[list[int], torch.dtype]]) -> None:
    generator = torch.Generator().manual_seed(len(parts))
    tensors = {name: (torch.rand(shape, generator=generator) * 4).to(kind) for name, (shape, kind) in parts.items()}
    tensors.pop("__metadata__", None)  # a name that the format keeps for itself
    data = written(tensors)
    assert (8 + int.from_bytes(data[:8], "little")) % 8 == 0
    back = load(data)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype and back[name].shape == tensor.shape
        assert torch.equal(back[name].view(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def test_views_and_large_tensors() -> None:
    base = torch.arange(3 * 2**20, dtype=torch.float32).view(3, -1)
    tensors = {"whole": base, "column": base[:, 5], "turned": base.t(), "again": base, "step": torch.tensor(7.0)}
    back = load(written(tensors))
    for name, tensor in tensors.items():
        assert torch.equal(back[name], tensor)


def test_a_type_without_a_name_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"w is of type torch\.complex128"):
        written({"w": torch.zeros(1, dtype=torch.complex128)})
