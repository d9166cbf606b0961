"""A Hugging Face tokenizer's folder, read with the ``tokenizers`` library alone: what the data workers tokenize with.

It differs from calling the tokenizer in two ways. Text never becomes a special token, whatever it contains: those are
placed by id. And a text is tokenized knowing what stands before it: some tokenizers put a space before whatever they
are given, which is right at the beginning and wrong in the middle of a sentence.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from setok.errors import ConfigError, did_you_mean
from setok.vocabulary import SPECIAL_TOKENS

Before = Literal["nothing", "token", "text"]
"""What stands before a text: it begins the sequence, or follows a special token, or goes on with a text."""


@dataclass(frozen=True, kw_only=True)
class SpecialToken:
    """A token that stands for itself, and swallows the white space beside it where its tokenizer says so."""

    id: int
    strips_left: bool = False
    strips_right: bool = False


@dataclass(frozen=True, kw_only=True)
class TextTokenizer:
    """Text to ids. Small to send to another process, which builds what it needs.

    Args of the constructor are what the files of a tokenizer say; use ``load``, or ``text_tokenizer`` of
    setok/data/special_tokens.py for one that transformers has loaded.
    """

    definition: str
    """``tokenizer.json``."""
    bos_token: str = ""
    eos_token: str = ""
    pad_token: str = ""
    chat_template: str = ""

    @classmethod
    def load(cls, folder: str | Path) -> TextTokenizer:
        """Read the folder that ``save_pretrained`` wrote.

        Raises:
            ConfigError: it is none, or has no ``tokenizer.json``.
        """
        root = Path(folder)
        if not (root / "tokenizer.json").is_file():
            state = "has no tokenizer.json" if root.is_dir() else "does not exist"
            raise ConfigError(
                f"the tokenizer {str(folder)!r} {state}",
                "write one with transformers: AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER)",
            )
        settings = _read_json(root / "tokenizer_config.json")
        template = root / "chat_template.jinja"
        stored = template.read_text(encoding="utf-8") if template.is_file() else settings.get("chat_template", "")
        named = {name: _token_text(settings.get(name)) for name in ("bos_token", "eos_token", "pad_token")}
        return cls(
            definition=(root / "tokenizer.json").read_text(encoding="utf-8"),
            chat_template=default_template(stored),
            **named,
        )

    def __getstate__(self) -> dict[str, Any]:
        names = ("definition", "bos_token", "eos_token", "pad_token", "chat_template")
        return {name: getattr(self, name) for name in names}  # not the tokenizers: they forget how they were set up

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @functools.cached_property
    def special_tokens(self) -> dict[str, SpecialToken]:
        """All special tokens by their text."""
        return {
            token["content"]: SpecialToken(id=token["id"], strips_left=token["lstrip"], strips_right=token["rstrip"])
            for token in json.loads(self.definition)["added_tokens"]
            if token["special"]
        }

    def special_id(self, text: str) -> int:
        """The id of a special token.

        Raises:
            ConfigError: there is none with this text.
        """
        found = self.special_tokens.get(text)
        if found is not None:
            return found.id
        if text in SPECIAL_TOKENS:
            raise ConfigError(
                f"the tokenizer has no token {text!r}",
                "add it with setok.data.special_tokens.add_special_tokens, and save the tokenizer",
            )
        raise ConfigError(f"the tokenizer has no special token {text!r}", did_you_mean(text, self.special_tokens))

    @functools.cached_property
    def pad_id(self) -> int:
        """The id for places that hold no text: that of the padding token, else of the end of text.

        Raises:
            ConfigError: the tokenizer names neither.
        """
        if not (self.pad_token or self.eos_token):
            raise ConfigError("the tokenizer names neither a pad_token nor an eos_token", "set one, and save it again")
        return self.special_id(self.pad_token or self.eos_token)

    def encode(self, text: str, *, before: Before) -> list[int]:
        """Ids of a text in which nothing is a special token."""
        return list(self._encode(text, before))

    @functools.cached_property
    def _encode(self) -> Callable[[str, Before], tuple[int, ...]]:
        """Remembers what comes again and again: wordings, system prompts."""
        return functools.lru_cache(maxsize=4096)(self._encode_anew)

    def _encode_anew(self, text: str, before: Before) -> tuple[int, ...]:
        found = self._backends[before].encode(text, add_special_tokens=False)
        if not self._special_ids.isdisjoint(found.ids):
            for number, (start, stop) in zip(found.ids, found.offsets, strict=True):
                special = self._special_text.search(text, start, stop) if number in self._special_ids else None
                if special is not None:  # a model such as Unigram knows it as a word: cut it behind its first letter
                    cut = special.start() + 1
                    return self._encode_anew(text[:cut], before) + self._encode_anew(text[cut:], "text")
        return tuple(found.ids)

    @functools.cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(token.id for token in self.special_tokens.values())

    @functools.cached_property
    def _special_text(self) -> re.Pattern[str]:
        longest_first = sorted((text for text in self.special_tokens if len(text) > 1), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    @functools.cached_property
    def _backends(self) -> dict[Before, Tokenizer]:
        definition = json.loads(self.definition)
        parts = {name: definition.get(name) for name in ("normalizer", "pre_tokenizer")}
        later: dict[Before, dict[str, Any]] = {
            "nothing": {},
            "token": {name: _without_prefix(part, also_repeated=False) for name, part in parts.items()},
            "text": {name: _without_prefix(part, also_repeated=True) for name, part in parts.items()},
        }
        built: dict[str, Tokenizer] = {}
        for changes in later.values():
            key = json.dumps(definition | changes, ensure_ascii=False)
            if key not in built:
                built[key] = Tokenizer.from_str(key)
                built[key].encode_special_tokens = True  # their text is text
                built[key].no_truncation()
                built[key].no_padding()
        return {
            before: built[json.dumps(definition | changes, ensure_ascii=False)] for before, changes in later.items()
        }


def _without_prefix(part: Any, *, also_repeated: bool) -> Any:
    """A normalizer or pre-tokenizer that puts no space before a text.

    Args:
        part: its JSON.
        also_repeated: also where the tokenizer puts one after every special token, and not at the beginning only.
    """
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if kind == "Sequence":
        name = "normalizers" if "normalizers" in part else "pretokenizers"
        kept = [_without_prefix(inner, also_repeated=also_repeated) for inner in part[name]]
        return part | {name: [inner for inner in kept if inner is not None]}
    if kind == "Metaspace" and (also_repeated or part["prepend_scheme"] == "first"):
        return part | {"prepend_scheme": "never"}
    if kind == "ByteLevel" and also_repeated:
        return part | {"add_prefix_space": False}
    if kind == "Prepend" and also_repeated:
        return None
    return part


def default_template(stored: Any) -> str:
    """The template for conversations: some tokenizers store several under names."""
    if isinstance(stored, list):  # as tokenizer_config.json has them
        stored = {entry["name"]: entry["template"] for entry in stored}
    return str((stored.get("default") if isinstance(stored, dict) else stored) or "")


def _token_text(value: Any) -> str:
    return str((value.get("content") if isinstance(value, dict) else value) or "")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    settings = json.loads(path.read_text(encoding="utf-8"))
    return settings if isinstance(settings, dict) else {}
