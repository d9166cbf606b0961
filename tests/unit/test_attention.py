"""Attention on a CPU is computed in fp32, under autocast too, in our blocks and in models of transformers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from setok.models.attention import TRANSFORMERS_NAME, attend, register_with_transformers


def qkv(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 7, 4, generator=generator).to(dtype) for _ in range(3)]


@pytest.mark.parametrize("masked", [True, False])
def test_autocast_changes_nothing(masked: bool) -> None:
    mask = torch.ones(2, 1, 7, 7, dtype=torch.bool).tril() if masked else None
    wanted = F.scaled_dot_product_attention(*qkv(), mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(*qkv(), mask)
        assert F.scaled_dot_product_attention(*qkv(), mask).dtype == torch.bfloat16, "torch itself does otherwise"
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)


def test_bf16_goes_in_and_fp32_comes_out() -> None:
    found = attend(*qkv(torch.bfloat16))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, F.scaled_dot_product_attention(*qkv()), atol=0.02, rtol=0.02)


def test_a_language_model_attends_alike() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=20, num_key_value_heads=2, **sizes)
    models = []
    for name in ("sdpa", register_with_transformers()):
        torch.manual_seed(0)
        models.append(LlamaForCausalLM._from_config(config, attn_implementation=name).eval())
    assert models[1].config._attn_implementation == TRANSFORMERS_NAME
    ids = torch.arange(12).view(2, 6)
    padding = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    with torch.no_grad():
        wanted, found = (model(ids, attention_mask=padding).logits for model in models)
        assert torch.equal(found, wanted)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = models[1](ids, attention_mask=padding).logits
    torch.testing.assert_close(rounded.float(), wanted, atol=0.02, rtol=0.05)
