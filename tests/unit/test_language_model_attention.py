"""Attention of language models in packed rows: positions, sliding windows, and the bounds of samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from tests.language_models import built
from tests.sequences import (
    Picture,
    Say,
    noise_picture,
    sequence_batch,
    setok_config,
    setokim_config,
    shaken,
    text_tokenizer,
)


def test_learned_positions_begin_anew_in_every_sample_of_a_row(tmp_path: Path) -> None:
    """GPT-2 adds a learned vector for every position: one that did not begin anew would change what a sample gives."""
    from setok.models.setokim import Setokim
    from setok.models.tokenizer import SeTok

    small = transformers.GPT2Config(vocab_size=27, n_positions=64, n_embd=32, n_layer=2, n_head=4)
    transformers.GPT2LMHeadModel(small).save_pretrained(tmp_path)
    config = setokim_config(language_model={"path": str(tmp_path)})
    model = shaken(Setokim(config, SeTok(setok_config()), text_tokenizer()))
    samples = [
        ("a", ["what colour is the square", Picture(noise_picture(1)), Say("red </s>")]),
        ("b", [Picture(noise_picture(2)), "how many", Say("two </s>")]),
        ("c", ["draw", Picture(noise_picture(3), draw=True)]),
    ]

    def states(rows: list[list[Any]]) -> Tensor:
        batch = sequence_batch(rows, model.text_tokenizer, model.max_image_tokens)
        images = model.encode_images(batch.pixel_values)
        spliced = model.splice(batch, images)
        with torch.no_grad():
            hidden = model.language_model(model.embed(spliced, images), spliced.segment_ids, spliced.position_ids)
        return hidden[spliced.segment_ids > 0]

    torch.testing.assert_close(states([samples]), states([[one] for one in samples]), atol=1e-4, rtol=1e-4)
    far = model.language_model.base.get_decoder().wpe.weight
    assert far.std(0).mean() > 0.01, "positions count"


def test_a_sliding_window_is_kept() -> None:
    """Mistral's layers look back over a window, in packed rows and with a cache alike."""
    model = built(family="mistral").eval()
    model.base.config.sliding_window = 4
    ids = torch.randint(2, 26, (1, 14))
    embedded = model.embed(ids).detach().requires_grad_()
    hidden = model(embedded, torch.tensor([[1] * 9 + [2] * 5]), torch.tensor([[*range(9), *range(5)]]))
    (gradient,) = torch.autograd.grad(hidden[0, 8].sum(), embedded)
    reach = gradient[0].abs().sum(-1).nonzero().squeeze(1)
    assert reach.tolist() == [2, 3, 4, 5, 6, 7, 8], "two layers of a window of 4"
    cache = model.new_cache()
    with torch.no_grad():
        steps = [
            model.step(embedded[:, i : i + 1], torch.ones(1, i + 1, dtype=torch.bool), torch.tensor([[i]]), cache)
            for i in range(9)
        ]
    torch.testing.assert_close(torch.cat(steps, 1), hidden[:, :9], atol=1e-4, rtol=1e-4)


def test_layers_of_two_kinds_get_two_masks(tmp_path: Path) -> None:
    config = transformers.Qwen2Config(
        vocab_size=27,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_sliding_window=True,
        sliding_window=3,
        max_window_layers=1,
    )
    transformers.Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    model = built(path=str(tmp_path)).eval()
    assert set(model.base.config.layer_types) == {"full_attention", "sliding_attention"}
    ids = torch.randint(2, 26, (1, 12))
    place = torch.arange(12)[None]
    with torch.no_grad():
        packed = model(model.embed(ids), torch.ones_like(ids), place)
        plain = model.base.model(inputs_embeds=model.embed(ids)).last_hidden_state
    torch.testing.assert_close(packed, plain, atol=1e-4, rtol=1e-4)


def test_flash_gets_the_bounds_of_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """What transformers' packing wants: one row, positions that restart, and where each sample begins."""
    model = built()
    model.config = model.config.model_copy(update={"attention": "flash_attention_2"})
    asked: dict[str, Any] = {}

    class Recorder(nn.Module):
        def forward(self, **given: Any) -> Any:
            asked.update(given)
            return transformers.modeling_outputs.BaseModelOutputWithPast(last_hidden_state=given["inputs_embeds"] * 2)

    monkeypatch.setattr(model.base, "get_decoder", Recorder)
    segments = torch.tensor([[1, 1, 2, 2, 2, 0], [1, 2, 3, 3, 0, 0]])
    places = torch.tensor([[0, 1, 0, 1, 2, 0], [0, 0, 0, 1, 0, 1]])
    embeddings = torch.randn(2, 6, 32)
    hidden = model(embeddings, segments, places)
    assert torch.equal(hidden, embeddings * 2)
    assert asked["cu_seq_lens_q"].tolist() == asked["cu_seq_lens_k"].tolist() == [0, 2, 5, 6, 7, 8, 10, 12]
    assert asked["cu_seq_lens_q"].dtype == torch.int32 and asked["max_length_q"] == asked["max_length_k"] == 3
    assert asked["attention_mask"] is None and asked["position_ids"].tolist() == [places.flatten().tolist()]
