"""Computes what a run's frozen encoder makes of its pictures, before the run starts, as far as no other run has done so.

Trials that share an encoder share the work, too: those that start at the same time each compute what is not there yet.

An encoder makes the same of the same pixels, to the last bit, in any micro-batch of the same size on as many threads of
the same kind of device; the order of pictures in it does not matter. So the files hold exactly what a run would
have computed, and what these depend on is part of their name.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from ray_jobs.ray_data import setok_error
from ray_jobs.training.stopping import is_asked_to_stop
from setok import checkpoint
from setok.batch import real_cells
from setok.config import TrainConfig
from setok.data.decode import STORED_COLUMNS, decode_rows
from setok.data.features import FeatureSet, RunFeatures
from setok.data.schema import Manifest
from setok.data.shards import ShardReader
from setok.errors import CheckpointError, ConfigError
from setok.models.encoder import HuggingFaceEncoder, ScratchEncoder, TimmEncoder
from setok.stages import Stage, TokenizerTask, build_stage, load_initial_weights

logger = logging.getLogger(__name__)

Encoder = ScratchEncoder | HuggingFaceEncoder | TimmEncoder
_TOLD_SECONDS = 10.0
_LOOK_SECONDS = 0.5
"""Between looks whether the run is asked to stop."""
_DECODED = 16
"""Micro-batches whose pictures are in memory at a time."""
_REDO = "--set data.features=null computes features in every step"


def prepare_features(config: TrainConfig, start: Path | None) -> None:
    """Have all features of a run, if it keeps any; what workers need to know of them is then in the run's folder.

    With workers it is done in their place, by as many processes of the same resources; Ray must be running then. Where the run is
    asked to stop meanwhile, it ends at once; files that are whole stay for the next start.

    Args:
        config: of the run, with absolute paths.
        start: the checkpoint that it goes on from; ``None`` at its beginning.

    Raises:
        ConfigError: the disk is too small, or the encoder draws at random.
        DataError: a set is missing or cannot be read.
    """
    if config.data.features is None:
        return
    scaling = config.scaling
    if not scaling.max_workers:
        fill(config, start, told=True)
        return
    import ray

    task = ray.remote(fill).options(
        num_cpus=scaling.cpus_per_worker,
        num_gpus=1 if scaling.use_gpu else 0,
        scheduling_strategy="DEFAULT",  # of all the cluster, where a sweep's trial has a placement group of its own
        name="features of the frozen encoder",
    )
    left = [task.remote(config, start, told=False) for _ in range(scaling.min_workers)]
    told = time.monotonic()
    while left:
        done, left = ray.wait(left, timeout=_LOOK_SECONDS)
        try:
            ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise setok_error(error) or error from None
        if is_asked_to_stop(config.run_dir):
            for one in left:  # some may wait for room
                ray.cancel(one)
            return
        if left and time.monotonic() - told > _TOLD_SECONDS and (known := RunFeatures.load(config.run_dir)) is not None:
            told = time.monotonic()
            parts = sum(one.num_parts for one in known.sets)
            there = parts - sum(len(one.missing()) for one in known.sets)
            logger.info("features of the frozen encoder: %d of %d files are there", there, parts)


def fill(config: TrainConfig, start: Path | None, *, told: bool) -> None:
    """Compute the features of a run's sets that nobody else has, one file after the other, until the run is asked to stop.

    Args:
        told: say how far it is.
    """
    device = torch.device("cuda" if config.scaling.use_gpu else "cpu")
    torch.set_num_threads(num_threads(config))
    # As the loop does: an encoder from scratch is frozen at the weights that the seed draws.
    torch.manual_seed(config.seed)
    stage = build_stage(config)
    load_weights(stage, config, start)
    encoder = encoder_of(stage).to(device).train()
    encode = _Encode(config, encoder, device)
    digest = digest_of(encoder)
    row = encode.row()
    folder, sets = Path(str(config.data.features)), []
    for entry in config.data.train:
        manifest = Manifest.load(entry.path)
        made_from = _made_from(config, digest) | {"set": manifest.fingerprint}
        sets.append(FeatureSet.create(folder, made_from, num_rows=manifest.num_rows, row=row))
    check_room(folder, sets)
    RunFeatures(encoder=digest, sets=tuple(sets)).save(config.run_dir)
    for entry, one in zip(config.data.train, sets, strict=True):
        if is_asked_to_stop(config.run_dir):
            return
        _fill_set(one, entry.path, encode, told=told)


def num_threads(config: TrainConfig) -> int:
    """Threads of a process that computes features: those of a rank of the run, where the config says how many."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return config.train.threads_per_worker or max(1, cores // max(1, config.scaling.min_workers))


def load_weights(stage: Stage, config: TrainConfig, start: Path | None) -> None:
    """Weights of a new stage: those of the checkpoint that the run goes on from, or of the run that it begins with."""
    source = start or (checkpoint.resolve(config.checkpoint.init_from) if config.checkpoint.init_from else None)
    for name, module in stage.modules.items():
        if source is not None and (start or checkpoint.holds(source, name)):
            load = checkpoint.load_model if start else load_initial_weights
            load(source, module, name)


def encoder_of(stage: Stage) -> Encoder:
    """The encoder of a tokenizer's stage."""
    task = stage.modules["model"]
    assert isinstance(task, TokenizerTask), "the config has seen to it"
    return task.tokenizer.encoder


def digest_of(encoder: torch.nn.Module) -> str:
    """Of an encoder's weights."""
    seen = hashlib.blake2b(digest_size=16)
    for name, value in sorted(encoder.state_dict().items()):
        seen.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        seen.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return seen.hexdigest()


def check_encoder(config: TrainConfig, stage: Stage) -> None:
    """Refuse to train on features of other weights than the encoder has that is saved with the model.

    Raises:
        CheckpointError: they are another's.
    """
    if config.data.features is None:
        return
    known = RunFeatures.load(config.run_dir)
    if known is None or known.encoder != digest_of(encoder_of(stage)):
        raise CheckpointError(
            f"the features that {config.run_dir} was started with are of other weights than its encoder has",
            f"start the run again, which computes them; {_REDO}",
        )


def check_room(folder: Path, sets: list[FeatureSet]) -> None:
    """Refuse features that the disk has no room for.

    Raises:
        ConfigError: with both sizes.
    """
    lacking = {one.folder: sum(len(one.rows_of(part)) for part in one.missing()) * one.row_bytes for one in sets}
    needs, free = sum(lacking.values()), shutil.disk_usage(folder).free
    if needs > free:
        raise ConfigError(
            f"features of {sum(one.num_rows for one in sets):,} pictures need another {needs / 2**30:.1f} GiB in {folder},"
            f" and {free / 2**30:.1f} GiB are free",
            f"name a larger disk; {_REDO}",
        )


class _Encode:
    """Pictures to features as a step of the run computes them, micro-batch by micro-batch."""

    def __init__(self, config: TrainConfig, encoder: Encoder, device: torch.device) -> None:
        self.config, self._encoder, self._device = config, encoder, device
        self.size = config.train.micro_batch_size

    def row(self) -> Shaped[np.ndarray, "patches width"]:
        """Of one picture, for the shape and type.

        Raises:
            ConfigError: the encoder gives something else every time.
        """
        side = self.config.model.image_size
        gray = np.full((1, 3, side, side), 128, np.uint8)
        first, again = self._micro_batch(gray, None), self._micro_batch(gray, None)
        if not np.array_equal(first, again):
            raise ConfigError(
                f"model.encoder.path={self.config.model.encoder.path} draws at random in training (dropout), so its"
                " features differ from step to step",
                _REDO,
            )
        return first[0]

    def __call__(
        self, pixels: Shaped[np.ndarray, "n 3 side side"], sizes: Shaped[np.ndarray, "n 2"] | None
    ) -> Shaped[np.ndarray, "n patches width"] | None:
        """Of some pictures, unless the run is asked to stop meanwhile; ``sizes`` as in a batch."""
        found = []
        for first in range(0, len(pixels), self.size):
            if is_asked_to_stop(self.config.run_dir):
                return None
            own = slice(first, first + self.size)
            found.append(self._micro_batch(pixels[own], None if sizes is None else sizes[own]))
        return np.concatenate(found)

    def _micro_batch(
        self, pixels: Shaped[np.ndarray, "n 3 side side"], sizes: Shaped[np.ndarray, "n 2"] | None
    ) -> Shaped[np.ndarray, "n patches width"]:
        whole = np.arange(self.size) % len(pixels)  # the last one has as many pictures as all others
        values = torch.from_numpy(pixels[whole]).to(self._device)
        extent = None if sizes is None else torch.from_numpy(sizes[whole].astype(np.int64)).to(self._device)
        bf16 = self.config.train.precision == "bf16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=bf16):
            encoded: Tensor = self._encoder(values, self._patch_mask(values, extent))
        kept = encoded.detach().cpu()[: len(pixels)]
        return kept.view(torch.int16).numpy() if kept.dtype == torch.bfloat16 else kept.numpy()

    def _patch_mask(self, values: Tensor, extent: Tensor | None) -> Tensor | None:
        if extent is None:
            return None
        return real_cells(extent, self._encoder.grid(*values.shape[-2:]), self._encoder.patch_size)


def _fill_set(one: FeatureSet, path: str, encode: _Encode, *, told: bool) -> None:
    reader = None
    began, last, done = time.monotonic(), time.monotonic(), 0
    model, total = encode.config.model, sum(len(one.rows_of(part)) for part in one.missing())
    for part in one.missing_from(turn=os.getpid()):
        reader = reader or ShardReader(path, columns=STORED_COLUMNS)
        rows = one.rows_of(part)
        found = []
        stored, size = reader.take(np.arange(rows.start, rows.stop)), encode.size * _DECODED
        for first in range(0, len(rows), size):
            columns = decode_rows(
                stored.slice(first, size),
                image_size=model.image_size,
                with_segments=False,
                fit_multiple=model.fit_multiple,
            )
            encoded = encode(columns["pixels"], columns.get("size"))
            if encoded is None:
                return
            found.append(encoded)
        one.write(part, np.concatenate(found))
        done += len(rows)
        if told and done < total and time.monotonic() - last > _TOLD_SECONDS:
            last = time.monotonic()
            left = (last - began) / done * (total - done)
            logger.info("features of %s: %s of %s pictures, about %.0f s left", path, f"{done:,}", f"{total:,}", left)
    if told and done:
        logger.info(
            "features of %s: %s pictures in %.0f s → %s", path, f"{done:,}", time.monotonic() - began, one.folder
        )


def _made_from(config: TrainConfig, encoder: str) -> dict[str, Any]:
    """All that decides what the features of a picture are, to the last bit."""
    return {
        "encoder": encoder,
        "settings": config.model.encoder.model_dump(mode="json"),
        "image_size": config.model.image_size,
        "fit_multiple": config.model.fit_multiple,
        "precision": config.train.precision,
        "batch": config.train.micro_batch_size,
        "threads": num_threads(config),
        "device": "cuda" if config.scaling.use_gpu else "cpu",
        "torch": torch.__version__,
    }
