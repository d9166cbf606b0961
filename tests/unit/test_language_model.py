"""The language model: new tokens, what learns, adapters, packages, and models that will not do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from setok.config import LanguageModelConfig
from setok.errors import CheckpointError, ConfigError
from setok.models import language_model_loading as module
from setok.models.language_model import LanguageModel
from setok.models.text_tokens import add_special_tokens, load_text_tokenizer, special_ids
from setok.vocabulary import SPECIAL_TOKENS
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


# ---------------------------------------------------------------- attention


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


# ---------------------------------------------------------------- refusals


def test_models_without_the_hooks_are_refused(tmp_path: Path) -> None:
    class NoEmbeddings(transformers.LlamaForCausalLM):
        def get_input_embeddings(self) -> Any:
            raise NotImplementedError

    class Deaf(nn.Module):
        def forward(self, input_ids: Tensor) -> Tensor:
            return input_ids

    small = transformers.LlamaConfig(
        vocab_size=27, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    with pytest.raises(ConfigError, match=r"lacks what Setokim needs: get_input_embeddings\(\)"):
        module.require_hooks(NoEmbeddings(small), "x")
    with pytest.raises(ConfigError, match="inputs_embeds, attention_mask, position_ids, past_key_values"):
        module.require_hooks(Deaf(), "x")
    # A state-space model has neither positions nor keys and values, nor attention to choose.
    state_space = transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=27, hidden_size=16, num_hidden_layers=1, state_size=4)
    )
    with pytest.raises(ConfigError) as error:
        module.require_hooks(state_space, "x")
    assert "MambaForCausalLM" in error.value.problem and "Llama" in error.value.remedy
    state_space.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="gives no causal language model"):
        built(path=str(tmp_path))
    # Its logits are not those of the output layer alone.
    capped = transformers.Gemma2Config(
        vocab_size=27,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    with pytest.raises(ConfigError, match=r"model 'x' \(Gemma2(.|\n)*final_logit_softcapping=30\.0"):
        module.require_hooks(transformers.Gemma2ForCausalLM(capped), "x")


def test_encoders_are_no_causal_decoders() -> None:
    sizes = {"vocab_size": 27, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    bert = transformers.BertConfig(**sizes, num_attention_heads=2)
    roberta = transformers.RobertaConfig(**sizes, num_attention_heads=2)
    for model in (transformers.BertLMHeadModel(bert), transformers.RobertaForCausalLM(roberta)):
        with pytest.raises(ConfigError, match="output layer right behind the decoder"):
            module.require_hooks(model, "x")


def test_what_transformers_refuses_is_said_in_short(tmp_path: Path) -> None:
    t5 = transformers.T5Config(vocab_size=27, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2)
    transformers.T5ForConditionalGeneration(t5).save_pretrained(tmp_path / "t5")
    falcon = transformers.FalconConfig(vocab_size=27, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    transformers.FalconForCausalLM(falcon).save_pretrained(tmp_path / "falcon")
    for name, said in (("t5", "T5Config"), ("falcon", "AttentionInterface")):
        with pytest.raises(CheckpointError) as error:
            built(path=str(tmp_path / name))
        assert said in error.value.problem
        assert len(error.value.problem) < 600 + len(str(tmp_path))


def test_sizes_that_have_no_part_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pretrained(tmp_path)
    with caplog.at_level("WARNING"):
        built(path=str(tmp_path))
    assert "no part" not in caplog.text
    with caplog.at_level("WARNING"):
        built(path=str(tmp_path), width=48, depth=7)
    assert "width=48, depth=7 have no part in it" in caplog.text


def test_models_that_are_none_are_refused(tmp_path: Path) -> None:
    vision = transformers.SiglipVisionConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16)
    transformers.SiglipVisionModel(vision).save_pretrained(tmp_path)
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError) as error:
            built(path=str(path))
        assert str(path) in error.value.problem and "config.json" in error.value.remedy


@pytest.mark.parametrize(
    ("settings", "said", "remedy"),
    [
        ({"path": "x", "quantization": "4bit", "train": "lora"}, "quantization=4bit needs a CUDA device", "null"),
        ({"path": "x", "quantization": "8bit", "train": "frozen"}, "quantization=8bit needs a CUDA device", "null"),
        ({"path": "x", "attention": "flash_attention_2"}, "flash-attn package", "attention=sdpa"),
    ],
)
def test_missing_packages_and_devices_are_named(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], said: str, remedy: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as error:
        built(**settings)
    assert said in error.value.problem and remedy in error.value.remedy


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"width": 30}, "width=30 does not give 4 heads"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3 does not divide"),
        ({"quantization": "4bit"}, "language_model.path is empty"),
        ({"path": "x", "quantization": "4bit"}, "such weights cannot learn"),
        ({"lora": {"rank": 8}}, "language_model.train=full does not use it"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        LanguageModelConfig.model_validate((SMALL if "path" not in settings else {}) | settings)
    assert said in error.value.problem and error.value.remedy


def test_names_of_the_special_tokens() -> None:
    assert SPECIAL_TOKENS == ("[Img]", "[/Img]", "[Seg]")
