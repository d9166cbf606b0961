"""What the sets in LLaVA's conversation format (Liu et al. 2023) have in common.

    [{"id": …, "image": "a/b.jpg", "conversations": [{"from": "human", "value": "<image>\\n…"},
                                                     {"from": "gpt", "value": "…"}, …]}, …]

``image`` may be missing (text only) or a list. A row with ``caption`` in place of ``conversations`` is a caption. As in
LLaVA's own loader, what the model says before the person's first turn is left out.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from setok.config import SourceConfig
from setok.data.concepts import concepts_of_caption
from setok.data.schema import EncodedImage, Record, Turn
from setok.data.sources.annotations import inside, one_line, read_rows, text_of
from setok.data.sources.base import BadRecord, Requirement, Source, read_image
from setok.errors import ConfigError, DataError, did_you_mean

logger = logging.getLogger(__name__)
ANY_SPLIT = "train"
"""The default split: the first of the source's splits whose files are all there."""
_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}


class ConversationSource(Source):
    """Records of one or more JSON lists. ``path`` is the folder of the official files, or one such file by any name."""

    splits: ClassVar[Mapping[str, tuple[str, ...]]]
    """Split to its files, relative to the root."""
    origin: ClassVar[str]
    """Where to get the files."""
    image_folders: ClassVar[tuple[str, ...]] = ("",)
    """Below the folder of the pictures: where a picture is looked for, in this order."""

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._named_file = self.root.name if self.root.suffix == ".json" else ""
        if self._named_file:
            self.root = self.root.parent
        elif config.split not in {ANY_SPLIT, *self.splits}:
            raise ConfigError(
                f"{self.name} has no split {config.split!r}", did_you_mean(config.split, [ANY_SPLIT, *self.splits])
            )

    @abstractmethod
    def holds_captions(self, file: str) -> bool:
        """Whether the answers in this file describe their pictures, so that each is a caption."""

    @property
    def requirements(self) -> list[Requirement]:
        others = [split for split in self.splits if split != self._split]
        hint = f"{self.origin} (or choose another split: {', '.join(others)}; or give the file itself as path)"
        return [Requirement(path=name, origin=self.origin if self._named_file else hint) for name in self._names]

    @cached_property
    def _split(self) -> str:
        if self.config.split != ANY_SPLIT:
            return self.config.split
        whole = (split for split, names in self.splits.items() if all((self.root / name).is_file() for name in names))
        return next(whole, next(iter(self.splits)))

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """Annotation files, relative to the root."""
        return (self._named_file,) if self._named_file else self.splits[self._split]

    def check(self) -> None:
        super().check()
        logger.info("source %s: reading %s", self.name, ", ".join(str(self.root / name) for name in self._names))

    def _files(self) -> Iterable[Path]:
        """The annotations, and the folders in which their pictures may be."""
        named = {Path(name).parent for _, _, row in self._rows for name in _names_or_none(self, row)}
        folders = {self._image_root / folder / below for folder in self.image_folders for below in named}
        return [*(self.root / name for name in self._names), *sorted(folder for folder in folders if folder.is_dir())]

    @property
    def _image_root(self) -> Path:
        return self._pictures(self.root)

    @cached_property
    def _rows(self) -> list[tuple[str, int, Any]]:
        """File, number in the file, and what stands there."""
        return [
            (name, number, row)
            for name in self._names
            for number, row in enumerate(read_rows(self.root / name, origin=self.origin))
        ]

    def _count(self) -> int:
        return len(self._rows)

    def _record(self, index: int) -> Record | BadRecord:
        file, number, row = self._rows[index]
        record_id = f"{self.name}/{Path(file).stem}/{number}"
        try:
            return self._record_of_row(record_id, file, row)
        except DataError as error:
            return BadRecord(id=record_id, reason=error.problem)

    def _record_of_row(self, record_id: str, file: str, row: Any) -> Record:
        is_caption_row = isinstance(row, dict) and "conversations" not in row and "caption" in row
        conversation = [] if is_caption_row else turns_of(row)
        names = self.image_names(row)
        answers = [one_line(turn.text) for turn in conversation if turn.role == "assistant"]
        caption = one_line(text_of(row, "caption")) if is_caption_row else ""
        if names and len(answers) == 1 and self.holds_captions(file):
            caption = answers[0]
        if is_caption_row and not (caption and names):
            raise DataError("empty caption: nothing but white space" if names else "no picture: a caption without one")
        return Record(
            id=record_id,
            source=self.name,
            task="caption" if caption else "dialogue",
            images=[EncodedImage(data=read_image(self._find(name))) for name in names],
            conversation=conversation,
            caption=caption,
            concepts=concepts_of_caption(caption),
            answers=[caption] if caption else [],
            provenance={"file": file, "image": ", ".join(names)}
            | {key: str(row[key]) for key in ("id", "key", "url") if key in row},
        )

    def image_names(self, row: Any) -> list[str]:
        """The pictures of a row, as its file names them.

        Raises:
            DataError: they are no names of files below the folder.
        """
        value = row.get("image")
        names = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(name, str) for name in names):
            raise DataError(f"not text: 'image' is {value!r}", "correct or remove the row")
        return [inside(name) for name in names]

    def _find(self, name: str) -> Path:
        paths = [self._image_root / folder / name for folder in self.image_folders]
        return next((path for path in paths if path.exists()), paths[0])


def turns_of(row: Any) -> list[Turn]:
    """The turns of a row: an optional system turn, then person and model in turn.

    Raises:
        DataError: keys are missing, a role is unknown, the roles do not alternate, or the model says nothing.
    """
    if not isinstance(row, dict) or not isinstance(row.get("conversations"), list):
        text_of(row, "conversations")  # says what is there instead
        raise DataError("not a list: 'conversations'", "correct or remove the row")
    turns = []
    for said in row["conversations"]:
        speaker, text = text_of(said, "from"), text_of(said, "value")
        if speaker not in _ROLES:
            raise DataError(f"unknown role: {speaker!r}", did_you_mean(speaker, _ROLES))
        turns.append(Turn(role=_ROLES[speaker], text=text))
    system, rest = ([turns[0]], turns[1:]) if turns and turns[0].role == "system" else ([], turns)
    while rest and rest[0].role == "assistant":
        rest = rest[1:]
    for number, turn in enumerate(rest):
        if turn.role != ("user", "assistant")[number % 2]:
            raise DataError(f"turns do not alternate: {' '.join(turn.role for turn in turns)[:80]}")
    if len(rest) < 2:
        raise DataError("no answer: the conversation has no question with an answer")
    return system + rest


def _names_or_none(source: ConversationSource, row: Any) -> list[str]:
    try:
        return source.image_names(row) if isinstance(row, dict) else []
    except DataError:
        return []
