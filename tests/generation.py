"""Prompts to be continued, a model that is free with its special tokens, and what it means that two replies are the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from setok.batch import SequenceBatch
from setok.models.generation import Generated, ImageEnd, MaskFound, Text
from setok.models.setokim import Setokim
from tests.sequences import Part, Picture, noise_picture, sequence_batch, setokim, shaken, square

PROMPTS: list[tuple[str, list[Part]]] = [
    ("a", ["what colour is the square", Picture(square("red", 4, 4)[0])]),
    ("b", ["draw"]),
    ("c", ["where is", Picture(noise_picture(1)), Picture(noise_picture(4)), "the red circle and the blue square"]),
    ("d", ["a square", Picture(noise_picture(6))]),
]
WILD: dict[str, Any] = {"temperature": 3.0, "max_new_tokens": 30, "sampling_steps": 3}
SEEDS = (11, 12, 13, 14)


def batch_of(model: Setokim, prompts: Sequence[tuple[str, list[Part]]] = PROMPTS) -> SequenceBatch:
    return sequence_batch([[prompt] for prompt in prompts], model.text_tokenizer, model.max_image_tokens)


def model_of(**language_model: Any) -> Setokim:
    """A model that is free with its special tokens: their logits are often the largest."""
    model = shaken(setokim(language_model={"tie_embeddings": False, **language_model}))
    with torch.no_grad():
        head = model.language_model.base.get_output_embeddings().weight
        head *= 2
        for token in model.language_model.new_ids[:1] + model.language_model.new_ids[2:]:
            head[token] *= 2
    return model


def same(one: Generated, other: Generated, *, close: float = 1e-3) -> None:
    assert one.reason == other.reason and len(one.segments) == len(other.segments)
    for a, b in zip(one.segments, other.segments, strict=True):
        assert type(a) is type(b)
        if isinstance(a, Text):
            assert a == b
        elif isinstance(a, ImageEnd):
            torch.testing.assert_close(a.tokens, b.tokens, atol=close, rtol=close)
        elif isinstance(a, MaskFound):
            torch.testing.assert_close(a.logits, b.logits, atol=close, rtol=close)
