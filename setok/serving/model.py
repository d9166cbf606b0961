"""A trained model as it is served, and what clients are told about it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from setok import checkpoint
from setok.config import ClusteringConfig
from setok.errors import CheckpointError
from setok.models import setokim_files
from setok.models.tokenizer import SeTok
from setok.predictor import Predictor

THRESHOLDS: dict[str, tuple[str, float, float]] = {
    "stick_breaking": ("stop_scope", 0.0, 0.5),
    "dpc_knn": ("score_threshold", 0.0, 1.0),
    "cosine_graph": ("similarity_threshold", 0.0, 0.99),
}
"""Of every clustering method where the picture decides: the setting that decides with it, and the range that makes sense."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What clients need to know of a model."""

    name: str
    created: int
    """When it was loaded, in seconds since 1970."""
    image_size: int
    num_patches: int
    """Of a picture."""
    clustering: ClusteringConfig
    """As trained."""
    varied: bool
    """Whether it was trained with instructions (``sequence.instructions: varied``)."""
    talks: bool
    """Whether there is a language model, and not a tokenizer alone."""
    points: bool
    """Whether it finds regions."""

    @property
    def patch_side(self) -> int:
        """Of a patch, in pixels."""
        return round(self.image_size / self.num_patches**0.5)

    @property
    def threshold(self) -> tuple[str, float, tuple[float, float]] | None:
        """The clustering setting that decides how many tokens there are, its value, and the range that makes sense."""
        known = THRESHOLDS.get(self.clustering.method)
        if known is None or self.clustering.num_clusters is not None:
            return None
        name, low, high = known
        return name, float(getattr(self.clustering, name)), (low, high)


@dataclass(frozen=True, kw_only=True)
class Look:
    """A picture to be tokenized."""

    pixels: UInt8[np.ndarray, "3 height width"]
    """Of the model's size."""
    clustering: ClusteringConfig | None = None
    """Replaces the trained setting."""
    paint: bool = False
    """Also paint it back."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the tokenizer makes of a picture."""

    grid: tuple[int, int]
    assignment: Int[np.ndarray, " patches"]
    scores: Float[np.ndarray, " patches"]
    tokens: Float[np.ndarray, "tokens channels"]
    painted: UInt8[np.ndarray, "3 height width"] | None


class ServedModel:
    """Setokim, or a tokenizer alone.

    Args:
        name: what clients call it.
        predictor: of Setokim; ``None`` for a tokenizer alone.
        tokenizer: on its device, in evaluation mode.
    """

    def __init__(self, name: str, tokenizer: SeTok, predictor: Predictor | None) -> None:
        self.tokenizer, self.predictor = tokenizer, predictor
        rows, columns = tokenizer.encoder.grid(tokenizer.config.image_size, tokenizer.config.image_size)
        self.card = Card(
            name=name,
            created=int(time.time()),
            image_size=tokenizer.config.image_size,
            num_patches=rows * columns,
            clustering=tokenizer.config.clustering,
            varied=predictor is not None and predictor.sequence.instructions == "varied",
            talks=predictor is not None,
            points=predictor is not None and predictor.model.mask_decoder is not None,
        )

    @classmethod
    def load(
        cls, path: str | Path, *, name: str, device: str = "cpu", weights: Literal["ema", "raw"] = "ema"
    ) -> ServedModel:
        """An exported model, a run or a checkpoint.

        Raises:
            CheckpointError: nothing there can be loaded.
        """
        exported = (Path(path) / setokim_files.CONFIG).is_file()
        if exported and not (Path(path) / setokim_files.LANGUAGE_MODEL).is_dir():
            return cls(name, SeTok.from_pretrained(path).to(device).requires_grad_(False), None)
        if not exported and checkpoint.is_place(path):
            folder = checkpoint.resolve(path)
            config = checkpoint.read_config(folder)
            if config.stage == "tokenizer":
                tokenizer = SeTok(config.model, pretrained=False)
                checkpoint.load_model(folder, tokenizer, "model.tokenizer", average=weights == "ema")
                return cls(name, tokenizer.to(device).eval().requires_grad_(False), None)
        predictor = Predictor.from_pretrained(path, device=device, weights=weights)
        return cls(name, predictor.model.tokenizer, predictor)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.tokenizer.parameters()).device

    def require_language(self) -> Predictor:
        """The predictor.

        Raises:
            CheckpointError: it is a tokenizer alone.
        """
        if self.predictor is None:
            raise CheckpointError(
                f"{self.card.name} is a tokenizer alone, without a language model",
                "use /v1/tokenize and /v1/reconstruct, or serve a model of stage pretrain or instruct",
            )
        return self.predictor

    @torch.no_grad()
    def see(self, looks: list[Look]) -> list[Seen]:
        """Tokenize pictures of one clustering setting; those that are to be painted are."""
        pixels = torch.from_numpy(np.stack([look.pixels for look in looks])).to(self.device)
        visual = self.tokenizer.tokenize(pixels, looks[0].clustering)
        wanted = [index for index, look in enumerate(looks) if look.paint]
        painted: dict[int, Tensor] = {}
        if wanted:
            made = self.tokenizer.detokenize(
                visual.tokens[wanted], visual.mask[wanted], (pixels.shape[-2], pixels.shape[-1])
            )
            painted = dict(zip(wanted, (made.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu(), strict=True))
        counts = visual.counts.tolist()
        return [
            Seen(
                grid=visual.grid,
                assignment=visual.assignment[index].cpu().numpy(),
                scores=visual.scores[index].float().cpu().numpy(),
                tokens=visual.tokens[index, : counts[index]].float().cpu().numpy(),
                painted=painted[index].numpy() if index in painted else None,
            )
            for index in range(len(looks))
        ]
