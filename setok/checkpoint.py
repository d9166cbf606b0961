"""Checkpoints that say whether they are whole, and that depend on no number of workers.

A checkpoint is a folder::

    runs/NAME/checkpoints/step_00000500/
        config.yaml                            the run's config
        model.safetensors                      weights of every module: model.…, discriminator.…, and their running
                                               average where the run keeps one: ema.model.…
        optimizer-00000-of-00002.safetensors   module/parameter/state, each parameter whole and in one of the files
        trainer.json                           step, samples, counters
        manifest.json                          size and SHA-256 of the files above, written last

It is written under a temporary name and renamed when complete, so a crash while saving leaves nothing that looks like a
checkpoint. Only safetensors and JSON: nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from setok.config import TrainConfig, dump_config, load_config
from setok.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)

FORMAT = 1
CONFIG, MODEL, TRAINER, MANIFEST = "config.yaml", "model.safetensors", "trainer.json", "manifest.json"
AVERAGE = "ema"
"""Stands before the name of a module whose weights' running average it is."""
_NAME = re.compile(r"step_(\d{8,})")
_TEMPORARY = "writing_"


@dataclass(frozen=True, kw_only=True)
class TrainerState:
    """Where a run stands."""

    step: int
    """Optimizer steps done; also the next step's index."""
    samples: int
    """Samples seen, masked ones included."""
    world_size: int
    """Workers that wrote the checkpoint; for information only."""
    counters: dict[str, float] = field(default_factory=dict)
    """Sums that go on over a restart, such as seconds trained."""


# ---------------------------------------------------------------- writing


def folder_of(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run_dir / "checkpoints" / f"step_{step:08d}"


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
        path.name: {"size": path.stat().st_size, "sha256": _sha256(path)}
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


# ---------------------------------------------------------------- finding


def list_checkpoints(run_dir: Path) -> list[Path]:
    """All checkpoint folders of a run, good or not, newest first."""
    folder = run_dir / "checkpoints"
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step in a checkpoint's name."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"{path} is not named like a checkpoint", "name a folder such as step_00000500, or a run")
    return int(match.group(1))


def verify(path: Path, *, checksums: bool = True) -> list[str]:
    """What is wrong with a checkpoint, one sentence each; empty if it is whole.

    Args:
        checksums: read every byte; without it only names and sizes are compared, which takes no time.
    """
    manifest_path = path / MANIFEST
    if not manifest_path.is_file():
        return [f"{MANIFEST} is missing"]
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        files = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"{MANIFEST} cannot be read"]
    if manifest.get("format") != FORMAT:
        return [f"{MANIFEST} has format {manifest.get('format')!r}, and this version reads {FORMAT}"]
    problems = [f"{MANIFEST} does not list {name}" for name in (CONFIG, MODEL, TRAINER) if name not in files]
    for name, (size, digest) in files.items():
        file = path / name
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif file.stat().st_size != size:
            problems.append(f"{name} has {file.stat().st_size} bytes instead of {size}")
        elif checksums and _sha256(file) != digest:
            problems.append(f"{name} has another checksum than when it was written")
    return problems


def newest_good(run_dir: Path) -> Path | None:
    """The newest checkpoint of a run that is whole, or ``None``; damaged ones are skipped with a warning."""
    for path in list_checkpoints(run_dir):
        problems = verify(path)
        if not problems:
            return path
        logger.warning("checkpoint %s is damaged and is skipped: %s", path, "; ".join(problems))
    return None


def resolve(path: str | Path) -> Path:
    """The checkpoint that a user's path means: a checkpoint folder, or a run folder's newest good one.

    Raises:
        CheckpointError: nothing there, or what is there is damaged.
    """
    path = Path(path)
    if _NAME.fullmatch(path.name) or (path / MANIFEST).is_file():
        problems = verify(path) if path.is_dir() else ["the folder does not exist"]
        if problems:
            raise CheckpointError(
                f"checkpoint {path} cannot be used: {'; '.join(problems)}",
                "name the run's folder instead, and its newest good checkpoint is taken",
            )
        return path
    found = newest_good(path)
    if found is None:
        damaged = len(list_checkpoints(path))
        what = f"its {damaged} checkpoint(s) are all damaged" if damaged else "it holds no checkpoint"
        raise CheckpointError(
            f"{path} cannot be used: {what if path.is_dir() else 'the folder does not exist'}",
            "name a run's folder (runs/NAME) or a checkpoint in it (runs/NAME/checkpoints/step_…)",
        )
    return found


# ---------------------------------------------------------------- reading


def read_config(path: Path) -> TrainConfig:
    """The config a checkpoint was trained with."""
    try:
        return load_config(TrainConfig, path / CONFIG)
    except ConfigError as error:
        raise CheckpointError(
            f"the config in {path} is not valid for this version: {error.problem}", "use the version that wrote it"
        ) from error


def read_state(path: Path) -> TrainerState:
    """Where the run stood when the checkpoint was written."""
    try:
        return TrainerState(**json.loads((path / TRAINER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path / TRAINER} cannot be read: {error}", "use another checkpoint") from error


class OptimizerState(Mapping[str, Tensor]):
    """One module's optimizer state as ``parameter/state`` → tensor, read from disk when asked for."""

    def __init__(self, path: Path, module: str) -> None:
        self._files: dict[str, Path] = {}
        self._prefix = f"{module}/"
        for file in sorted(path.glob("optimizer-*.safetensors")):
            with safe_open(file, framework="pt") as stored:
                self._files |= {k.removeprefix(self._prefix): file for k in stored.keys() if k.startswith(self._prefix)}

    def __getitem__(self, key: str) -> Tensor:
        with safe_open(self._files[key], framework="pt") as stored:
            return stored.get_tensor(self._prefix + key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def load_model(path: Path, module: nn.Module, prefix: str, *, skip: str | None = None, average: bool = False) -> None:
    """Copy a checkpoint's weights into a module; names and shapes must be exactly those of the module.

    Args:
        path: a checkpoint folder, verified by the caller (``resolve`` or ``newest_good``).
        prefix: name of the module in the checkpoint, such as ``model`` or ``model.tokenizer``.
        skip: names that start with this are passed over in the checkpoint, and stay as they are in the module.
        average: take the running average of those weights that the checkpoint has one of.

    Raises:
        CheckpointError: the checkpoint is of another model; says which keys differ.
    """
    prefix += "."
    try:
        with safe_open(path / MODEL, framework="pt") as stored:
            names = {key.removeprefix(prefix): key for key in stored.keys() if key.startswith(prefix)}
            if average:
                averaged = f"{AVERAGE}.{prefix}"
                names |= {key.removeprefix(averaged): key for key in stored.keys() if key.startswith(averaged)}
            kept = {k: v for k, v in module.state_dict().items() if skip is not None and k.startswith(skip)}
            names = {name: key for name, key in names.items() if skip is None or not name.startswith(skip)}
            shapes = {name: tuple(stored.get_slice(key).get_shape()) for name, key in names.items()}
            wanted = {k: tuple(v.shape) for k, v in module.state_dict().items() if k not in kept}
            _check_keys(path, prefix, wanted, shapes)
            weights = {name: stored.get_tensor(key) for name, key in names.items()}
            module.load_state_dict(weights | kept, strict=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path / MODEL} cannot be read: {error}", "use another checkpoint") from error


def read_average(path: Path, prefix: str) -> dict[str, Tensor]:
    """The running average of a module's weights, on the CPU; empty where the run keeps none."""
    start = f"{AVERAGE}.{prefix}."
    with safe_open(path / MODEL, framework="pt") as stored:
        return {key.removeprefix(start): stored.get_tensor(key) for key in stored.keys() if key.startswith(start)}


def holds(path: Path, prefix: str) -> bool:
    """Whether a checkpoint has weights of the module ``prefix``."""
    with safe_open(path / MODEL, framework="pt") as stored:
        return any(key.startswith(f"{prefix}.") for key in stored.keys())


def _check_keys(
    path: Path, prefix: str, wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    def listed(items: list[str]) -> str:
        return ", ".join(items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")

    differences = {
        "missing": sorted(set(wanted) - set(found)),
        "unexpected": sorted(set(found) - set(wanted)),
        "of another shape": [
            f"{name} {list(found[name])} instead of {list(wanted[name])}"
            for name in sorted(set(wanted) & set(found))
            if found[name] != wanted[name]
        ],
    }
    if any(differences.values()):
        details = "; ".join(f"{len(v)} {what}: {listed(v)}" for what, v in differences.items() if v)
        raise CheckpointError(
            f"{path} is a checkpoint of another model ({_describe(path)}); under {prefix!r}: {details}",
            f"use the model section of {path / CONFIG}, or another checkpoint",
        )


def _describe(path: Path) -> str:
    """The model of a checkpoint in a few words."""
    try:
        config = read_config(path)
    except CheckpointError:
        return "its config cannot be read"
    model = config.model
    return (
        f"stage {config.stage}, run {config.name!r}, image_size {model.image_size}, encoder {model.encoder.kind} "
        f"{model.encoder.width}×{model.encoder.depth}, detokenizer {model.detokenizer.width}×{model.detokenizer.depth}"
    )


# ---------------------------------------------------------------- files


def _storable(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu").contiguous()


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    owned: dict[int, str] = {}
    for name, tensor in tensors.items():  # safetensors refuses tensors that share memory, such as tied weights
        if tensor.numel() and owned.setdefault(tensor.untyped_storage().data_ptr(), name) != name:
            tensors[name] = tensor.clone()
    save_file(tensors, path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Make sure that a file or a folder's entries are on disk before something refers to them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@torch.no_grad()
def copy_weights(module: nn.Module) -> dict[str, Tensor]:
    """Copies on the CPU of everything in a module's state dict."""
    return {name: value.detach().to("cpu", copy=True) for name, value in module.state_dict().items()}
