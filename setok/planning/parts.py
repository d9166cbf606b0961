"""The modules of a run without their weights: sizes come from architectures, and nothing is downloaded.

Where the config names a pretrained part that is not on this machine, its architecture is taken from ``setok/architectures``,
which holds the ``config.json`` of the parts that presets name. For any other part a folder with nothing but its
``config.json`` will do.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from setok.config import ConceptConfig, TrainConfig
from setok.models.discriminator import Discriminator
from setok.models.perceptual import Perceptual, weight_shapes
from setok.models.text_tokens import add_special_tokens, load_text_tokenizer, quiet_transformers
from setok.planning.pretend import Pretend
from setok.stages.setokim import SetokimTask
from setok.stages.tokenizer import DiscriminatorTask, TokenizerTask

WORDS = 8192
"""Vocabulary that is assumed where a text tokenizer is not there yet; a word has a token with and one without a space."""
KNOWN = {
    "google/siglip-so400m-patch14-384": "siglip-so400m-patch14-384",
    "lmsys/vicuna-7b-v1.5": "vicuna-7b-v1.5",
}
"""Hub ids whose architecture is at hand."""
QUANTIZED = {"8bit": 1.0, "4bit": 0.53}
"""Bytes of a weight that bitsandbytes keeps, its scales included (NF4 with double quantisation: 4.13 bits and rounding up)."""
_FLASH = "attention_without_mask"


def architecture_of(path: str) -> str:
    """A folder with the architecture of a pretrained part: the one that is named, or a shipped one; else the name itself."""
    if Path(path).is_dir() or path not in KNOWN:
        return path
    return str(resources.files("setok") / "architectures" / KNOWN[path])


def build_modules(config: TrainConfig, pretend: Pretend, *, depth: int | None = None) -> dict[str, nn.Module]:
    """The learning modules of a run as the loop has them, in training mode and without values.

    Args:
        depth: layers of the language model in place of all.

    Raises:
        CheckpointError: a pretrained part is not here, and its architecture is not known.
    """
    with torch.device("meta"), _quiet():
        modules = _tokenizer_modules(config) if config.stage == "tokenizer" else {"model": _setokim_task(config, depth)}
    with pretend.building():
        _leave_meta(modules.values())
    return modules


def _leave_meta(modules: Iterable[nn.Module]) -> None:
    """Replace parameters and buffers, each once, by such without values that say they lie on the CPU."""
    known: dict[int, Tensor] = {}

    def moved(tensor: Tensor) -> Tensor:
        if id(tensor) not in known:
            there = torch.empty_like(tensor, device="cpu")
            is_parameter = isinstance(tensor, nn.Parameter)
            known[id(tensor)] = nn.Parameter(there, tensor.requires_grad) if is_parameter else there
        return known[id(tensor)]

    before = [tensor for module in modules for part in module.modules() for tensor in _own(part)]  # ids stay theirs
    for module in modules:
        for part in module.modules():
            for tensors in (part._parameters, part._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None and tensor.is_meta:
                        tensors[name] = moved(tensor)  # type: ignore[assignment]
    del before


def _own(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


@functools.cache
def concept_tower(config: ConceptConfig) -> tuple[int, int]:
    """Width of concepts, and bytes that their encoder takes in the memory of every worker's host."""
    if config.kind == "hash":
        return config.dim, 0
    from transformers import AutoConfig, AutoModel

    assert config.path is not None
    with _quiet():
        described = AutoConfig.from_pretrained(architecture_of(config.path))
    with torch.device("meta"), _quiet():
        tower = AutoModel.from_config(described)
    text = described.text_config
    width = getattr(described, "projection_dim", None) or getattr(text, "projection_size", text.hidden_size)
    return int(width), sum(p.numel() * p.element_size() for p in tower.parameters())


def _tokenizer_modules(config: TrainConfig) -> dict[str, nn.Module]:
    encoder = config.model.encoder
    if encoder.kind == "huggingface" and encoder.path is not None:
        encoder = encoder.model_copy(update={"path": architecture_of(encoder.path)})
        config = config.model_copy(update={"model": config.model.model_copy(update={"encoder": encoder})})
    width, _ = concept_tower(config.concepts)
    model = TokenizerTask(config, width, pretrained=False)
    if config.loss.perceptual and config.loss.perceptual_path is not None:
        model.perceptual = Perceptual({name: torch.empty(shape) for name, shape in weight_shapes().items()})
    modules: dict[str, nn.Module] = {"model": model.train()}
    if config.loss.adversarial:
        discriminator = Discriminator(config.discriminator)
        model.critic = (discriminator,)
        modules["discriminator"] = DiscriminatorTask(discriminator).train()
    return modules


def layers_of(config: TrainConfig) -> int:
    """Layers of the run's language model where they are all alike, else 0."""
    if config.setokim is None:
        return 0
    model = config.setokim.language_model
    if model.path is None:
        return model.depth
    from transformers import AutoConfig

    described = AutoConfig.from_pretrained(architecture_of(model.path))
    return 0 if len(set(getattr(described, "layer_types", None) or ())) > 1 else int(described.num_hidden_layers)


def _setokim_task(config: TrainConfig, depth: int | None) -> nn.Module:
    assert config.setokim is not None
    model = config.setokim.language_model
    changes: dict[str, Any] = {"attention": "sdpa", "quantization": None}
    if model.path is not None:
        changes["path"] = architecture_of(model.path)
    elif depth is not None:
        changes["depth"] = depth
    if model.quantization is not None:
        changes["dtype"] = "bf16"
    encoder = config.model.encoder
    if encoder.path is not None:
        encoder = encoder.model_copy(update={"path": architecture_of(encoder.path)})
    setokim = config.setokim.model_copy(update={"language_model": model.model_copy(update=changes)})
    planned = config.model_copy(
        update={"setokim": setokim, "model": config.model.model_copy(update={"encoder": encoder})}
    )
    text = config.setokim.text_tokenizer
    tokenizer = load_text_tokenizer(text) if text and Path(text).is_dir() else _stand_in(changes.get("path"))
    task = SetokimTask(planned, pretrained=False, text_tokenizer=tokenizer).train()
    base = task.setokim.language_model.base
    if model.path is not None and depth is not None:
        _shorten(base, depth)
    if model.attention == "flash_attention_2":
        _attend_like_flash(base)
    return task


def _shorten(base: Any, depth: int) -> None:
    """Leave a language model of transformers the first of its blocks, which are all alike."""
    config = base.config
    lists = (part for part in base.get_decoder().modules() if isinstance(part, nn.ModuleList))
    blocks = next(part for part in lists if len(part) == config.num_hidden_layers)
    del blocks[depth:]
    config.num_hidden_layers = depth  # a cache has as many layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:depth]


def _stand_in(path: str | None) -> Any:
    """A text tokenizer with as many tokens as the language model at ``path`` has."""
    from tokenizers import Tokenizer, models
    from transformers import AutoConfig, PreTrainedTokenizerFast

    size = 2 * WORDS if path is None else int(AutoConfig.from_pretrained(path).vocab_size)
    words = Tokenizer(models.WordLevel({f"word{number}": number for number in range(size)}, unk_token="word0"))
    return add_special_tokens(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="word0", eos_token="word1"))


def quantized_bytes(module: nn.Module, config: TrainConfig) -> int:
    """How many bytes less a worker holds than the bf16 weights of a language model that is kept in few bits."""
    assert config.setokim is not None
    quantization = config.setokim.language_model.quantization
    if quantization is None:
        return 0
    assert isinstance(module, SetokimTask)
    decoder = module.setokim.language_model.base.get_decoder()
    kept = sum(
        part.weight.numel()
        for name, part in decoder.named_modules()
        if isinstance(part, nn.Linear) and "lora_" not in name
    )
    return int((2 - QUANTIZED[quantization]) * kept)


def _attend_like_flash(base: Any) -> None:
    """Let a language model of transformers attend without a mask, as flash attention does."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_FLASH, _attend_without_mask)
    AttentionMaskInterface.register(_FLASH, sdpa_mask)
    base.set_attn_implementation(_FLASH)


def _attend_without_mask(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    groups = query.shape[1] != key.shape[1]
    attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=groups)
    return attended.transpose(1, 2).contiguous(), None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what building for real would warn of: nothing is trained here."""
    loggers = [logging.getLogger(name) for name in ("setok.stages.tokenizer", "setok.models.language_model_loading")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
