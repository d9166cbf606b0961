"""Settings of what the language model reads: chat template, prompts, lengths."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from setok.config.section import Section
from setok.errors import ConfigError


class ChatConfig(Section):
    """How a conversation is written down."""

    template: Literal["tokenizer", "plain", "vicuna_v1", "llama2", "llama3", "chatml", "mistral"] = "tokenizer"
    """``tokenizer``: the template that the tokenizer brings. ``plain`` has no role names, for models from scratch."""
    system_prompt: str | None = None
    """Said first in every conversation that has no system turn; ``null``: what the template says by itself, ``""``: nothing."""


class SequenceConfig(Section):
    """From a record to tokens."""

    chat: ChatConfig = ChatConfig()
    max_length: int = Field(2048, ge=8)
    """Tokens in a row, places of pictures included."""
    too_long: Literal["refuse", "skip"] = "refuse"
    """What becomes of records longer than ``max_length``: a run does not start, or leaves them out and says how many."""
    max_image_tokens: int = Field(64, ge=1)
    """Places that every picture has; at least what the tokenizer's clustering may give (``clustering.max_tokens``)."""
    instructions: Literal["varied", "none"] = "varied"
    """Words around captions, class names and referring expressions: one of several wordings, or none at all."""
    generation_share: float = Field(0.5, ge=0.0, le=1.0)
    """How often a picture with a caption or class is to be drawn from it; else it is to be described."""
    drop_condition: float = Field(0.1, ge=0.0, le=1.0)
    """How often the words of a request for a picture are dropped, for classifier-free guidance."""
    shuffle_turns: bool = False
    """Put the questions (or phrases with masks) of one picture in another order every epoch, as they do not depend on each
    other; else a model learns to answer the third one only behind the first two."""
    short_answer: bool = True
    """Ask for a short answer, or for the letter of a choice, behind the questions of ``vqa`` records."""

    @model_validator(mode="after")
    def _consistent(self) -> SequenceConfig:
        if self.max_image_tokens + 4 > self.max_length:
            raise ConfigError(
                f"sequence.max_length={self.max_length} has no room for a picture of"
                f" sequence.max_image_tokens={self.max_image_tokens} between [Img] and [/Img]",
                f"set sequence.max_length to at least {self.max_image_tokens + 4}, or lower sequence.max_image_tokens",
            )
        return self
