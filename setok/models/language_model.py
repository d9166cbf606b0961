"""Any causal language model of transformers, reduced to what Setokim needs: embeddings, hidden states, logits of some places.

Three tokens are added: ``[Img]`` and ``[/Img]`` around a picture, ``[Seg]`` for a mask. Their embeddings start as the mean of
the others. Where the base embeddings are frozen (LoRA, quantised weights), the three learn as differences to their rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from setok.config import LanguageModelConfig, LoraConfig
from setok.errors import ConfigError
from setok.models.language_model_loading import add_lora, build_causal_lm, grow, require_hooks
from setok.models.splice import attention_mask
from setok.models.text_tokens import special_ids


class NewTokens(nn.Module):
    """Differences of the new tokens' embeddings to their frozen rows: on the way in, and as logits on the way out.

    Args:
        ids: of the new tokens.
        tied: whether the output layer has the input's rows.
    """

    def __init__(self, ids: Sequence[int], width: int, *, tied: bool) -> None:
        super().__init__()
        self.ids = tuple(ids)
        self.into = nn.Parameter(torch.zeros(len(ids), width))
        self.out = None if tied else nn.Parameter(torch.zeros(len(ids), width))

    def forward(self, values: Int[Tensor, "*n"] | Float[Tensor, "*n width"]) -> Float[Tensor, "*n numbers"]:
        """Ids to differences of embeddings (zero for other tokens), or hidden states to differences of the tokens' logits."""
        if values.is_floating_point():
            return values @ (self.into if self.out is None else self.out).T.to(values.dtype)
        chosen = values.unsqueeze(-1) == torch.tensor(self.ids, device=values.device)
        return chosen.to(self.into.dtype) @ self.into


class LanguageModel(nn.Module):
    """Embeddings to hidden states to logits, over samples packed in rows or one token at a time with a cache."""

    def __init__(
        self, config: LanguageModelConfig, text_tokenizer: Any, *, pretrained: bool = True, complete: bool = False
    ) -> None:
        """Load or make it, and let its embeddings grow to the tokenizer's vocabulary.

        Args:
            text_tokenizer: with the special tokens (``add_special_tokens``).
            pretrained: ``False`` leaves the weights of ``config.path`` where they are, for those that come after.
            complete: the weights have rows for the special tokens already.

        Raises:
            CheckpointError: there is no such model.
            ConfigError: it lacks what Setokim needs, or a package or device is missing.
        """
        super().__init__()
        self.config = config
        base = build_causal_lm(config, len(text_tokenizer), pretrained=pretrained)
        require_hooks(base, config.path or config.family)
        self.new_ids = special_ids(text_tokenizer)
        if not complete:
            grow(base, len(text_tokenizer), self.new_ids)
        self.width: int = base.get_input_embeddings().weight.shape[1]
        self.max_positions: int | None = getattr(base.config, "max_position_embeddings", None)
        self.tied = base.get_output_embeddings().weight is base.get_input_embeddings().weight
        self.new_tokens: NewTokens | None = None
        if config.train != "full":
            base.requires_grad_(False)
            self.new_tokens = NewTokens(self.new_ids, self.width, tied=self.tied)
        if config.train == "lora":
            add_lora(base, config.lora)
        self.base: Any = base

    def embed(self, ids: Int[Tensor, "*n"]) -> Float[Tensor, "*n width"]:
        """Embeddings of text."""
        embedded: Tensor = self.base.get_input_embeddings()(ids)
        return embedded if self.new_tokens is None else embedded + self.new_tokens(ids).to(embedded.dtype)

    def logits(self, hidden: Float[Tensor, "*n width"]) -> Float[Tensor, "*n vocabulary"]:
        """Logits of the next token, in fp32."""
        logits: Tensor = self.base.get_output_embeddings()(hidden).float()
        if self.new_tokens is None:
            return logits
        index = torch.tensor(self.new_ids, device=logits.device)
        return logits.index_add(-1, index, self.new_tokens(hidden).float())

    def forward(
        self,
        embeddings: Float[Tensor, "rows length width"],
        segment_ids: Int[Tensor, "rows length"],
        position_ids: Int[Tensor, "rows length"],
    ) -> Float[Tensor, "rows length width"]:
        """Hidden states after the last norm, of rows of packed samples that cannot see each other."""
        decoder = self.base.get_decoder()
        if self.config.attention == "flash_attention_2":
            return _flash(decoder, embeddings, segment_ids, position_ids)
        masks = _masks(self.base.config, segment_ids, position_ids)
        hidden: Tensor = decoder(
            inputs_embeds=embeddings, attention_mask=masks, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        return hidden

    def new_cache(self) -> Any:
        """An empty cache of keys and values."""
        from transformers import DynamicCache  # slow to import

        return DynamicCache(config=self.base.config)

    def step(
        self,
        embeddings: Float[Tensor, "rows new width"],
        visible: Bool[Tensor, "rows length"],
        position_ids: Int[Tensor, "rows new"],
        cache: Any,
    ) -> Float[Tensor, "rows new width"]:
        """Hidden states of what comes next in every row, one sample a row.

        Args:
            visible: False for padding, over all places so far with the new ones at the end.
            cache: of ``new_cache``; grows by the new places. ``None`` where ``embeddings`` is all there is.
        """
        hidden: Tensor = self.base.get_decoder()(
            inputs_embeds=embeddings,
            attention_mask=visible.long(),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        return hidden

    def gradient_checkpointing_enable(self) -> None:
        """Compute the layers' activations again in the backward pass, while in training mode, and do not keep them."""
        self.base.gradient_checkpointing_enable({"use_reentrant": False})

    @torch.no_grad()
    def merge_lora(self) -> None:
        """Put the adapters and the new tokens' differences into the weights; nothing is left of them. The result is the same.

        Raises:
            ConfigError: the weights are quantised.
        """
        if self.config.quantization:
            raise ConfigError(
                f"adapters cannot be merged into weights of language_model.quantization={self.config.quantization}"
                " without losing what they learned",
                "load the model with language_model.quantization=null (in bf16, on the CPU if need be), then merge",
            )
        from peft.tuners.lora import LoraLayer  # slow to import

        for name, module in list(self.base.named_modules()):
            if isinstance(module, LoraLayer):
                module.merge()
                parent, _, attribute = name.rpartition(".")
                setattr(self.base.get_submodule(parent), attribute, module.get_base_layer())
        if self.new_tokens is not None:
            self.base.get_input_embeddings().weight[self.new_ids] += self.new_tokens.into
            if self.new_tokens.out is not None:
                self.base.get_output_embeddings().weight[self.new_ids] += self.new_tokens.out
        self.new_tokens = None
        self.base.requires_grad_(True)
        self.config = self.config.model_copy(update={"train": "full", "lora": LoraConfig()})


def summed_cross_entropy(
    model: LanguageModel,
    hidden: Float[Tensor, "n width"],
    labels: Int[Tensor, " n"],
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Cross-entropy of every place, and whether its most likely token is right; labels of -100 give 0.

    The places go through the output layer in ``loss_chunks`` parts, whose logits are computed again in the backward pass.
    """
    chunks = model.config.loss_chunks

    def part(states: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        logits = model.logits(states)
        loss = nn.functional.cross_entropy(logits, wanted, reduction="none", ignore_index=-100)
        return loss, logits.argmax(-1) == wanted

    if chunks == 1:
        return part(hidden, labels)
    missing = max(0, chunks - len(labels))  # every part has a place, so that all ranks make as many calls
    hidden = nn.functional.pad(hidden, (0, 0, 0, missing))
    wanted = nn.functional.pad(labels, (0, missing), value=-100)
    done = [
        checkpoint(part, *pair, use_reentrant=False)
        for pair in zip(hidden.tensor_split(chunks), wanted.tensor_split(chunks), strict=True)
    ]
    losses, right = zip(*done, strict=True)
    return torch.cat(losses)[: len(labels)], torch.cat(right)[: len(labels)]


def _masks(config: Any, segment_ids: Tensor, position_ids: Tensor) -> Any:
    """What a decoder takes as attention mask: one, or one for each kind of its layers."""
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    full = attention_mask(segment_ids, position_ids)
    if window is None or kinds == {"full_attention"}:
        return full
    sliding = attention_mask(segment_ids, position_ids, window)
    if kinds <= {"sliding_attention"}:  # every layer; Mistral does not say so
        return sliding
    return {"full_attention": full, "sliding_attention": sliding}


def _flash(decoder: Any, embeddings: Tensor, segment_ids: Tensor, position_ids: Tensor) -> Tensor:
    """All rows as one, with the bounds of the samples (and of the padding) in place of a mask."""
    rows, length = segment_ids.shape
    starts = torch.ones_like(segment_ids, dtype=torch.bool)
    starts[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    bounds = torch.nn.functional.pad(starts.flatten().nonzero().squeeze(1), (0, 1), value=rows * length).to(torch.int32)
    longest = int(bounds.diff().max())
    hidden: Tensor = decoder(
        inputs_embeds=embeddings.reshape(1, rows * length, -1),
        attention_mask=None,
        position_ids=position_ids.reshape(1, -1),
        cu_seq_lens_q=bounds,
        cu_seq_lens_k=bounds,
        max_length_q=longest,
        max_length_k=longest,
        use_cache=False,
    ).last_hidden_state
    return hidden.view(rows, length, -1)
