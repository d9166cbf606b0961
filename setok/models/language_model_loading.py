"""Causal language models of transformers: loaded or made new, refused where they will not do, grown, and adapted."""

from __future__ import annotations

import importlib.util
import inspect
import logging
from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from setok.config import LanguageModelConfig, LoraConfig
from setok.errors import CheckpointError, ConfigError, how_to_get
from setok.models.attention import TRANSFORMERS_NAME, register_with_transformers
from setok.models.text_tokens import quiet_transformers

logger = logging.getLogger(__name__)

SIZES = (
    "family",
    "width",
    "depth",
    "num_heads",
    "num_key_value_heads",
    "mlp_ratio",
    "max_positions",
    "tie_embeddings",
)
"""Settings of a new language model; one that is loaded has its own."""
_LOGIT_SETTINGS = {"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0}
"""What some models do to the output layer's logits, and the value that does nothing."""
_NEEDED = ("inputs_embeds", "attention_mask", "position_ids", "past_key_values")


def build_causal_lm(config: LanguageModelConfig, vocabulary: int, *, pretrained: bool) -> Any:
    """The model of transformers, in fp32 or ``config.dtype``."""
    from transformers import AutoConfig, AutoModelForCausalLM  # slow to import

    _require_packages(config)
    if config.path is not None:
        _warn_of_sizes(config)
    dtype = torch.bfloat16 if config.dtype == "bf16" else torch.float32
    pretrained = pretrained and torch.get_default_device().type != "meta"  # there a model is only counted
    try:
        if config.path is None:
            described = _describe(config, vocabulary)
            return AutoModelForCausalLM.from_config(described, dtype=dtype, attn_implementation=_attention(config))
        if not pretrained:
            described = AutoConfig.from_pretrained(config.path)
            return AutoModelForCausalLM.from_config(described, dtype=dtype, attn_implementation=_attention(config))
        with quiet_transformers():
            return AutoModelForCausalLM.from_pretrained(
                config.path,
                dtype=dtype,
                attn_implementation=_attention(config),
                quantization_config=_quantization(config),
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            f"language_model.path={config.path!r} gives no causal language model: {_in_short(error)}",
            how_to_get(
                config.path or "",
                "config.json and weights of a Llama, Vicuna, Qwen or Mistral model",
                setting="setokim.language_model.path",
            ),
        ) from error


def _warn_of_sizes(config: LanguageModelConfig) -> None:
    """Say which sizes of a new model are set, and have no part where one is loaded."""
    fields = LanguageModelConfig.model_fields
    given = [f"{name}={getattr(config, name)}" for name in SIZES if getattr(config, name) != fields[name].default]
    if given:
        logger.warning(
            "language_model.path=%s has its own sizes, and %s have no part in it", config.path, ", ".join(given)
        )


def _in_short(error: Exception) -> str:
    """What transformers says, without the list of all its classes."""
    text = str(error)
    if TRANSFORMERS_NAME in text:
        return "its layers do not take their attention from transformers' AttentionInterface"
    first = text.strip().partition("\n")[0]
    return first if len(first) <= 400 else f"{first[:400]}…"


def _attention(config: LanguageModelConfig) -> str:
    """How transformers is to attend."""
    return register_with_transformers() if config.attention == "sdpa" else config.attention


def _describe(config: LanguageModelConfig, vocabulary: int) -> Any:
    """The architecture of a new model."""
    import transformers as t  # slow to import

    kinds = {"llama": t.LlamaConfig, "qwen2": t.Qwen2Config, "qwen3": t.Qwen3Config, "mistral": t.MistralConfig}
    sizes: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": config.width,
        "intermediate_size": round(config.width * config.mlp_ratio),
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_key_value_heads or config.num_heads,
        "head_dim": config.width // config.num_heads,
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": config.tie_embeddings,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return kinds[config.family](**sizes)


def _require_packages(config: LanguageModelConfig) -> None:
    if config.attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise ConfigError(
            "language_model.attention=flash_attention_2 needs the flash-attn package, and it is not installed",
            "install it on a machine with CUDA (pip install flash-attn), or set language_model.attention=sdpa",
        )
    if not config.quantization:
        return
    if not torch.cuda.is_available():
        raise ConfigError(
            f"language_model.quantization={config.quantization} needs a CUDA device, and there is none",
            "run it on a GPU, or set language_model.quantization=null",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"language_model.quantization={config.quantization} needs the bitsandbytes package, and it is not installed",
            "install it (pip install bitsandbytes), or set language_model.quantization=null",
        )


def _quantization(config: LanguageModelConfig) -> Any:
    """What transformers needs to load the weights in few bits (4: NF4 with bf16 arithmetic, Dettmers et al. 2023)."""
    if config.quantization is None:
        return None
    from transformers import BitsAndBytesConfig

    if config.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def require_hooks(model: Any, name: str) -> None:
    """Refuse a model that cannot be given embeddings, or whose parts cannot be reached."""
    lacking = []
    for part in ("get_input_embeddings", "get_output_embeddings", "get_decoder"):
        try:
            found = getattr(model, part)()
        except (AttributeError, NotImplementedError):
            found = None
        if found is None or found is model:
            lacking.append(f"{part}()")
    decoder = model.get_decoder() if "get_decoder()" not in lacking else model
    parameters = inspect.signature(decoder.forward).parameters
    lacking += [argument for argument in _NEEDED if argument not in parameters]
    for setting, neutral in _LOGIT_SETTINGS.items():
        value = getattr(model.config, setting, None) if hasattr(model, "config") else None
        if value not in (None, neutral):
            lacking.append(f"logits straight from the output layer ({setting}={value})")
    # Encoders such as BERT transform the hidden states once more before their output layer, which lies inside that part.
    if "get_output_embeddings()" not in lacking and all(
        part is not model.get_output_embeddings() for part in model.children()
    ):
        lacking.append("an output layer right behind the decoder")
    if lacking:
        raise ConfigError(
            f"the language model {name!r} ({type(model).__name__}) lacks what Setokim needs: {', '.join(lacking)}",
            "use a decoder-only transformer such as Llama, Vicuna, Qwen2, Qwen3 or Mistral",
        )


@torch.no_grad()
def grow(model: Any, vocabulary: int, new_ids: Sequence[int]) -> None:
    """Give every token of the vocabulary a row; the new tokens' rows are the mean of the others'.

    A pretrained model may have spare rows already, which are kept.
    """
    weight = model.get_input_embeddings().weight
    old = min(len(weight), min(new_ids))
    if vocabulary > len(weight):
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        for values in (layer.weight, getattr(layer, "bias", None)):
            if values is not None:
                values[list(new_ids)] = values[:old].float().mean(0, keepdim=True).to(values.dtype)


def add_lora(model: Any, config: LoraConfig) -> None:
    """Adapters on the linear layers of the blocks, and on nothing else; the weights below them stay frozen.

    Raises:
        ConfigError: no layer has one of the names.
    """
    from peft import LoraConfig as Adapters
    from peft import inject_adapter_in_model

    head = model.get_output_embeddings()
    names = [name for name, part in model.named_modules() if isinstance(part, nn.Linear) and part is not head]
    short = sorted({name.rpartition(".")[2] for name in names})
    if unknown := sorted(set(config.targets) - set(short)):
        raise ConfigError(
            f"language_model.lora.targets has {', '.join(unknown)}, which no linear layer of the model is called",
            f"choose from: {', '.join(short)}",
        )
    chosen = [name for name in names if not config.targets or name.rpartition(".")[2] in config.targets]
    inject_adapter_in_model(
        Adapters(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=chosen), model
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:  # in fp32 whatever the weights beneath are kept in: small updates would be lost
            parameter.data = parameter.data.float()
