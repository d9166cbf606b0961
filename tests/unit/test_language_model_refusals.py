"""Models, settings, packages and devices that will not do, each told with what will."""

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
from tests.language_models import SMALL, built, pretrained


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
