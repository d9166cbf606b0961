"""Scaled dot-product attention, with a detour on CPUs.

Under autocast torch runs attention in bfloat16 whatever it is given, and on a CPU the backward pass of that is 1.3 to 4 times
as slow as in fp32 (torch 2.13; the shorter the rows, the worse). So there it is taken out of autocast.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from setok.models.device import device_kind

TRANSFORMERS_NAME = "sdpa_of_setok"
"""How models of transformers ask for it."""


def attend(
    q: Float[Tensor, "batch heads queries dim"],
    k: Float[Tensor, "batch heads keys dim"],
    v: Float[Tensor, "batch heads keys dim"],
    mask: Bool[Tensor, "batch #heads #queries keys"] | None = None,
) -> Float[Tensor, "batch heads queries dim"]:
    """Attention under a boolean mask (True may be looked at); on a CPU in fp32."""
    if device_kind(q) != "cpu":
        return F.scaled_dot_product_attention(q, k, v, mask)
    half = q.dtype in (torch.bfloat16, torch.float16)
    q, k, v = (x.float() for x in (q, k, v)) if half else (q, k, v)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q, k, v, mask)


def register_with_transformers() -> str:
    """Make it known to transformers; the name to give as ``attn_implementation``."""
    from transformers import AttentionInterface, AttentionMaskInterface  # slow to import
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def forward(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
    ) -> tuple[Tensor, None]:
        if device_kind(query) != "cpu" or (query.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")):
            return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        with torch.autocast("cpu", enabled=False):
            if attention_mask is not None and attention_mask.is_floating_point():
                attention_mask = attention_mask.float()
            parts = (query.float(), key.float(), value.float())
            attended, _ = sdpa_attention_forward(module, *parts, attention_mask, **settings)
        return attended.to(query.dtype), None

    AttentionInterface.register(TRANSFORMERS_NAME, forward)
    AttentionMaskInterface.register(TRANSFORMERS_NAME, sdpa_mask)
    return TRANSFORMERS_NAME
