"""A conversation written down by a chat template, in pieces: text, special tokens, pictures, masks; each trained or not.

A template is rendered with marks in the place of the turns' texts. So what a text contains can never be taken for a part
of the template, and where every turn begins and ends is known to the character.

What is trained is what the assistant says: from where the prompt ends, at inference, to the token that ends its turn. A
template may mark it with ``{% generation %}``. Otherwise the prompt of every turn is rendered by itself
(``add_generation_prompt``), and must be how the whole conversation begins: then the model learns to answer exactly the
prompts that it will be given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby

import jinja2

from setok.config import ChatConfig
from setok.data.chat_templates import (
    BUILT_IN,
    GENERATION_END,
    GENERATION_START,
    NEEDED_TOKENS,
    SYSTEM_PROMPTS,
    compile_template,
)
from setok.data.schema import IMAGE_SLOT, MASK_SLOT, Turn
from setok.data.text_tokenizer import TextTokenizer
from setok.errors import ConfigError, DataError

_TURN_START, _TURN_END = "\ufdd0", "\ufdd1"
_BUILT_IN_INSTEAD = f"set sequence.chat.template to one of: {', '.join(BUILT_IN)}"


class Slot(Enum):
    """What a message may hold beside text."""

    IMAGE = IMAGE_SLOT
    MASK = MASK_SLOT


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn. Texts that follow each other are tokenized each by itself."""

    role: str
    parts: tuple[str | Slot, ...]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stretch of a conversation that was written down."""

    content: str | Slot
    trained: bool
    is_token: bool = False
    """The content is the text of a special token."""
    stands_alone: bool = False
    """Not to be tokenized together with the text before it."""


def message_of(turn: Turn) -> Message:
    """A turn of a record, its slots told from its text: ``<image>`` anywhere, ``<mask>`` in what the assistant says."""
    slots = [IMAGE_SLOT, MASK_SLOT] if turn.role == "assistant" else [IMAGE_SLOT]
    parts = re.split(f"({'|'.join(slots)})", turn.text)
    return Message(role=turn.role, parts=tuple(Slot(part) if part in slots else part for part in parts if part))


class ChatTemplate:
    """A template of a tokenizer.

    White space at both ends of a turn is dropped.

    Args:
        config: which template, and what the system says.
        tokenizer: whose special tokens the template writes.

    Raises:
        ConfigError: there is no such template, it needs tokens that the tokenizer lacks, or it does not show where the
            assistant speaks.
    """

    def __init__(self, config: ChatConfig, tokenizer: TextTokenizer) -> None:
        self.name = config.template
        self.source = tokenizer.chat_template if self.name == "tokenizer" else BUILT_IN[self.name]
        self._tokenizer = tokenizer
        self._check_tokens()
        self._tokens = sorted(tokenizer.special_tokens, key=len, reverse=True)
        self._layouts: dict[tuple[tuple[str, ...], bool], list[_Run]] = {}
        system = config.system_prompt
        self.system_prompt = SYSTEM_PROMPTS.get(self.name, "") if system is None else system
        self._try()

    def pieces(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> list[Piece]:
        """The conversation written down.

        Args:
            messages: turns; the system prompt goes before them where they have none.
            add_generation_prompt: end where the assistant is to speak; what it said before is still told apart, so that
                it is tokenized as it was in training.

        Raises:
            DataError: the template refuses these turns, such as two of the user's in a row.
        """
        if self.system_prompt and (not messages or messages[0].role != "system"):
            messages = [Message(role="system", parts=(self.system_prompt,)), *messages]
        roles = tuple(message.role for message in messages)
        key = (roles, add_generation_prompt)
        if key not in self._layouts:
            self._layouts[key] = self._layout(roles, add_generation_prompt=add_generation_prompt)
        return list(_fill(self._layouts[key], messages))

    @property
    def end_of_turn(self) -> str:
        """The special token that is trained behind what the assistant says; empty where the template marks none."""
        turns = [Message(role=role, parts=("x",)) for role in ("user", "assistant")]
        pieces = [piece for piece in self.pieces(turns) if piece.trained]
        said = next(index for index, piece in enumerate(pieces) if not piece.is_token and "x" in str(piece.content))
        return next((str(piece.content) for piece in pieces[said:] if piece.is_token), "")

    def _layout(self, roles: tuple[str, ...], *, add_generation_prompt: bool) -> list[_Run]:
        """Literals and turns in order, with what is trained."""
        text = self._render(roles, add_generation_prompt=add_generation_prompt)
        bare = text.replace(GENERATION_START, "").replace(GENERATION_END, "")
        found = [int(number) for number in re.findall(f"{_TURN_START}(\\d+){_TURN_END}", bare)]
        if found != list(range(len(roles))):
            raise ConfigError(
                f"the chat template does not write every turn once and in order: of {len(roles)} turns ({', '.join(roles)})"
                f" it writes numbers {found}",
                _BUILT_IN_INSTEAD,
            )
        if GENERATION_START in text:
            spans = _marked_spans(text)
        else:
            spans = [self._spoken(bare, roles, turn) for turn, role in enumerate(roles) if role == "assistant"]
        return list(self._runs(bare, spans))

    def _spoken(self, text: str, roles: tuple[str, ...], turn: int) -> tuple[int, int]:
        """Where in the conversation a turn of the assistant's begins and ends, its last token included."""
        prompt = self._render(roles[:turn], add_generation_prompt=True)
        if not text.startswith(prompt):
            raise ConfigError(
                "the chat template writes a conversation differently once the assistant has answered:"
                f" the prompt of turn {turn + 1} ends in {_shown(prompt[-40:])!r}, and the conversation does not begin with it",
                f"mark what the assistant says with {{% generation %}} in the template, or {_BUILT_IN_INSTEAD}",
            )
        said = text.index(f"{_TURN_START}{turn}{_TURN_END}")
        after = text.find(_TURN_START, said + 1)
        end = self._pattern().search(text, said, len(text) if after < 0 else after)
        if end is None:
            raise ConfigError(
                f"the chat template ends the assistant's turn {turn + 1} with no special token,"
                " so a model could not learn to stop",
                f"mark what the assistant says with {{% generation %}} in the template, or {_BUILT_IN_INSTEAD}",
            )
        return len(prompt), end.end()

    def _runs(self, text: str, spans: Iterable[tuple[int, int]]) -> Iterator[_Run]:
        """Cut a rendered conversation at turns, at special tokens, and where what is trained begins and ends."""
        trained = [False] * len(text)
        for start, stop in spans:
            trained[start:stop] = [True] * (stop - start)
        position = 0
        for found in re.finditer(f"{_TURN_START}(\\d+){_TURN_END}|{self._pattern().pattern}", text):
            yield from _literals(text, position, found.start(), trained)
            turn = None if found[1] is None else int(found[1])
            yield _Run(text=found[0], trained=trained[found.start()], is_token=turn is None, turn=turn)
            position = found.end()
        yield from _literals(text, position, len(text), trained)

    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._tokens)) or r"(?!)")

    def _render(self, roles: tuple[str, ...], *, add_generation_prompt: bool) -> str:
        """The template's text with a mark for every turn."""
        messages = [{"role": role, "content": f"{_TURN_START}{number}{_TURN_END}"} for number, role in enumerate(roles)]
        try:
            return compile_template(self.source).render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                bos_token=self._tokenizer.bos_token,
                eos_token=self._tokenizer.eos_token,
                pad_token=self._tokenizer.pad_token,
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise DataError(
                f"the chat template refuses the turns {', '.join(roles) or '(none)'}: {error}",
                "correct the turns; for training on them, set sequence.chat.system_prompt='' if it takes no system turn, or"
                f" {_BUILT_IN_INSTEAD}",
            ) from error

    def _check_tokens(self) -> None:
        if not self.source:
            raise ConfigError("the tokenizer has no chat template of its own", _BUILT_IN_INSTEAD)
        needed = list(NEEDED_TOKENS.get(self.name, ()))
        missing = [token for token in needed if token not in self._tokenizer.special_tokens]
        if self.name in ("plain", "vicuna_v1", "llama2", "mistral") and not self._tokenizer.eos_token:
            missing.append("eos_token")
        if missing:
            raise ConfigError(
                f"the chat template {self.name!r} needs tokens that the tokenizer lacks: {', '.join(missing)}",
                "add them to the tokenizer as special tokens, or choose another sequence.chat.template",
            )

    def _try(self) -> None:
        """Find out at once what is wrong with a template, on two questions and answers."""
        turns = [Message(role=role, parts=("x",)) for role in ("user", "assistant", "user", "assistant")]
        try:
            self.pieces(turns)
            self.pieces(turns[:3], add_generation_prompt=True)
        except DataError as error:
            raise ConfigError(error.problem, error.remedy) from error


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A stretch of a rendered template: text of its own, a special token, or the place of a turn."""

    text: str
    trained: bool
    is_token: bool = False
    turn: int | None = None


def _literals(text: str, start: int, stop: int, trained: list[bool]) -> Iterator[_Run]:
    for flag, places in groupby(range(start, stop), key=trained.__getitem__):
        yield _Run(text="".join(text[place] for place in places), trained=flag)


def _fill(runs: Iterable[_Run], messages: Sequence[Message]) -> Iterator[Piece]:
    """The pieces of a conversation: its messages in the places of the turns."""
    for run in runs:
        if run.turn is None:
            yield Piece(content=run.text, trained=run.trained, is_token=run.is_token)
            continue
        previous: str | Slot | None = None
        for part in _stripped(messages[run.turn].parts):
            both_text = isinstance(part, str) and isinstance(previous, str)
            yield Piece(content=part, trained=run.trained, stands_alone=both_text)
            previous = part


def _stripped(parts: tuple[str | Slot, ...]) -> list[str | Slot]:
    """Parts without white space at both ends of the turn, and without empty ones."""
    kept = list(parts)
    while kept and isinstance(kept[0], str) and not kept[0].strip():
        kept.pop(0)
    while kept and isinstance(kept[-1], str) and not kept[-1].strip():
        kept.pop()
    if kept and isinstance(kept[0], str):
        kept[0] = kept[0].lstrip()
    if kept and isinstance(kept[-1], str):
        kept[-1] = kept[-1].rstrip()
    return [part for part in kept if part]


def _marked_spans(text: str) -> list[tuple[int, int]]:
    """Where ``{% generation %}`` blocks lie in the text without their marks."""
    spans, starts = [], []
    for removed, found in enumerate(re.finditer(f"{GENERATION_START}|{GENERATION_END}", text)):
        place = found.start() - removed
        if found[0] == GENERATION_START:
            starts.append(place)
        else:
            spans.append((starts.pop(), place))
    return spans


def _shown(text: str) -> str:
    """A rendered text for people."""
    return re.sub(f"{_TURN_START}\\d+{_TURN_END}", "…", text)
