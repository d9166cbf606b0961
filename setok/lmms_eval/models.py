"""The classes that lmms-eval runs. Needs the package ``lmms-eval`` (the extra ``eval``)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

import torch
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from lmms_eval.utils import simple_parse_args_string
from tqdm import tqdm

from setok.data.chat import Message
from setok.data.processor import Picture
from setok.errors import ConfigError, DataError, did_you_mean
from setok.lmms_eval.asking import (
    batches_by_length,
    chat_conversation,
    cut,
    options_of,
    simple_conversation,
    stops_of,
)
from setok.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request; its pictures are decoded when it is its turn."""

    load: Callable[[], tuple[list[Message], list[Picture]]]
    settings: Mapping[str, Any]
    length: int
    """Of the text, in characters."""
    seed: int
    where: str
    """Task and number of the document, for errors."""


class _Setokim(lmms):
    """What both ways of asking share.

    Args:
        pretrained: a run's folder, a checkpoint's, or what ``setok.export.export_setokim`` wrote.
        batch_size: requests that go through the model at once.
        device: ``cpu``, ``cuda``, ``cuda:1``; under ``accelerate launch`` with ``cuda`` every process takes its own.
        weights: ``ema`` takes the running average where the run kept one.
        max_new_tokens: most tokens of an answer to a task that does not say so.

    Raises:
        CheckpointError: there is no such Setokim.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        batch_size: int = 1,
        device: str = "cpu",
        weights: Literal["ema", "raw"] = "ema",
        max_new_tokens: int = 128,
    ) -> None:
        super().__init__()
        if device == "cuda":
            device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        self.predictor = Predictor.from_pretrained(pretrained, device=device, weights=weights, batch_size=batch_size)

    @property
    def device(self) -> torch.device:
        """Where the harness's own tensors go, too."""
        return self.predictor.device

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Mapping[str, Any] | None = None) -> _Setokim:
        """From ``--model_args``, which go before ``--batch_size`` and ``--device``.

        Raises:
            ConfigError: there is no such argument, or ``pretrained`` is missing.
        """
        given = {key: value for key, value in (additional_config or {}).items() if value is not None}
        given |= simple_parse_args_string(arg_string)
        allowed = [name for name in signature(cls).parameters if name != "self"]
        for name in given:
            if name not in allowed:
                raise ConfigError(f"model setokim takes no argument {name!r}", did_you_mean(name, allowed))
        if "pretrained" not in given:
            raise ConfigError("model setokim needs to know which", "--model_args pretrained=runs/NAME")
        if not str(given.get("batch_size", 1)).isdigit():
            raise ConfigError(f"batch_size={given['batch_size']!r} is no number", "--model_args batch_size=8")
        return cls(**given | {"batch_size": int(given.get("batch_size", 1)), "pretrained": str(given["pretrained"])})

    def clean(self) -> None:
        """Called when all is answered; the model may be asked again."""

    def _document(self, task: str, split: str, number: Any) -> Any:
        return self.task_dict[task][split][number]

    def _answers(self, asked: Sequence[Asked]) -> list[str]:
        """What is said to every request, in their order."""
        kinds = [
            (options_of(one.settings, max_new_tokens=self.max_new_tokens), stops_of(one.settings)) for one in asked
        ]
        answers = [""] * len(asked)
        with self._progress(len(asked)) as bar:
            lengths = [one.length for one in asked]
            for batch in batches_by_length(list(zip(kinds, lengths, strict=True)), self.batch_size):
                options, stops = kinds[batch[0]]
                conversations, pictures = self._load([asked[number] for number in batch])
                seeds = [asked[number].seed for number in batch]
                replies = self.predictor.chat(conversations, pictures, options=options, seeds=seeds)
                for number, reply in zip(batch, replies, strict=True):
                    answers[number] = cut(reply.text, stops)
                bar.update(len(batch))
        return answers

    def _load(self, asked: Sequence[Asked]) -> tuple[list[list[Message]], list[list[Picture]]]:
        conversations, pictures = [], []
        for one in asked:
            try:
                talk, own = one.load()
            except DataError as error:
                raise DataError(f"{one.where}: {error.problem}", error.remedy) from error
            conversations.append(talk)
            pictures.append(own)
        return conversations, pictures

    def _progress(self, total: int) -> tqdm:
        return tqdm(total=total, disable=self.rank != 0, desc="setokim")


class SetokimChat(_Setokim):
    """Asked by messages: pictures in their places, several turns."""

    is_simple = False

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers to requests of ``(context, messages of a document, settings, number, task, split)``."""
        asked, seeds = [], _Seeds()
        for context, messages_of, settings, number, task, split in (request.args for request in requests):

            def load(of: Any = messages_of, where: tuple[str, str, Any] = (task, split, number)) -> Any:
                return chat_conversation(of(self._document(*where)))

            one = Asked(
                load=load,
                settings=settings,
                length=len(context) if isinstance(context, str) else 0,
                seed=seeds.next(task, number),
                where=f"task {task}, document {number}",
            )
            asked.append(one)
        return self._answers(asked)

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """Answers of every round; a task says by what was answered how it goes on, or that it ends."""
        rounds: list[list[str]] = [[] for _ in requests]
        states: list[Any] = [None] * len(requests)
        going, number = list(range(len(requests))), 0
        while going:
            asked, asking = [], []
            for index in going:
                _, messages_of, settings, document, task, split = requests[index].args
                turns = messages_of(
                    self._document(task, split, document), **_round(number, rounds[index], states[index])
                )
                if number:
                    turns, ends, _, states[index] = turns
                    if ends:
                        continue
                one = Asked(
                    load=lambda turns=turns: chat_conversation(turns),  # type: ignore[misc]
                    settings=settings,
                    length=len(str(turns)),
                    seed=number,
                    where=f"task {task}, document {document}, round {number}",
                )
                asked.append(one)
                asking.append(index)
            for index, answer in zip(asking, self._answers(asked) if asked else (), strict=True):
                rounds[index].append(answer)
            going, number = asking, number + 1
        return rounds

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """The harness asks this of the other class only."""
        raise ConfigError("choices are compared by a context with pictures in front", "add --force_simple")


class SetokimSimple(_Setokim):
    """Asked by a context with pictures in front; the way of tasks of several choices (``--force_simple``)."""

    is_simple = True

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers to requests of ``(context, settings, pictures of a document, number, task, split)``."""
        asked, seeds = [], _Seeds()
        for context, settings, visuals_of, number, task, split in (request.args for request in requests):
            one = Asked(
                load=self._loader(context, visuals_of, task, split, number),
                settings=settings,
                length=len(context),
                seed=seeds.next(task, number),
                where=f"task {task}, document {number}",
            )
            asked.append(one)
        return self._answers(asked)

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """How likely an answer is, and whether it is the one that would be given.

        Where the answer is one of several choices this is the negative of its log-probability: lmms-eval takes the choice of
        the smallest value, in spite of the method's name. An answer that stands alone gives its log-probability, of which
        the harness makes perplexity. The token that ends the answer counts.

        The pairs come wrapped, since lmms-eval 0.7.3 makes a string of a bare one (``unwrap_generation_output``), and then
        no task of several choices can be scored.
        """
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for request in requests:
            if len(request.args) != 6:
                raise ConfigError(
                    "acc_mutual_info asks for answers without a question, which a conversation does not have",
                    "take the metrics acc and acc_norm",
                )
        lengths = [(None, len(request.args[0]) + len(str(request.args[1]))) for request in requests]
        with self._progress(len(requests)) as bar:
            for batch in batches_by_length(lengths, self.batch_size):
                asked, answers, signs = [], [], []
                for number in batch:
                    context, target, visuals_of, document, task, split = requests[number].args
                    loader = self._loader(context, visuals_of, task, split, document)
                    where = f"task {task}, document {document}"
                    asked.append(Asked(load=loader, settings={}, length=0, seed=0, where=where))
                    alone = callable(target)
                    answers.append(str(target(self._document(task, split, document)) if alone else target).strip())
                    signs.append(1.0 if alone else -1.0)
                conversations, pictures = self._load(asked)
                made = self.predictor.likelihoods(conversations, answers, pictures)
                for number, sign, one in zip(batch, signs, made, strict=True):
                    found[number] = (sign * one.log_probability, one.is_greedy)
                bar.update(len(batch))
        return [GenerationResult(text=pair) for pair in found]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """The other class does this."""
        raise ConfigError("a task of several rounds is asked by messages", "leave --force_simple out")

    def _loader(
        self, context: str, visuals_of: Any, task: str, split: str, number: Any
    ) -> Callable[[], tuple[list[Message], list[Picture]]]:
        return lambda: simple_conversation(context, visuals_of(self._document(task, split, number)))


class _Seeds:
    """A seed for every request: of the document and how often it was asked, so that repeats differ and runs do not."""

    def __init__(self) -> None:
        self._asked: Counter[tuple[str, Any]] = Counter()

    def next(self, task: str, number: Any) -> int:
        self._asked[task, number] += 1
        return int(number) * 1009 + self._asked[task, number] - 1


def _round(number: int, said: list[str], state: Any) -> dict[str, Any]:
    """What a task is told when it is asked for a further round; nothing for the first."""
    return {"round_idx": number, "previous_output": list(said), "previous_round_info": state} if number else {}
