"""Where checkpoints lie, what their files are called, and which of them are whole."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path

from setok.errors import CheckpointError

logger = logging.getLogger(__name__)

FORMAT = 1
CONFIG, MODEL, TRAINER, MANIFEST = "config.yaml", "model.safetensors", "trainer.json", "manifest.json"
AVERAGE = "ema"
"""Stands before the name of a module whose weights' running average it is."""
_NAME = re.compile(r"step_(\d{8,})")


def folder_of(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run_dir / "checkpoints" / f"step_{step:08d}"


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
        elif checksums and sha256_of(file) != digest:
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


def sha256_of(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
