"""A model with what it takes to ask it: how prompts are made, where replies end, how they are read out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from setok.config import SequenceConfig
from setok.data.sequences import SequenceBuilder
from setok.data.special_tokens import text_tokenizer
from setok.models.generation import GenerationOptions, ImageEnd, MaskFound
from setok.models.setokim import Setokim
from setok.predictor.prompting import PromptMaker
from setok.predictor.replies import MaskPart, PicturePart, mask_part


class Inference:
    """A trained Setokim on its device, in evaluation mode and without gradients.

    Args:
        sequence: how conversations are written down; as in training.
        bf16: matrix products in bfloat16.

    Raises:
        ConfigError: the text tokenizer does not go with ``sequence``.
    """

    def __init__(self, model: Setokim, sequence: SequenceConfig, *, device: torch.device, bf16: bool) -> None:
        self.device, self.bf16, self.sequence = device, bf16, sequence
        self.model = model.to(device).eval().requires_grad_(False)
        self.image_size = model.tokenizer.config.image_size
        builder = SequenceBuilder(text_tokenizer(model.text_tokenizer), sequence, seed=0)
        self._stop_ids = builder.stop_ids
        self.prompts = PromptMaker(builder, image_size=self.image_size, device=device)

    def autocast(self) -> torch.autocast:
        """In which the model is to be run."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def stopping(self, options: GenerationOptions | None) -> GenerationOptions:
        """The options with where a reply ends: as it was trained, unless they say."""
        options = options or GenerationOptions()
        return options if options.stop_ids else replace(options, stop_ids=self._stop_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        text: str = self.model.text_tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def part_of(self, event: ImageEnd | MaskFound, size: tuple[int, int] | None) -> PicturePart | MaskPart:
        """A picture, painted, or a region.

        Args:
            size: height and width of the prompt's first picture, for a region.
        """
        if isinstance(event, MaskFound):
            assert size is not None, "a region is of a picture"
            return mask_part(event.logits.float(), size)
        with self.autocast():
            painted = self.model.paint([event.tokens], (self.image_size, self.image_size))[0]
        return PicturePart(pixels=painted.cpu(), num_tokens=len(event.tokens))
