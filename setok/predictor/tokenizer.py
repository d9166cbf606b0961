"""From a tokenizer run to tokens, reconstructions and concept scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from setok.batch import ImageTextBatch, VisualTokens
from setok.checkpoint import load_model, read_config, resolve
from setok.config import ClusteringConfig, TrainConfig
from setok.export import read_settings
from setok.losses import concept_contrast
from setok.models import pretrained
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


@dataclass(frozen=True, kw_only=True)
class ConceptScorer:
    """What a training with concept contrast leaves beside the tokenizer."""

    encoder: nn.Module
    """Phrases to vectors."""
    head: nn.Linear
    """Tokens to the space of these."""
    temperature: float


class TokenizerPredictor:
    """A trained tokenizer, ready for use: deterministic, without gradients.

    Args:
        bf16: matrix products in bfloat16, as a run with ``train.precision=bf16`` has them.
        concepts: scores concepts, where the tokenizer was trained with them.
    """

    def __init__(
        self, tokenizer: SeTok, device: torch.device, *, bf16: bool = False, concepts: ConceptScorer | None = None
    ) -> None:
        self.tokenizer = tokenizer.to(device).eval().requires_grad_(False)
        self.device, self.bf16 = device, bf16
        self._concepts = concepts
        if concepts is not None:
            concepts.head.to(device).requires_grad_(False)

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, *, device: str = "cpu", weights: Literal["ema", "raw"] = "ema"
    ) -> TokenizerPredictor:
        """Load a run or a checkpoint, as ``setok.checkpoint.resolve`` takes it, or what ``setok.export.export_tokenizer`` wrote.

        An exported tokenizer scores no concepts: what training needs alone is not in the folder.

        Args:
            weights: ``ema`` takes the running average of the weights where the run kept one; ``raw`` never does.

        Raises:
            CheckpointError: nothing there can be loaded.
        """
        if (Path(path) / pretrained.CONFIG).is_file():
            bf16 = read_settings(Path(path)).precision == "bf16"
            return cls(SeTok.from_pretrained(path), torch.device(device), bf16=bf16)
        folder = resolve(path)
        config = read_config(folder)
        encoder = build_concept_encoder(config.concepts)
        task = TokenizerTask(config, encoder.dim)
        load_model(folder, task, "model", average=weights == "ema")
        return cls.of_task(config, task, encoder, torch.device(device))

    @classmethod
    def of_task(
        cls, config: TrainConfig, task: TokenizerTask, encoder: nn.Module, device: torch.device
    ) -> TokenizerPredictor:
        """What a run trains, with its weights in place; ``encoder`` is that of its concepts."""
        scorer = None
        if config.loss.contrast > 0:
            scorer = ConceptScorer(encoder=encoder, head=task.contrast, temperature=config.loss.contrast_temperature)
        return cls(task.tokenizer, device, bf16=task.bf16, concepts=scorer)

    @property
    def image_size(self) -> int:
        """Side of the pictures the model was trained on, in pixels."""
        return self.tokenizer.config.image_size

    def autocast(self) -> torch.autocast:
        """What the model was trained under: matrix products in bfloat16, if so."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

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
        scores = None if self._concepts is None or not concepts else self._score(visual, concepts, self._concepts)
        return Reconstruction(pixels=pixels.float().clamp(0, 1), tokens=visual, concept_scores=scores)

    def _score(
        self, visual: VisualTokens, concepts: Sequence[str], scorer: ConceptScorer
    ) -> Float[Tensor, "batch concepts"]:
        vectors = F.normalize(scorer.encoder(concepts).to(self.device), dim=-1)
        absent = torch.zeros(len(visual.tokens), len(concepts), dtype=torch.bool, device=self.device)
        tokens = scorer.head(visual.tokens.float())
        _, match = concept_contrast(tokens, visual.mask, vectors, absent, scorer.temperature)
        return match
