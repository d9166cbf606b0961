"""What the language model has read so far: prompts, then one place after the other, with a cache or all over again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from setok.batch import SequenceBatch
from setok.errors import DataError
from setok.models.setokim import Setokim
from setok.models.setokim_targets import EncodedImages


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Embedded prompts of a batch, padded in front."""

    embeddings: Float[Tensor, "rows length width"]
    visible: Bool[Tensor, "rows length"]
    position_ids: Int[Tensor, "rows length"]


def read_prompt(model: Setokim, batch: SequenceBatch, images: EncodedImages) -> Prompt:
    """Rows of prompts, padded in front."""
    samples = batch.segment_ids.amax(1).tolist()
    for row, number in enumerate(samples):
        if number != 1:
            raise DataError(
                f"row {row} holds {number} samples, and one prompt can be continued",
                "give every prompt a row of its own (segment 1)",
            )
    rows = model.splice(batch, images).trimmed().right_aligned()
    return Prompt(embeddings=model.embed(rows, images), visible=rows.segment_ids > 0, position_ids=rows.position_ids)


class Reader:
    """What the language model has read so far: a cache, or all embeddings."""

    def __init__(self, model: Setokim, prompts: Sequence[Prompt], *, use_cache: bool) -> None:
        longest = max(prompt.visible.shape[1] for prompt in prompts)

        def wide(name: str, *padding: int) -> Tensor:
            parts = [(getattr(p, name), longest - p.visible.shape[1]) for p in prompts]
            return torch.cat([F.pad(values, (*padding, missing, 0)) for values, missing in parts])

        self.language_model = model.language_model
        self.copies = len(prompts)
        self.embeddings = wide("embeddings", 0, 0)
        self.visible = wide("visible")
        self.position_ids = wide("position_ids")
        self.lengths = self.visible.sum(1)
        self.cache: Any = model.language_model.new_cache() if use_cache else None

    def read_prompts(self) -> Float[Tensor, "rows width"]:
        """Hidden states at the prompts' ends."""
        return self._last(self.embeddings, self.position_ids)

    def read(self, embeddings: Float[Tensor, "some width"]) -> Float[Tensor, "rows width"]:
        """Hidden states after one more place in every row; the copies of a row read the same."""
        new = embeddings.repeat(self.copies, 1).unsqueeze(1)
        place = self.position_ids[:, -1:] + 1
        self.visible = F.pad(self.visible, (0, 1), value=True)
        self.position_ids = torch.cat([self.position_ids, place], 1)
        if self.cache is not None:
            return self._last(new, place)
        self.embeddings = torch.cat([self.embeddings, new], 1)
        return self._last(self.embeddings, self.position_ids)

    def _last(self, embeddings: Tensor, position_ids: Tensor) -> Tensor:
        return self.language_model.step(embeddings, self.visible, position_ids, self.cache)[:, -1]
