"""Runs with small checkpoints, and what can happen to their files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from setok import checkpoint
from setok.checkpoint import Draft, TrainerState
from setok.config import TrainConfig
from setok.data.storage import Storage
from tests.fakes import TwoLayers, train_config

STEPS = (2, 4, 6)
FILES = (
    "config.yaml",
    "manifest.json",
    "model.safetensors",
    "optimizer-00000-of-00002.safetensors",
    "optimizer-00001-of-00002.safetensors",
    "trainer.json",
)


def write(run: str | Path, step: int, config: TrainConfig | None = None, **metrics: float) -> None:
    """A checkpoint of two workers, whose encoder's bias is the step; metrics have ``__`` for the slash."""
    module = TwoLayers()
    torch.nn.init.constant_(module.encoder.bias, float(step))
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    state = TrainerState(step=step, samples=8 * step, world_size=2, metrics=named)
    draft = Draft(run, step)
    draft.begin()
    for rank, name in enumerate(("encoder.bias", "decoder.bias")):
        draft.write_part({"model": {f"{name}/exp_avg": torch.full((5,), 0.5)}}, rank=rank, world_size=2)
    draft.finish(config or train_config(), {"model": checkpoint.copy_weights(module)}, state)


def encoder_bias(path: Path) -> float:
    """The one weight that says of which step a checkpoint is."""
    module = TwoLayers()
    checkpoint.load_model(path, module, "model")
    return float(module.encoder.bias.detach()[0])


def truncated(data: bytes) -> bytes:
    return data[:-1]


def flipped(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


def emptied(data: bytes) -> bytes:
    return b""


def grown(data: bytes) -> bytes:
    return data + b"\0"


DAMAGES: tuple[Callable[[bytes], bytes] | None, ...] = (truncated, flipped, emptied, grown, None)
"""What is left of a file; ``None``: nothing, it is missing."""


def damage(run: str | Path, step: int, file: str, how: Callable[[bytes], bytes] | None) -> None:
    """Spoil one file of a checkpoint, wherever the run lies."""
    with damaged(run, step, file, how, restore=False):
        return


@contextmanager
def damaged(
    run: str | Path, step: int, file: str, how: Callable[[bytes], bytes] | None, *, restore: bool = True
) -> Iterator[None]:
    """Spoil one file for as long as a block lasts."""
    storage, path = checkpoint.Store.of_run(run).storage, f"{checkpoint.name_of(step)}/{file}"
    data = storage.read(path)
    assert data is not None
    storage.delete(path) if how is None else storage.write(path, how(data))
    yield
    if restore:
        storage.write(path, data)


def files_of(run: str | Path, step: int) -> list[str]:
    return Storage(checkpoint.Store.of_run(run).storage.address).files(checkpoint.name_of(step))
