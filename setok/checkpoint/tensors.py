"""The safetensors format as a stream: what is written is checksummed on its way, and never a second time in memory.

The library's own writer fills a file on a local disk, or one large ``bytes``; neither fits a bucket. The format:
https://github.com/huggingface/safetensors#format. Reading is the library's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from setok.errors import CheckpointError

_CHUNK = 2**22
_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class ByteStream(Protocol):
    """What bytes are written to, in order."""

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes; their number."""


def write_tensors(stream: ByteStream, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors in the safetensors format; those that share memory are written whole, each by its name.

    Raises:
        CheckpointError: a tensor is of a type that the format has no name for.
    """
    # Large elements first, so that every tensor begins at a multiple of its element's size.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, Any] = {}
    begin = 0
    for name, tensor in ordered:
        if tensor.dtype not in _TYPES:
            raise CheckpointError(
                f"{name} is of type {tensor.dtype}, which checkpoints cannot hold",
                f"use one of {', '.join(str(kind) for kind in _TYPES)}",
            )
        end = begin + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for _, tensor in ordered:
        data = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().data
        for start in range(0, len(data), _CHUNK):
            stream.write(data[start : start + _CHUNK])
