"""Setokim, ready for use: chat, captions, answers, pictures, edits and regions; batched, streaming, seeded.

A reply depends on its conversation and its seed only, not on what else is asked in the same call.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from setok import checkpoint
from setok.config import SequenceConfig
from setok.data import wordings
from setok.data.processor import Picture
from setok.data.schema import IMAGE_SLOT, Turn
from setok.data.sequences import SequenceBuilder
from setok.data.special_tokens import text_tokenizer
from setok.errors import CheckpointError, DataError
from setok.export import SEQUENCE
from setok.models.generation import (
    Finished,
    Generated,
    GenerationOptions,
    ImageEnd,
    MaskFound,
    Text,
    TextToken,
    generate,
    stream,
)
from setok.models.setokim import Setokim
from setok.predictor.exercises import MODES, Question
from setok.predictor.likelihood import Likelihood, likelihoods
from setok.predictor.prompting import Conversation, PromptMaker
from setok.predictor.replies import MaskPart, Part, PicturePart, Reply, TextPart, mask_part
from setok.stages import SetokimTask


class Predictor:
    """A trained Setokim: deterministic for a seed, without gradients.

    Args:
        sequence: how conversations are written down; as in training.
        bf16: matrix products in bfloat16, as a run with ``train.precision=bf16`` has them.
        batch_size: conversations that go through the model at once.
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
        self.device, self.bf16, self.batch_size = torch.device(device), bf16, batch_size
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.sequence = sequence
        self.image_size = model.tokenizer.config.image_size
        builder = SequenceBuilder(text_tokenizer(model.text_tokenizer), sequence, seed=0)
        self._prompts = PromptMaker(builder, image_size=self.image_size, device=self.device)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, device: str = "cpu", weights: Literal["ema", "raw"] = "ema", batch_size: int = 32
    ) -> Predictor:
        """Load a run or a checkpoint, as ``setok.checkpoint.resolve`` takes it, or what ``setok.export.export_setokim`` wrote.

        Args:
            weights: ``ema`` takes the running average of the weights where the run kept one; ``raw`` never does.

        Raises:
            CheckpointError: nothing there can be loaded, or it is a tokenizer alone.
        """
        if (Path(path) / SEQUENCE).is_file() or not checkpoint.is_place(path):
            model = Setokim.from_pretrained(path)
            return cls(model, read_sequence(Path(path)), device=device, batch_size=batch_size)
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
        pictures: Sequence[Sequence[Picture]] = (),
        *,
        options: GenerationOptions | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[Reply]:
        """What the assistant says next in every conversation.

        Args:
            conversations: turns with ``<image>`` where a picture stands.
            pictures: of every conversation, in the order of its slots; empty where none has any.
            options: how to go on; ``None`` says the most likely words, and draws or points where the model does so by itself.
            seeds: of every reply's random choices; ``None`` for 0, 1, 2, …

        Raises:
            DataError: slots and pictures differ in number, or a conversation is too long.
            ConfigError: an option does not fit the model.
        """
        options = options or GenerationOptions()
        seeds = range(len(conversations)) if seeds is None else seeds
        pictures = pictures or [()] * len(conversations)
        _same_number(len(conversations), pictures=len(pictures), seeds=len(seeds))
        replies: list[Reply] = []
        for start in range(0, len(conversations), self.batch_size):
            own = slice(start, start + self.batch_size)
            replies += self._replies(conversations[own], pictures[own], options, seeds[own])
        return replies

    def stream(
        self,
        conversation: Conversation,
        pictures: Sequence[Picture] = (),
        *,
        options: GenerationOptions | None = None,
        seed: int = 0,
    ) -> Iterator[Part]:
        """The same for one conversation, part by part as it is said; the texts together are the reply's text.

        Raises:
            DataError, ConfigError: as ``chat``.
        """
        options = options or GenerationOptions()
        batch, unguided = self._prompts([conversation], [pictures], guided=options.guidance != 1.0)
        ids: list[int] = []
        told = ""
        with self._autocast():
            events = stream(self.model, batch, options, seeds=[seed], unguided=unguided)
        while True:
            with self._autocast(), torch.no_grad():
                event = next(events, None)
            if event is None:
                return
            if isinstance(event, TextToken):
                ids.append(event.token)
            if isinstance(event, (TextToken, Finished)):
                text = self._decode(ids)
                # A letter of several tokens is held back until it is whole.
                if text.startswith(told) and (not text.endswith("\ufffd") or isinstance(event, Finished)):
                    new, told = text[len(told) :], text
                    if new:
                        yield TextPart(text=new)
            elif isinstance(event, (ImageEnd, MaskFound)):
                yield self._part(event)

    def caption(self, pictures: Sequence[Picture], *, seeds: Sequence[int] | None = None) -> list[str]:
        """A description of every picture."""
        asked = self._wording(wordings.CAPTION, wordings.CAPTION_BARE)
        talks = [[Turn(role="user", text=asked)] for _ in pictures]
        replies = self.chat(talks, [[one] for one in pictures], options=GenerationOptions(mode="text"), seeds=seeds)
        return [reply.text for reply in replies]

    def answer(
        self, pictures: Sequence[Picture], questions: Sequence[str], *, seeds: Sequence[int] | None = None
    ) -> list[str]:
        """A short answer to a question on every picture."""
        _same_number(len(pictures), questions=len(questions))
        suffix = f"\n{wordings.SHORT_ANSWER}" if self.sequence.short_answer else ""
        talks = [[Turn(role="user", text=f"{IMAGE_SLOT}\n{question}{suffix}")] for question in questions]
        replies = self.chat(talks, [[one] for one in pictures], options=GenerationOptions(mode="text"), seeds=seeds)
        return [reply.text for reply in replies]

    def generate(
        self,
        prompts: Sequence[str],
        *,
        options: GenerationOptions | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[UInt8[Tensor, "3 height width"]]:
        """A picture for every prompt."""
        asked = self._wording(wordings.GENERATE, wordings.GENERATE_BARE)
        talks = [[Turn(role="user", text=asked.replace("{}", _plain(prompt)))] for prompt in prompts]
        replies = self.chat(talks, options=replace(options or GenerationOptions(), mode="picture"), seeds=seeds)
        return [reply.pictures[0] for reply in replies]

    def edit(
        self,
        pictures: Sequence[Picture],
        instructions: Sequence[str],
        *,
        options: GenerationOptions | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[UInt8[Tensor, "3 height width"]]:
        """Every picture changed as its instruction says."""
        _same_number(len(pictures), instructions=len(instructions))
        asked = wordings.EDIT_BARE[0][0]
        talks = [[Turn(role="user", text=asked.replace("{}", _plain(text)))] for text in instructions]
        chosen = replace(options or GenerationOptions(), mode="picture")
        replies = self.chat(talks, [[one] for one in pictures], options=chosen, seeds=seeds)
        return [reply.pictures[0] for reply in replies]

    def segment(self, pictures: Sequence[Picture], expressions: Sequence[str]) -> list[Bool[Tensor, "height width"]]:
        """The region of every picture that an expression means."""
        _same_number(len(pictures), expressions=len(expressions))
        talks = [[Turn(role="user", text=f"{IMAGE_SLOT}\n{SEGMENT_REQUEST.format(_plain(e))}")] for e in expressions]
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
        _same_number(len(conversations), answers=len(answers), pictures=len(pictures))
        found: list[Likelihood] = []
        for start in range(0, len(conversations), self.batch_size):
            own = slice(start, start + self.batch_size)
            batch = self._prompts.answered(conversations[own], answers[own], pictures[own])
            with self._autocast():
                found += likelihoods(self.model, batch)
        return found

    # ------------------------------------------------------------ how it is done

    def _replies(
        self,
        conversations: Sequence[Conversation],
        pictures: Sequence[Sequence[Picture]],
        options: GenerationOptions,
        seeds: Sequence[int],
    ) -> list[Reply]:
        batch, unguided = self._prompts(conversations, pictures, guided=options.guidance != 1.0)
        with self._autocast():
            made = generate(self.model, batch, options, seeds=list(seeds), unguided=unguided)
        return [self._reply(one) for one in made]

    def _reply(self, made: Generated) -> Reply:
        parts: list[Part] = [
            TextPart(text=self._decode(segment.ids)) if isinstance(segment, Text) else self._part(segment)
            for segment in made.segments
        ]
        return Reply(parts=tuple(parts), reason=made.reason)

    def _part(self, event: ImageEnd | MaskFound) -> PicturePart | MaskPart:
        size = (self.image_size, self.image_size)
        if isinstance(event, ImageEnd):
            with self._autocast():
                pixels = self.model.paint([event.tokens], size)[0]
            return PicturePart(pixels=pixels.cpu(), num_tokens=len(event.tokens))
        return mask_part(event.logits.float(), size)

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.model.text_tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def _wording(self, varied: Sequence[tuple[str, str]], bare: Sequence[tuple[str, str]]) -> str:
        """What the user says, in the first of the wordings that were trained."""
        return (varied if self.sequence.instructions == "varied" else bare)[0][0]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


SEGMENT_REQUEST = "Segment {}"
"""How the readers of referring sets ask (setok/data/sources/refcoco.py)."""


def read_sequence(folder: Path) -> SequenceConfig:
    """How an exported model's conversations are written down; the defaults where its folder does not say."""
    file = folder / SEQUENCE
    return SequenceConfig.model_validate(json.loads(file.read_text())) if file.is_file() else SequenceConfig()


def _plain(text: str) -> str:
    """A text in which nothing is a slot."""
    return text.replace(IMAGE_SLOT, " ").strip()


def _same_number(wanted: int, **found: int) -> None:
    for name, number in found.items():
        if number != wanted:
            raise DataError(f"{wanted} were asked and there are {number} {name}", f"give one of {name} for each")
