"""Settings of Setokim: the language model, how it is adapted, and the heads that draw and point."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from setok.config.section import Section
from setok.errors import ConfigError


class LoraConfig(Section):
    """Low-rank adapters (Hu et al. 2021) on the language model's blocks; used with ``train: lora``."""

    rank: int = Field(128, ge=1)
    alpha: float = Field(256.0, gt=0.0)
    """The adapters' product is scaled by alpha / rank."""
    dropout: float = Field(0.05, ge=0.0, lt=1.0)
    targets: tuple[str, ...] = ()
    """Names of the linear layers inside the blocks, such as ``q_proj``; empty takes all of them."""


class LanguageModelConfig(Section):
    """A causal language model of transformers: pretrained, or a small one with random weights."""

    path: str | None = None
    """Local folder or hub id (Llama, Vicuna, Qwen2/2.5/3, Mistral, …); ``null`` makes a new model from the sizes below."""
    family: Literal["llama", "qwen2", "qwen3", "mistral"] = "llama"
    """Architecture of a new model."""
    width: int = Field(192, ge=8)
    depth: int = Field(4, ge=1)
    num_heads: int = Field(6, ge=1)
    num_key_value_heads: int | None = Field(None, ge=1)
    """Grouped-query attention; ``null`` for as many as ``num_heads``."""
    mlp_ratio: float = Field(3.0, gt=0.0)
    max_positions: int = Field(2048, ge=8)
    tie_embeddings: bool = True
    attention: Literal["sdpa", "flash_attention_2"] = "sdpa"
    """``flash_attention_2`` needs the flash-attn package, a GPU, and bf16; packed samples then cost no masked work."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Of the base weights; ``bf16`` for those that do not learn. ``train.precision`` is what they compute in."""
    quantization: Literal["8bit", "4bit"] | None = None
    """Keep the base weights of ``path`` in 8 or 4 bits (bitsandbytes, GPU only); they must then be frozen."""
    train: Literal["full", "lora", "frozen"] = "full"
    """Which of its weights learn. The embeddings of ``[Img]``, ``[/Img]`` and ``[Seg]`` always do."""
    lora: LoraConfig = LoraConfig()
    loss_chunks: int = Field(1, ge=1)
    """Into how many parts the labelled places are split for the cross-entropy: more need less memory with a large vocabulary.
    A fixed number, so that all ranks call the output layer equally often."""

    @model_validator(mode="after")
    def _consistent(self) -> LanguageModelConfig:
        if self.path is None and self.width % (2 * self.num_heads):
            raise ConfigError(
                f"language_model.width={self.width} does not give {self.num_heads} heads of an even width",
                f"use a multiple of {2 * self.num_heads}",
            )
        groups = self.num_key_value_heads
        if groups is not None and self.num_heads % groups:
            raise ConfigError(
                f"language_model.num_key_value_heads={groups} does not divide language_model.num_heads={self.num_heads}",
                f"use one of {', '.join(str(n) for n in range(1, self.num_heads + 1) if self.num_heads % n == 0)}",
            )
        if self.quantization and self.path is None:
            raise ConfigError(
                f"language_model.quantization={self.quantization} is for pretrained weights, and language_model.path is empty",
                "set language_model.path, or leave quantization out",
            )
        if self.quantization and self.train == "full":
            raise ConfigError(
                f"language_model.quantization={self.quantization} with language_model.train=full: such weights cannot learn",
                "set language_model.train=lora (or frozen)",
            )
        if self.train != "lora" and self.lora != LoraConfig():
            raise ConfigError(
                f"language_model.lora is set and language_model.train={self.train} does not use it",
                "set language_model.train=lora, or leave lora out",
            )
        return self


class TokenDiffusionConfig(Section):
    """The head that draws visual tokens: a small denoising network for every single token (setok/models/token_diffusion.py)."""

    prediction: Literal["epsilon", "v_prediction", "flow"] = "v_prediction"
    """What the network predicts: the noise, the velocity of Salimans & Ho 2022, or that of the straight line of flow matching."""
    schedule: Literal["squaredcos_cap_v2", "linear"] = "squaredcos_cap_v2"
    """Noise schedule of diffusers; the straight line of ``flow`` has none."""
    num_timesteps: int = Field(1000, ge=2)
    width: int = Field(256, ge=8)
    depth: int = Field(3, ge=1)
    batch_multiplier: int = Field(4, ge=1)
    """Noise draws for every token and step: cheap beside the language model, and a steadier gradient."""
    condition_drop: float = Field(0.1, ge=0.0, lt=1.0)
    """Share of pictures whose condition is replaced by a learned one, for guidance; 0 trains without."""
    normalization: Literal["channel", "scalar"] = "channel"
    """Tokens are shifted to mean 0; ``channel`` divides every channel by its own deviation, ``scalar`` all by one."""
    sampling_steps: int = Field(25, ge=1)
    """Denoising steps at inference; can be changed there."""

    @model_validator(mode="after")
    def _consistent(self) -> TokenDiffusionConfig:
        if self.sampling_steps > self.num_timesteps:
            raise ConfigError(
                f"diffusion.sampling_steps={self.sampling_steps} is above diffusion.num_timesteps={self.num_timesteps}",
                f"use at most {self.num_timesteps}",
            )
        if self.prediction == "flow" and self.schedule != "squaredcos_cap_v2":
            raise ConfigError(
                f"diffusion.schedule={self.schedule} has no part in diffusion.prediction=flow",
                "leave it out, or use prediction: epsilon or v_prediction",
            )
        return self


class MaskDecoderConfig(Section):
    """The head that points: ``[Seg]`` to a mask (setok/models/mask_decoder.py)."""

    width: int = Field(96, ge=8)
    depth: int = Field(2, ge=1)
    num_heads: int = Field(4, ge=1)
    mlp_ratio: float = Field(2.0, gt=0.0)
    stride: int = Field(2, ge=1)
    """Side of the square of pixels that one logit stands for; logits are resized to the picture."""
    focal_gamma: float = Field(0.0, ge=0.0)
    """Focusing of the cross-entropy (Lin et al. 2017); 0 is the plain one."""

    @model_validator(mode="after")
    def _consistent(self) -> MaskDecoderConfig:
        if self.width % self.num_heads:
            raise ConfigError(
                f"mask_decoder.num_heads={self.num_heads} does not divide mask_decoder.width={self.width}",
                f"heads that do: {', '.join(str(h) for h in range(1, 17) if self.width % h == 0)}",
            )
        return self


class SetokimConfig(Section):
    """Setokim: a language model that reads, draws, edits and points through SeTok's tokens."""

    tokenizer: str | None = None
    """Folder or hub id of the exported SeTok; it stays as it is."""
    text_tokenizer: str | None = None
    """Folder or hub id of the text tokenizer; ``null`` takes the one at ``language_model.path``."""
    language_model: LanguageModelConfig = LanguageModelConfig()
    diffusion: TokenDiffusionConfig = TokenDiffusionConfig()
    mask_decoder: MaskDecoderConfig | None = MaskDecoderConfig()
    """``null`` for a model that does not point."""
