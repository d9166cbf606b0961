"""Writing a checkpoint: every rank its part, rank 0 the rest and the manifest, which makes it one."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from setok.checkpoint.finding import folder_of
from setok.checkpoint.manifest import Best, Entry, Manifest
from setok.checkpoint.state import TrainerState
from setok.checkpoint.store import CONFIG, MANIFEST, MODEL, TRAINER, WRITING, Store, name_of
from setok.checkpoint.tensors import write_tensors
from setok.config import TrainConfig, dump_config
from setok.data.storage import OutputFile
from setok.errors import CheckpointError, DataError

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a file is sent to a store before it counts as refused, besides what the store's own client repeats."""
BACKOFF_SECONDS = 1.0
"""Before the second attempt; twice as long before the next."""
_POLL_SECONDS = 0.05
_POLL_SECONDS_REMOTE = 1.0
LEAVING_SECONDS = 5.0
"""A run that ends by an error waits no longer for the parts of other ranks, which may have ended too."""


class Draft:
    """A checkpoint that is being written, as each rank sees it.

    On a disk it has a temporary name and is renamed at its end. A bucket knows no renaming: there it has its own name from
    the start, and is none until the manifest is there. Ranks tell each other through the store alone that their parts are
    complete, so that all of this can go on behind the training, which uses the network for its own messages.
    """

    def __init__(self, run: str | Path, step: int) -> None:
        self.store, self.step = Store.of_run(run), step
        self._on_disk = self.store.storage.local is not None
        self._folder = (WRITING if self._on_disk else "") + name_of(step)

    def begin(self) -> None:
        """Clear away what an interrupted save has left; by rank 0, before any rank writes."""
        storage = self.store.storage
        for name in storage.folders():
            if name.startswith(WRITING):
                storage.delete_folder(name)
        if not self._on_disk:
            self.store.delete(self.step)

    def discard(self) -> None:
        """Leave nothing of it, to make room."""
        if not self._on_disk:
            self.store.delete(self.step)
        self.store.storage.delete_folder(self._folder)

    def write_part(self, optimizer: Mapping[str, Mapping[str, Tensor]], *, rank: int, world_size: int) -> None:
        """Write one rank's share of the optimizer state, and then a note of its size and checksum.

        Args:
            optimizer: module name → ``parameter/state`` → whole tensor; ranks must bring disjoint parameters.
        """
        tensors = {f"{module}/{key}": tensor for module, state in optimizer.items() for key, tensor in state.items()}
        name = _part(rank, world_size)
        entry = self._write(name, lambda file: write_tensors(file, tensors))
        self._write(_note(name), _text(json.dumps(asdict(entry))))

    def report_failure(self, error: Exception, *, rank: int, world_size: int) -> None:
        """Tell rank 0 that this rank's part will not come, if that can still be written."""
        try:
            self._write(_note(_part(rank, world_size)), _text(json.dumps({"error": str(error)})))
        except (OSError, DataError) as refused:
            logger.warning("rank 0 cannot be told that the part of rank %d is not written: %s", rank, refused)

    def finish(
        self,
        config: TrainConfig,
        weights: Mapping[str, Mapping[str, Tensor]],
        state: TrainerState,
        *,
        seconds: float = 0.0,
        leaving: threading.Event | None = None,
        confirm: Callable[[], None] = lambda: None,
    ) -> None:
        """Write the rest, wait for the parts of all ranks, and write the manifest; by rank 0.

        Args:
            weights: module name → parameter or buffer name → whole tensor.
            seconds: how long to wait for parts once the rest is written.
            leaving: when set, there is no more than ``LEAVING_SECONDS`` left for that.
            confirm: called right before the manifest; raises if there should be none.

        Raises:
            CheckpointError: parts did not come; says of which ranks.
        """
        tensors = {f"{module}.{key}": tensor for module, named in weights.items() for key, tensor in named.items()}
        files = {
            CONFIG: self._write(CONFIG, _text(dump_config(config))),
            MODEL: self._write(MODEL, lambda file: write_tensors(file, tensors)),
            TRAINER: self._write(TRAINER, _text(json.dumps(asdict(state), indent=1) + "\n")),
        }
        files |= self._wait_for_parts(state.world_size, seconds, leaving or threading.Event())
        best = Best(metric=config.checkpoint.best_metric, order=config.checkpoint.best_is)
        manifest = Manifest(step=self.step, files=files, metrics=state.metrics, best=best)
        confirm()
        self._write(MANIFEST, lambda file: file.write(manifest.to_bytes()))
        if self.store.storage.local is not None:
            self._rename(self.store.storage.local)

    def _wait_for_parts(self, world_size: int, seconds: float, leaving: threading.Event) -> dict[str, Entry]:
        """Size and checksum of every rank's part, as it has noted them; the notes are deleted."""
        parts: dict[str, Entry] = {}
        expected = {_part(rank, world_size): rank for rank in range(world_size)}
        began = time.monotonic()
        while True:
            for name in expected.keys() - parts.keys():
                if (note := self.store.storage.read(f"{self._folder}/{_note(name)}")) is not None:
                    parts[name] = _entry(json.loads(note), self.store.shown(self.step), expected[name])
            if len(parts) == world_size:
                break
            if time.monotonic() - began >= (min(seconds, LEAVING_SECONDS) if leaving.is_set() else seconds):
                raise self._incomplete(sorted(expected[name] for name in expected.keys() - parts.keys()), world_size)
            time.sleep(_POLL_SECONDS if self._on_disk else _POLL_SECONDS_REMOTE)
        sizes = self.store.storage.sizes([f"{self._folder}/{name}" for name in parts])
        short = [expected[name] for (name, entry), size in zip(parts.items(), sizes, strict=True) if size != entry.size]
        if short:
            raise self._incomplete(sorted(short), world_size)
        for name in parts:
            self.store.storage.delete(f"{self._folder}/{_note(name)}")
        return dict(sorted(parts.items()))

    def _incomplete(self, ranks: list[int], world_size: int) -> CheckpointError:
        listed = ", ".join(map(str, ranks))
        return CheckpointError(
            f"{self.store.shown(self.step)} is not complete: of {world_size} workers, no optimizer state came from"
            f" rank(s) {listed}",
            "all workers must reach the same store: set output_dir to storage that they share, or checkpoint.store to a"
            " bucket; if they are only slow, raise checkpoint.commit_timeout",
        )

    def _write(self, name: str, fill: Callable[[OutputFile], object]) -> Entry:
        """Write one file, again if a store refuses it; its size and checksum, taken on the way."""
        storage, path = self.store.storage, f"{self._folder}/{name}"
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with storage.create(path) as file:
                    fill(file)
                break
            except (OSError, DataError) as error:
                if self._on_disk or attempt == ATTEMPTS:
                    raise
                pause = BACKOFF_SECONDS * 2 ** (attempt - 1)
                logger.warning("%s is sent again in %g s: %s", f"{storage.name}/{path}", pause, error)
                time.sleep(pause)
        if self._on_disk:
            _sync(Path(storage.path(path)))
        return Entry(size=file.num_bytes, sha256=file.sha256())

    def _rename(self, folder: Path) -> None:
        """Give the checkpoint its name, in place of one that a run had written before it went back."""
        _sync(folder / self._folder)
        self.store.delete(self.step)
        (folder / self._folder).rename(folder / name_of(self.step))
        _sync(folder)


def save(
    run_dir: Path,
    config: TrainConfig,
    weights: Mapping[str, Mapping[str, Tensor]],
    optimizer: Mapping[str, Mapping[str, Tensor]],
    state: TrainerState,
) -> Path:
    """Write a whole checkpoint from one process into a run's folder; the checkpoint's folder."""
    draft = Draft(run_dir, state.step)
    draft.begin()
    draft.write_part(optimizer, rank=0, world_size=1)
    draft.finish(config, weights, state)
    return folder_of(run_dir, state.step)


@torch.no_grad()
def copy_weights(module: nn.Module) -> dict[str, Tensor]:
    """Copies on the CPU of everything in a module's state dict."""
    return {name: value.detach().to("cpu", copy=True) for name, value in module.state_dict().items()}


def _part(rank: int, world_size: int) -> str:
    return f"optimizer-{rank:05d}-of-{world_size:05d}.safetensors"


def _note(part: str) -> str:
    return f"{part}.json"


def _entry(note: dict[str, object], checkpoint: str, rank: int) -> Entry:
    if "error" in note:
        raise CheckpointError(
            f"{checkpoint} is not complete: rank {rank} could not write its part: {note['error']}",
            "free space where that rank writes, or set checkpoint.store or output_dir to another place",
        )
    return Entry(size=int(str(note["size"])), sha256=str(note["sha256"]))


def _text(text: str) -> Callable[[OutputFile], object]:
    return lambda file: file.write(text.encode())


def _sync(path: Path) -> None:
    """Make sure that a file or a folder's entries are on disk before something refers to them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
