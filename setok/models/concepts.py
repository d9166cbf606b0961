"""Frozen encoders of noun concepts: phrases to unit vectors that the tokens are contrasted with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from setok.config import ConceptConfig
from setok.errors import CheckpointError, how_to_get


def phrase_id(phrase: str) -> int:
    """A 63-bit number that is the same for a phrase on every rank and in every run."""
    return int.from_bytes(hashlib.sha256(phrase.encode()).digest()[:8], "big") >> 1


def phrase_ids(phrases: Sequence[str]) -> Int[Tensor, " phrases"]:
    """``phrase_id`` of several phrases."""
    return torch.tensor([phrase_id(p) for p in phrases], dtype=torch.long)


class HashConceptEncoder(nn.Module):
    """Fixed random vectors, no weights: a phrase is the sum of a vector of its own and one for each of its words.

    Phrases that share words are near each other, and unrelated ones nearly orthogonal, which is all that a contrast on a
    machine without a pretrained text encoder needs.
    """

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__()
        self.dim = config.dim
        self._known: dict[str, Tensor] = {}

    def forward(self, phrases: Sequence[str]) -> Float[Tensor, "phrases dim"]:
        if not phrases:
            return torch.zeros(0, self.dim)
        return torch.stack([self._vector(phrase) for phrase in phrases])

    def _vector(self, phrase: str) -> Tensor:
        if phrase not in self._known:
            words = [_random_unit(word, self.dim) for word in (phrase, *phrase.split())]
            self._known[phrase] = F.normalize(torch.stack(words).sum(0), dim=-1)
        return self._known[phrase]


def _random_unit(text: str, dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(phrase_id(text))
    return F.normalize(torch.randn(dim, generator=generator), dim=-1)


class HuggingFaceConceptEncoder(nn.Module):
    """The text tower of a SigLIP or CLIP checkpoint, each phrase put in a prompt."""

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__()
        from transformers import AutoModel, AutoTokenizer  # slow to import, and not needed for hashed concepts

        assert config.path is not None  # by config validation
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(config.path)
            self.tower = AutoModel.from_pretrained(config.path).eval().requires_grad_(False)
        except (OSError, ValueError) as error:
            wanted = "a SigLIP or CLIP model and its tokenizer files"
            raise CheckpointError(
                f"concepts.path={config.path!r} gives no text tower that transformers can load: {error}",
                f"{how_to_get(config.path, wanted, setting='concepts.path')}; or use concepts.kind=hash",
            ) from error
        if not hasattr(self.tower, "get_text_features"):
            raise CheckpointError(
                f"concepts.path={config.path!r} is a {self.tower.config.model_type!r} model without text features",
                "use a SigLIP or CLIP checkpoint, or concepts.kind=hash",
            )
        self.prompt = config.prompt
        self.max_length: int = self.tower.config.text_config.max_position_embeddings
        self.dim = int(self._encode(["x"]).shape[-1])
        self._known: dict[str, Tensor] = {}

    @torch.no_grad()
    def forward(self, phrases: Sequence[str]) -> Float[Tensor, "phrases dim"]:
        new = [phrase for phrase in dict.fromkeys(phrases) if phrase not in self._known]
        if new:
            self._known.update(zip(new, self._encode(new), strict=True))
        return torch.stack([self._known[p] for p in phrases]) if phrases else torch.zeros(0, self.dim)

    @torch.no_grad()
    def _encode(self, phrases: Sequence[str]) -> Tensor:
        prompts = [self.prompt.format(phrase) for phrase in phrases]
        inputs = self.tokenizer(
            prompts, padding="max_length", max_length=self.max_length, truncation=True, return_tensors="pt"
        )
        device = next(self.tower.parameters()).device
        features = self.tower.get_text_features(**{k: v.to(device) for k, v in inputs.items()})
        features = getattr(features, "pooler_output", features)
        return F.normalize(features.float(), dim=-1).cpu()


def build_concept_encoder(config: ConceptConfig) -> HashConceptEncoder | HuggingFaceConceptEncoder:
    """The concept encoder that ``config`` describes."""
    return HashConceptEncoder(config) if config.kind == "hash" else HuggingFaceConceptEncoder(config)
