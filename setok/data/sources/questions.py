"""Questions about pictures, whatever data set they come from, as records.

With ``turns: each`` a question is a record; with ``all`` the questions on a picture are one conversation. In either, the
records of one picture stand next to each other, in the order in which the file first names the pictures.

    each    <image>\\nQUESTION → ANSWER        answers: all references; choices; provenance: question_id, image_id and more
    all     <image>\\nQ1 → A1, Q2 → A2, …      provenance: image_id, and ``questions``: JSON, for every question its id, text,
                                              answers, choices and the rest of what ``each`` keeps

The question is bare: how to answer (a short phrase, a letter) is part of a prompt, and prompts are put on in training.
What is answered in training is the most frequent reference, of equally frequent ones the first; of a question with
choices, the right choice. A question without an answer, as test splits have them, has only the user's turn and stays a
record of its own with ``all`` too; so does a bad question, which is reported and not quietly left out.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from setok.data.schema import IMAGE_SLOT, EncodedImage, Record, Turn
from setok.data.sources.base import BadRecord, Source
from setok.data.sources.pictures import PictureFolders, check_pictures
from setok.data.sources.rows import ROW_ERRORS, answers_of, problem_of
from setok.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question."""

    id: str
    text: str = ""
    image: str | None = None
    """Key of the picture in the source's folders; ``None`` for a question without one."""
    topic: str = ""
    """Questions on one picture, but of different topics, do not share a conversation."""
    answers: tuple[str, ...] = ()
    """References; with choices the right choice, then whatever else counts as an answer."""
    choices: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    """Goes into the provenance."""
    problem: str = ""
    """Why the question cannot be used."""

    @property
    def reply(self) -> str:
        """What is answered in training."""
        return self.answers[0] if self.choices else Counter(self.answers).most_common(1)[0][0]

    @property
    def is_answered(self) -> bool:
        """Whether the question can be a part of a conversation."""
        return bool(self.answers) and not self.problem

    @property
    def path(self) -> str:
        """What tells the question's conversation from others."""
        return "/".join(part for part in ("image", self.topic, self.image or "") if part)


class QuestionSource(Source):
    """Records of the questions that a subclass reads."""

    @abstractmethod
    def _questions(self) -> Iterable[Question]:
        """All questions of the split, in the order of the file."""

    @property
    @abstractmethod
    def _annotation_files(self) -> list[Path]:
        """Files that ``_questions`` reads."""

    @cached_property
    @abstractmethod
    def picture_files(self) -> PictureFolders:
        """Where the pictures are."""

    @property
    @abstractmethod
    def picture_origin(self) -> str:
        """Where to get the pictures."""

    def check(self) -> None:
        super().check()
        check_pictures(self.name, self.config, self.picture_files, self.picture_origin)

    def _files(self) -> Iterable[Path]:
        return [*self._annotation_files, *self.picture_files.folders]

    @cached_property
    def _entries(self) -> list[tuple[Question, ...]]:
        """The questions of every record."""
        pictures: dict[object, dict[str, list[Question]]] = {}
        for question in self._questions():
            # A question without picture is alone: (id,) is no picture's key.
            picture = (question.id,) if question.image is None else question.image
            pictures.setdefault(picture, {}).setdefault(question.topic, []).append(question)
        entries: list[tuple[Question, ...]] = []
        for topics in pictures.values():
            for questions in topics.values():
                if self.config.turns == "each":
                    entries += [(question,) for question in questions]
                    continue
                if answered := tuple(question for question in questions if question.is_answered):
                    entries.append(answered)
                entries += [(question,) for question in questions if not question.is_answered]
        return entries

    def _count(self) -> int:
        return len(self._entries)

    def _record(self, index: int) -> Record | BadRecord:
        questions = self._entries[index]
        first = questions[0]
        joined = self.config.turns == "all" and first.is_answered and first.image is not None
        record_id = f"{self.name}/{self.config.split}/{first.path if joined else first.id}"
        if first.problem:
            return BadRecord(id=record_id, reason=first.problem)
        try:
            images = [] if first.image is None else [EncodedImage(data=self.picture_files.read(first.image))]
        except DataError as error:
            return BadRecord(id=record_id, reason=error.problem)
        provenance = {} if first.image is None else {"image_id": first.image}
        if joined:
            provenance["questions"] = json.dumps([_row(question) for question in questions], ensure_ascii=False)
        else:
            provenance |= {"question_id": first.id, **first.facts}
        return Record(
            id=record_id,
            source=self.name,
            task="vqa",
            images=images,
            conversation=list(_turns(questions)),
            answers=[] if joined else list(first.answers),
            choices=[] if joined else list(first.choices),
            provenance=provenance,
        )


def _turns(questions: Iterable[Question]) -> Iterator[Turn]:
    for number, question in enumerate(questions):
        slot = f"{IMAGE_SLOT}\n" if number == 0 and question.image is not None else ""
        yield Turn(role="user", text=slot + question.text)
        if question.answers:
            yield Turn(role="assistant", text=question.reply)


def _row(question: Question) -> dict[str, Any]:
    row: dict[str, Any] = {"question_id": question.id, "question": question.text, "answers": question.answers}
    if question.choices:
        row["choices"] = question.choices
    return row | dict(question.facts)


def read_questions(
    rows: Iterable[Any], make: Callable[[Any], Question], id_key: str, prefix: str = ""
) -> Iterator[Question]:
    """The question of every row, or what is wrong with the row where ``make`` raises; ``prefix`` goes before its id then."""
    for number, row in enumerate(rows):
        try:
            yield make(row)
        except ROW_ERRORS as error:
            known = row.get(id_key) if isinstance(row, Mapping) else None
            yield Question(id=prefix + (f"row-{number}" if known is None else str(known)), problem=problem_of(error))


def require_answers(answers: tuple[str, ...]) -> tuple[str, ...]:
    """``answers``, if there are any.

    Raises:
        DataError: there are none.
    """
    if not answers:
        raise DataError("no answer: the list of answers is empty", "correct the row, or leave it out")
    return answers


def right_choice(choices: Iterable[Any], index: int) -> tuple[tuple[str, ...], str]:
    """The choices of a question as texts, and the right one.

    Raises:
        DataError: a choice is empty, or there is none with this index.
    """
    given = list(choices)
    texts = answers_of(given)
    if len(texts) != len(given) or not 0 <= index < len(texts):
        raise DataError(f"no answer: choice {index} of {given}", "correct the row, or leave it out")
    return texts, texts[index]
