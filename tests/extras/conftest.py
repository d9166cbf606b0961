"""These tests run in an environment of their own, `make test-extras`: timm needs torchvision."""

from __future__ import annotations

import importlib.util

import torch

_library: list[torch.library.Library] = []


def define_torchvision_schemas() -> None:
    """Let a torchvision that was built for CUDA be imported beside the CPU build of torch.

    Its compiled operators do not register there, and it looks them up at import. For tests only: the operators have no
    kernel, and vision transformers need none.
    """
    if torch.version.cuda is not None or _library or importlib.util.find_spec("torchvision") is None:
        return
    _library.append(torch.library.Library("torchvision", "FRAGMENT"))
    for name in ("nms", "qnms"):
        _library[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


define_torchvision_schemas()
