"""Writing a checkpoint: every rank its part, rank 0 the rest and the manifest, and then the final name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from setok.checkpoint.finding import (
    CONFIG,
    FORMAT,
    MANIFEST,
    MODEL,
    TRAINER,
    folder_of,
    list_checkpoints,
    sha256_of,
    verify,
)
from setok.checkpoint.state import TrainerState
from setok.config import TrainConfig, dump_config
from setok.errors import CheckpointError

_TEMPORARY = "writing_"


def begin(run_dir: Path, step: int) -> Path:
    """Make the empty temporary folder that all ranks then write to; called by rank 0 before the others write."""
    folder = temporary_folder(run_dir, step)
    for leftover in folder.parent.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(leftover)
    folder.mkdir(parents=True)
    return folder


def temporary_folder(run_dir: Path, step: int) -> Path:
    """The name under which the checkpoint of a step is written; the same on all ranks."""
    final = folder_of(run_dir, step)
    return final.with_name(_TEMPORARY + final.name)


def write_rank_part(folder: Path, optimizer: Mapping[str, Mapping[str, Tensor]], *, rank: int, world_size: int) -> None:
    """Write one rank's share of the optimizer state.

    Args:
        folder: what ``begin`` returned.
        optimizer: module name → ``parameter/state`` → whole tensor; ranks must bring disjoint parameters.
    """
    tensors = {
        f"{module}/{key}": _storable(tensor) for module, state in optimizer.items() for key, tensor in state.items()
    }
    _save(tensors, folder / f"optimizer-{rank:05d}-of-{world_size:05d}.safetensors")


def finish(folder: Path, config: TrainConfig, weights: Mapping[str, Mapping[str, Tensor]], state: TrainerState) -> Path:
    """Write the rest, the manifest last, and give the folder its final name; on rank 0, when all parts are written.

    Args:
        folder: what ``begin`` returned.
        weights: module name → parameter or buffer name → whole tensor.

    Returns:
        The checkpoint's folder.
    """
    (folder / CONFIG).write_text(dump_config(config), encoding="utf-8")
    tensors = {f"{module}.{key}": _storable(t) for module, named in weights.items() for key, t in named.items()}
    _save(tensors, folder / MODEL)
    (folder / TRAINER).write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")
    parts = list(folder.glob("optimizer-*.safetensors"))
    if len(parts) != state.world_size:
        raise CheckpointError(
            f"{folder} holds the optimizer state of {len(parts)} of {state.world_size} workers",
            "all workers must see the same folder: set output_dir to storage that they share",
        )
    files = {
        path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.iterdir())
        if path.is_file()
    }
    manifest = {"format": FORMAT, "step": state.step, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        _sync(path)
    final = folder_of(folder.parent.parent, state.step)
    if final.exists():  # of a run that came by here before, and was found damaged or went back
        shutil.rmtree(final)
    folder.rename(final)
    _sync(final.parent)
    return final


def save(
    run_dir: Path,
    config: TrainConfig,
    weights: Mapping[str, Mapping[str, Tensor]],
    optimizer: Mapping[str, Mapping[str, Tensor]],
    state: TrainerState,
) -> Path:
    """Write a whole checkpoint from one process."""
    folder = begin(run_dir, state.step)
    write_rank_part(folder, optimizer, rank=0, world_size=1)
    return finish(folder, config, weights, state)


def prune(run_dir: Path, keep: int, *, verified: Path | None = None) -> list[Path]:
    """Delete all but the newest ``keep`` good checkpoints, and those that are damaged.

    Args:
        verified: a checkpoint known to be good, such as the one just written; saves reading it again.

    Returns:
        The deleted folders; none if no checkpoint is good.
    """
    good: list[Path] = []
    rest: list[Path] = []
    for path in list_checkpoints(run_dir):
        is_good = len(good) < keep and (path == verified or not verify(path, checksums=False))
        (good if is_good else rest).append(path)
    if not good:
        return []
    for path in rest:
        shutil.rmtree(path)
    return rest


@torch.no_grad()
def copy_weights(module: nn.Module) -> dict[str, Tensor]:
    """Copies on the CPU of everything in a module's state dict."""
    return {name: value.detach().to("cpu", copy=True) for name, value in module.state_dict().items()}


def _storable(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu").contiguous()


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    owned: dict[int, str] = {}
    for name, tensor in tensors.items():  # safetensors refuses tensors that share memory, such as tied weights
        if tensor.numel() and owned.setdefault(tensor.untyped_storage().data_ptr(), name) != name:
            tensors[name] = tensor.clone()
    save_file(tensors, path)


def _sync(path: Path) -> None:
    """Make sure that a file or a folder's entries are on disk before something refers to them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
