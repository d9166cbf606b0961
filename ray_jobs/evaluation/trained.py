"""What is evaluated: a checkpoint of a run, or a folder that ``setok.export`` wrote."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from setok import checkpoint
from setok.config import SequenceConfig, TokenizerConfig
from setok.errors import CheckpointError
from setok.export import read_settings
from setok.models import pretrained, setokim_files

EXPORTED = "exported"
"""Stands for the stage of an exported Setokim: which one it was trained in last, its folder does not say."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model, as far as an evaluation must know it before it is loaded."""

    spec: str
    """As the user named it."""
    path: Path
    """Its folder on this machine."""
    place: str
    """As replicas find it."""
    stage: str
    """``tokenizer``, or one of Setokim's."""
    step: int | None
    """Of training; ``None`` for an exported folder, which does not say."""
    model: TokenizerConfig
    sequence: SequenceConfig
    """How conversations are written down; of no use to a tokenizer."""
    text_tokenizer: str | None = None
    """Folder of Setokim's text tokenizer."""

    @property
    def is_exported(self) -> bool:
        """Whether it is no checkpoint of a run."""
        return self.step is None

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of its contents; an exported folder is read whole for it."""
        if self.is_exported:
            return _digest(self.path)
        return hashlib.sha256((self.path / checkpoint.MANIFEST).read_bytes()).hexdigest()[:16]


def trained_of(spec: str) -> Trained:
    """What a user's words mean.

    Raises:
        CheckpointError: there is nothing that can be evaluated.
    """
    folder = Path(spec)
    if (folder / pretrained.CONFIG).is_file():
        return _exported(spec, folder)
    path = checkpoint.resolve(spec)
    config = checkpoint.read_config(path)
    setokim = config.setokim
    return Trained(
        spec=spec,
        path=path,
        place=checkpoint.pin(spec, path),
        stage=config.stage,
        step=checkpoint.read_state(path).step,
        model=config.model,
        sequence=config.sequence,
        text_tokenizer=None if setokim is None else setokim.text_tokenizer or setokim.language_model.path,
    )


def _exported(spec: str, folder: Path) -> Trained:
    is_setokim = _kind_of(folder) == "setokim"
    if is_setokim:
        setokim_files.read_config(folder)
    tokenizer = folder / setokim_files.TOKENIZER if is_setokim else folder
    model = pretrained.read_config(tokenizer)
    for weights in dict.fromkeys((folder / pretrained.WEIGHTS, tokenizer / pretrained.WEIGHTS)):
        _check_whole(weights)
    return Trained(
        spec=spec,
        path=folder,
        place=str(folder.absolute()),
        stage=EXPORTED if is_setokim else "tokenizer",
        step=None,
        model=model,
        sequence=read_settings(folder).sequence,
        text_tokenizer=str(folder) if is_setokim else None,
    )


def _kind_of(folder: Path) -> str:
    """The type of model in an exported folder."""
    file = folder / pretrained.CONFIG
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}", "export the model again") from error
    kind = tree.get("model_type") if isinstance(tree, dict) else None
    if kind not in ("setok", "setokim"):
        raise CheckpointError(
            f"{folder} holds a model of type {kind!r}, which is neither 'setok' nor 'setokim'",
            "name a run, a checkpoint, or a folder that setok.export wrote",
        )
    return str(kind)


def _check_whole(weights: Path) -> None:
    """Refuse weights that are missing or cut off, by their header: whether they fit is seen when they are loaded."""
    try:
        with safe_open(weights, framework="pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{weights} cannot be read: {error}", "copy or export it again") from error


def _digest(folder: Path) -> str:
    """Of the names and contents of all files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest.update(f"{path.relative_to(folder)} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]
