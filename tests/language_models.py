"""Small language models, with our configs and as they come from the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from setok.config import LanguageModelConfig
from setok.models.language_model import LanguageModel
from tests.sequences import text_tokenizer

SMALL: dict[str, Any] = {"width": 32, "depth": 2, "num_heads": 4, "max_positions": 64}
FAMILIES = ("llama", "qwen2", "qwen3", "mistral")


def built(*, complete: bool = False, **settings: Any) -> LanguageModel:
    torch.manual_seed(0)
    config = LanguageModelConfig.model_validate((SMALL if "path" not in settings else {}) | settings)
    return LanguageModel(config, text_tokenizer(), complete=complete)


def pretrained(
    folder: Path, family: str = "llama", *, tied: bool = False, vocabulary: int = 27, bias: bool = False
) -> Any:
    """A model as it comes from the hub: without the new tokens. 27 words are the tests' vocabulary without them."""
    kind = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "mistral": "Mistral"}[family]
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=tied,
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    model.save_pretrained(folder)
    return model


def read(model: LanguageModel, ids: Tensor) -> Tensor:
    ones = torch.ones_like(ids)
    place = torch.arange(ids.shape[1]).expand_as(ids)
    return model.logits(model(model.embed(ids), ones, place))
