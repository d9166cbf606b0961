"""Setokim, ready for use: chat, captions, answers, pictures, edits and regions; batched, streaming, seeded.

A reply depends on its conversation and its seed only, not on what else is asked in the same call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from setok import checkpoint
from setok.config import SequenceConfig
from setok.data import wordings
from setok.data.processor import Picture, to_pixels
from setok.data.schema import IMAGE_SLOT, Turn
from setok.errors import CheckpointError, ConfigError, DataError
from setok.export import read_settings
from setok.models import setokim_files
from setok.models.generation import (
    Generated,
    GenerationOptions,
    Text,
    generate,
)
from setok.models.setokim import Setokim
from setok.predictor.asking import drawing, editing, pointing
from setok.predictor.exercises import MODES, Question
from setok.predictor.inference import Inference
from setok.predictor.inputs import check_conversations, check_seeds, pictures_of, same_number, texts_of
from setok.predictor.likelihood import Likelihood, likelihoods
from setok.predictor.prompting import Conversation
from setok.predictor.replies import Part, Reply, TextPart
from setok.predictor.session import Ask, Ended, Session
from setok.stages import SetokimTask


class Predictor:
    """A trained Setokim: deterministic for a seed, without gradients.

    Args:
        sequence: how conversations are written down; as in training.
        bf16: matrix products in bfloat16, as a run with ``train.precision=bf16`` has them.
        batch_size: conversations that go through the model at once.

    Raises:
        ConfigError: the text tokenizer does not go with ``sequence``, or ``batch_size`` is below 1.
    """

    def __init__(
        self,
        model: Setokim,
        sequence: SequenceConfig,
        *,
        device: str | torch.device = "cpu",
        bf16: bool = False,
        batch_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size} is not possible", "use 1 or more")
        self.batch_size = batch_size
        self.inference = Inference(model, sequence, device=torch.device(device), bf16=bf16)
        """Shared with sessions (``setok.predictor.session``), which continue conversations that come and go."""

    @property
    def model(self) -> Setokim:
        return self.inference.model

    @property
    def sequence(self) -> SequenceConfig:
        """How conversations are written down."""
        return self.inference.sequence

    @property
    def device(self) -> torch.device:
        return self.inference.device

    @property
    def bf16(self) -> bool:
        """Whether matrix products are in bfloat16."""
        return self.inference.bf16

    @property
    def image_size(self) -> int:
        """Side of the pictures that the model reads and draws, in pixels."""
        return self.inference.image_size

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, device: str = "cpu", weights: Literal["ema", "raw"] = "ema", batch_size: int = 32
    ) -> Predictor:
        """Load a run or a checkpoint, as ``setok.checkpoint.resolve`` takes it, or what ``setok.export.export_setokim`` wrote.

        Args:
            weights: ``ema`` takes the running average of the weights where the run kept one; ``raw`` never does.

        Raises:
            CheckpointError: nothing there can be loaded, or it is a tokenizer alone.
            ConfigError: ``weights`` is something else.
        """
        if weights not in ("ema", "raw"):
            raise ConfigError(f"weights={weights!r} is unknown", "use 'ema' or 'raw'")
        if (Path(path) / setokim_files.CONFIG).is_file() or not checkpoint.is_place(path):
            exported = setokim_files.local_folder(path)
            settings = read_settings(exported)
            return cls(
                Setokim.from_pretrained(exported),
                settings.sequence,
                device=device,
                bf16=settings.precision == "bf16",
                batch_size=batch_size,
            )
        folder = checkpoint.resolve(path)
        config = checkpoint.read_config(folder)
        if config.stage == "tokenizer":
            raise CheckpointError(
                f"{folder} is of stage tokenizer, which has no language model",
                "name a run of stage pretrain or instruct, or use setok.predictor.TokenizerPredictor",
            )
        task = SetokimTask(config, pretrained=False)
        checkpoint.load_model(folder, task, "model", average=weights == "ema")
        return cls(task.setokim, config.sequence, device=device, bf16=task.bf16, batch_size=batch_size)

    # ------------------------------------------------------------ what can be asked

    def chat(
        self,
        conversations: Sequence[Conversation],
        pictures: Sequence[Picture | Sequence[Picture]] = (),
        *,
        options: GenerationOptions | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[Reply]:
        """What the assistant says next in every conversation.

        Args:
            conversations: turns with ``<image>`` where a picture stands.
            pictures: of every conversation, in the order of its slots; empty where none has any.
            options: how to go on; ``None`` says the most likely words, and draws or points where the model does so by itself.
                Without ``stop_ids`` a reply ends at the template's end of a turn, or of the text.
            seeds: of every reply's random choices; ``None`` for 0, 1, 2, …

        Raises:
            DataError: slots and pictures differ in number, a conversation is too long, or what is given is none.
            ConfigError: an option does not fit the model.
        """
        check_conversations(conversations)
        seeds = range(len(conversations)) if seeds is None else seeds
        pictures = pictures or [()] * len(conversations)
        same_number(len(conversations), pictures=len(pictures), seeds=len(seeds))
        check_seeds(seeds)
        options = self.inference.stopping(options)
        replies: list[Reply] = []
        for start in range(0, len(conversations), self.batch_size):
            own = slice(start, start + self.batch_size)
            replies += self._replies(conversations[own], pictures[own], options, seeds[own])
        return replies

    def stream(
        self,
        conversation: Conversation,
        pictures: Picture | Sequence[Picture] = (),
        *,
        options: GenerationOptions | None = None,
        seed: int = 0,
    ) -> Iterator[Part]:
        """The same for one conversation, part by part as it is said; the texts together are the reply's text.

        Raises:
            DataError, ConfigError: as ``chat``.
        """
        session = Session(self.inference, use_cache=options is None or options.use_cache)
        session.join([Ask(conversation=conversation, pictures=pictures_of(pictures), options=options, seed=seed)])
        while len(session):
            for _, part in session.step():
                if not isinstance(part, Ended):
                    yield part

    def caption(self, pictures: Picture | Sequence[Picture], *, seeds: Sequence[int] | None = None) -> list[str]:
        """A description of every picture."""
        asked = self._wording(wordings.CAPTION, wordings.CAPTION_BARE)
        pictures = pictures_of(pictures)
        talks = [[Turn(role="user", text=asked)] for _ in pictures]
        replies = self.chat(talks, [[one] for one in pictures], options=GenerationOptions(mode="text"), seeds=seeds)
        return [reply.text for reply in replies]

    def answer(
        self,
        pictures: Picture | Sequence[Picture],
        questions: str | Sequence[str],
        *,
        seeds: Sequence[int] | None = None,
    ) -> list[str]:
        """A short answer to a question on every picture."""
        pictures, questions = pictures_of(pictures), texts_of(questions, "questions")
        same_number(len(pictures), questions=len(questions))
        suffix = f"\n{wordings.SHORT_ANSWER}" if self.sequence.short_answer else ""
        talks = [[Turn(role="user", text=f"{IMAGE_SLOT}\n{question}{suffix}")] for question in questions]
        replies = self.chat(talks, [[one] for one in pictures], options=GenerationOptions(mode="text"), seeds=seeds)
        return [reply.text for reply in replies]

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        options: GenerationOptions | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[UInt8[Tensor, "3 height width"]]:
        """A picture for every prompt."""
        varied = self.sequence.instructions == "varied"
        talks = [drawing(prompt, varied=varied) for prompt in texts_of(prompts, "prompts")]
        replies = self.chat(talks, options=replace(options or GenerationOptions(), mode="picture"), seeds=seeds)
        return [reply.pictures[0] for reply in replies]

    def edit(
        self,
        pictures: Picture | Sequence[Picture],
        instructions: str | Sequence[str],
        *,
        options: GenerationOptions | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[UInt8[Tensor, "3 height width"]]:
        """Every picture changed as its instruction says."""
        pictures, instructions = pictures_of(pictures), texts_of(instructions, "instructions")
        same_number(len(pictures), instructions=len(instructions))
        talks = [editing(instruction) for instruction in instructions]
        chosen = replace(options or GenerationOptions(), mode="picture")
        replies = self.chat(talks, [[one] for one in pictures], options=chosen, seeds=seeds)
        return [reply.pictures[0] for reply in replies]

    def segment(
        self, pictures: Picture | Sequence[Picture], expressions: str | Sequence[str]
    ) -> list[Bool[Tensor, "height width"]]:
        """The region of every picture that an expression means, in the picture's own size.

        The model sees the square in the middle of a picture; outside of it nothing is found.
        """
        pictures, expressions = pictures_of(pictures), texts_of(expressions, "expressions")
        same_number(len(pictures), expressions=len(expressions))
        talks = [pointing(expression) for expression in expressions]
        replies = self.chat(talks, [[one] for one in pictures], options=GenerationOptions(mode="mask"))
        return [reply.masks[0] for reply in replies]

    def ask(
        self,
        questions: Sequence[Question],
        pictures: Sequence[Sequence[Picture]],
        *,
        options: GenerationOptions | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[Reply]:
        """Answers to questions of stored records (``questions_of``), all of one task.

        Args:
            pictures: of every question, those of its ``images``.
            options: the mode is that of the task.
        """
        modes = {MODES[question.task] for question in questions}
        if len(modes) > 1:
            raise DataError(f"questions of different kinds: {sorted(modes)}", "ask those of one task at a time")
        chosen = options or GenerationOptions()
        if modes:
            chosen = replace(chosen, mode=modes.pop())  # type: ignore[arg-type]
        return self.chat([question.messages for question in questions], pictures, options=chosen, seeds=seeds)

    def likelihoods(
        self,
        conversations: Sequence[Conversation],
        answers: Sequence[str],
        pictures: Sequence[Sequence[Picture]] = (),
    ) -> list[Likelihood]:
        """How likely the assistant says an answer next, and nothing more, in every conversation.

        Raises:
            DataError: as ``chat``; a conversation's answer counts for its length.
        """
        pictures = pictures or [()] * len(conversations)
        same_number(len(conversations), answers=len(answers), pictures=len(pictures))
        found: list[Likelihood] = []
        for start in range(0, len(conversations), self.batch_size):
            own = slice(start, start + self.batch_size)
            batch = self.inference.prompts.answered(conversations[own], answers[own], pictures[own])
            with self.inference.autocast():
                found += likelihoods(self.model, batch)
        return found

    # ------------------------------------------------------------ how it is done

    def _replies(
        self,
        conversations: Sequence[Conversation],
        pictures: Sequence[Picture | Sequence[Picture]],
        options: GenerationOptions,
        seeds: Sequence[int],
    ) -> list[Reply]:
        pixels = [[to_pixels(one) for one in pictures_of(own)] for own in pictures]
        batch, unguided = self.inference.prompts(conversations, pixels, guided=options.guidance != 1.0)
        with self.inference.autocast():
            made = generate(self.model, batch, options, seeds=list(seeds), unguided=unguided)
        return [self._reply(one, own) for one, own in zip(made, pixels, strict=True)]

    def _reply(self, made: Generated, pixels: Sequence[np.ndarray]) -> Reply:
        size = pixels[0].shape[:2] if pixels else None
        parts: list[Part] = [
            TextPart(text=self.inference.decode(segment.ids))
            if isinstance(segment, Text)
            else self.inference.part_of(segment, size)
            for segment in made.segments
        ]
        return Reply(parts=tuple(parts), reason=made.reason)

    def _wording(self, varied: Sequence[tuple[str, str]], bare: Sequence[tuple[str, str]]) -> str:
        """What the user says, in the first of the wordings that were trained."""
        return (varied if self.sequence.instructions == "varied" else bare)[0][0]
