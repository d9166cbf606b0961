"""The language model: new tokens, what learns, and adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from setok.errors import CheckpointError, ConfigError
from setok.models.text_tokens import add_special_tokens, load_text_tokenizer, special_ids
from setok.vocabulary import SPECIAL_TOKENS
from tests.language_models import FAMILIES, built, pretrained, read
from tests.sequences import text_tokenizer

# ---------------------------------------------------------------- new tokens


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_new_tokens_start_as_the_mean_and_the_rest_stays(tmp_path: Path, family: str, tied: bool) -> None:
    before = pretrained(tmp_path, family, tied=tied)
    model = built(path=str(tmp_path))
    assert model.new_ids == [27, 28, 29] == special_ids(text_tokenizer())
    for layer in ("get_input_embeddings", "get_output_embeddings"):
        old, new = getattr(before, layer)().weight, getattr(model.base, layer)().weight
        assert len(new) == 30 and torch.equal(new[:27], old)
        torch.testing.assert_close(new[27:], old.mean(0).expand(3, -1))
    assert model.tied == tied
    assert (model.base.get_input_embeddings().weight is model.base.get_output_embeddings().weight) == tied
    ids = torch.tensor([[3, 5, 9, 11]])
    with torch.no_grad():
        torch.testing.assert_close(read(model, ids)[..., :27], before.eval()(ids).logits)


def test_spare_rows_of_a_model_are_kept(tmp_path: Path) -> None:
    before = pretrained(tmp_path, vocabulary=64)
    model = built(path=str(tmp_path))
    weight, old = model.base.get_input_embeddings().weight, before.get_input_embeddings().weight
    assert len(weight) == 64 and torch.equal(weight[30:], old[30:])
    torch.testing.assert_close(weight[27:30], old[:27].mean(0).expand(3, -1))


def test_the_tokens_are_added_once(tmp_path: Path) -> None:
    tokenizer = text_tokenizer()
    size = len(tokenizer)
    assert len(add_special_tokens(tokenizer)) == size
    tokenizer.save_pretrained(tmp_path)
    loaded = load_text_tokenizer(tmp_path)
    assert len(loaded) == size and special_ids(loaded) == special_ids(tokenizer)
    assert loaded.encode("[Img] red [/Img] [Seg]")[0] == special_ids(loaded)[0]
    with pytest.raises(CheckpointError, match="nowhere"):
        load_text_tokenizer(tmp_path / "nowhere")
    bare = text_tokenizer()
    bare.get_vocab = lambda: {"[Img]": 3}
    with pytest.raises(ConfigError, match=r"has no \[/Img\], \[Seg\]"):
        special_ids(bare)


# ---------------------------------------------------------------- what learns


def learning(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("tied", [True, False])
def test_exactly_adapters_and_new_tokens_learn_with_lora(tmp_path: Path, tied: bool) -> None:
    pretrained(tmp_path, tied=tied)
    every = built(path=str(tmp_path), train="lora", lora={"rank": 4, "alpha": 8.0})
    layers = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    expected = {
        f"base.model.layers.{i}.{'self_attn' if j < 4 else 'mlp'}.{name}.lora_{ab}.default.weight"
        for i in range(2)
        for j, name in enumerate(layers)
        for ab in "AB"
    }
    rows = {"new_tokens.into"} | (set() if tied else {"new_tokens.out"})
    assert learning(every) == expected | rows
    some = built(path=str(tmp_path), train="lora", lora={"rank": 4, "targets": ["q_proj", "v_proj"]})
    assert learning(some) == {n for n in expected if "q_proj" in n or "v_proj" in n} | rows
    frozen = built(path=str(tmp_path), train="frozen")
    assert learning(frozen) == rows
    whole = built(path=str(tmp_path))
    assert learning(whole) == {name for name, _ in whole.named_parameters()} and whole.new_tokens is None
    with pytest.raises(ConfigError) as error:
        built(path=str(tmp_path), train="lora", lora={"targets": ["q_proj", "query"]})
    assert "query" in error.value.problem and "q_proj" in error.value.remedy


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("train", ["lora", "frozen"])
def test_merging_changes_nothing_but_where_the_weights_lie(tmp_path: Path, tied: bool, train: str) -> None:
    pretrained(tmp_path, tied=tied)
    model = built(path=str(tmp_path), train=train, **({"lora": {"rank": 4, "dropout": 0.0}} if train == "lora" else {}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in learning(model):
                parameter.add_(torch.randn_like(parameter) * 0.2)
    ids = torch.tensor([[3, 27, 28, 29, 1, 7]])
    model.eval()
    fresh = built(path=str(tmp_path))
    with torch.no_grad():
        before = read(model, ids)
        assert not torch.allclose(before, read(fresh, ids), atol=1e-2)
        model.merge_lora()
        torch.testing.assert_close(read(model, ids), before, atol=1e-4, rtol=1e-4)
    assert set(model.state_dict()) == set(fresh.state_dict()) and model.new_tokens is None
    assert model.config.train == "full" and all(p.requires_grad for p in model.parameters())
    assert (model.base.get_input_embeddings().weight is model.base.get_output_embeddings().weight) == tied


def test_the_new_tokens_differences_are_used_both_ways(tmp_path: Path) -> None:
    pretrained(tmp_path)
    model = built(path=str(tmp_path), train="frozen").eval()
    ids = torch.tensor([[3, 27, 5]])
    model.logits(model(model.embed(ids), torch.ones_like(ids), torch.arange(3)[None]))[..., 28].sum().backward()
    assert model.new_tokens is not None and model.new_tokens.into.grad is not None and model.new_tokens.out is not None
    assert model.new_tokens.into.grad.abs().sum(1).gt(0).tolist() == [True, False, False]
    assert model.new_tokens.out.grad.abs().sum(1).gt(0).tolist() == [False, True, False]
    logits = model.logits(torch.randn(2, 32))
    assert logits.shape == (2, 30) and logits.dtype == torch.float32


def test_names_of_the_special_tokens() -> None:
    assert SPECIAL_TOKENS == ("[Img]", "[/Img]", "[Seg]")
