"""From a tokenizer run to tokens, reconstructions and concept scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from setok.batch import ImageTextBatch, VisualTokens
from setok.checkpoint import load_model, read_config, resolve
from setok.config import ClusteringConfig, TrainConfig
from setok.losses import concept_contrast
from setok.models.concepts import build_concept_encoder
from setok.models.tokenizer import SeTok
from setok.stages import TokenizerTask


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Tokens of a batch of pictures, and what they bring back."""

    pixels: Float[Tensor, "batch 3 height width"]
    """In [0, 1]."""
    tokens: VisualTokens
    concept_scores: Float[Tensor, "batch concepts"] | None
    """Similarity of every picture with every concept asked for, in [-1, 1]; None where none was asked for, or the model
    was trained without concept contrast."""


class TokenizerPredictor:
    """A trained tokenizer, ready for use: deterministic, without gradients."""

    def __init__(self, config: TrainConfig, task: TokenizerTask, device: torch.device) -> None:
        self.config = config
        self.device = device
        self._task = task.to(device).eval().requires_grad_(False)
        self._concepts = build_concept_encoder(config.concepts)

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, *, device: str = "cpu", weights: Literal["ema", "raw"] = "ema"
    ) -> TokenizerPredictor:
        """Load a run or a checkpoint.

        Args:
            path: as ``setok.checkpoint.resolve`` takes it.
            weights: ``ema`` takes the running average of the weights where the run kept one; ``raw`` never does.

        Raises:
            CheckpointError: nothing there can be loaded.
        """
        folder = resolve(path)
        config = read_config(folder)
        task = TokenizerTask(config, build_concept_encoder(config.concepts).dim)
        load_model(folder, task, "model", average=weights == "ema")
        return cls(config, task, torch.device(device))

    @property
    def image_size(self) -> int:
        """Side of the pictures the model was trained on, in pixels."""
        return self.config.model.image_size

    @property
    def tokenizer(self) -> SeTok:
        """The model."""
        return self._task.tokenizer

    def autocast(self) -> torch.autocast:
        """What the model was trained under: matrix products in bfloat16, if so."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._task.bf16)

    @property
    def knows_concepts(self) -> bool:
        """Whether the model was trained with concept contrast, and so can score concepts."""
        return self.config.loss.contrast > 0

    @torch.no_grad()
    def reconstruct(
        self,
        batch: ImageTextBatch,
        *,
        concepts: Sequence[str] = (),
        clustering: ClusteringConfig | None = None,
        sampling_steps: int | None = None,
        seed: int = 0,
    ) -> Reconstruction:
        """Tokenize pictures and paint them back.

        Args:
            batch: pictures of the model's size.
            concepts: phrases to score every picture with.
            clustering: replaces the trained setting: another threshold, another token budget.
            sampling_steps: of a flow decoder; ``None`` takes those of its config, 0 the plain decoder's picture.
            seed: of the noise that a flow decoder starts from.
        """
        batch = batch.to(self.device)
        tokenizer = self.tokenizer
        with self.autocast():
            visual = tokenizer.tokenize(batch.pixel_values, clustering, sizes=batch.sizes)
            size = (batch.pixel_values.shape[-2], batch.pixel_values.shape[-1])
            pixels = tokenizer.detokenize(
                visual.tokens, visual.mask, size, seed=seed, sampling_steps=sampling_steps, sizes=batch.sizes
            )
        scores = self._score(visual, concepts) if concepts and self.knows_concepts else None
        return Reconstruction(pixels=pixels.float().clamp(0, 1), tokens=visual, concept_scores=scores)

    def _score(self, visual: VisualTokens, concepts: Sequence[str]) -> Float[Tensor, "batch concepts"]:
        vectors = F.normalize(self._concepts(concepts).to(self.device), dim=-1)
        absent = torch.zeros(len(visual.tokens), len(concepts), dtype=torch.bool, device=self.device)
        tokens = self._task.contrast(visual.tokens.float())
        _, match = concept_contrast(tokens, visual.mask, vectors, absent, self.config.loss.contrast_temperature)
        return match
