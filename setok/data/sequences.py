"""A record as one sequence of tokens, with places for its pictures.

A picture has ``max_image_tokens`` places between ``[Img]`` and ``[/Img]``, because how many tokens it really has is known
only in the model. Of a picture that is to be drawn, ``[Img]`` and ``[/Img]`` are trained like words: the model itself
decides where a picture begins and ends.

How text is cut for the tokenizer: at special tokens and pictures, where what is trained begins and ends, and around what is
filled into a wording. In between, all text is tokenized at once. So ids are those of the whole conversation tokenized at
once, but where a token would reach over one of these borders: the border between prompt and answer must hold, because at
inference the prompt ends there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int32

from setok.config import SequenceConfig
from setok.data.chat import ChatTemplate, Message, Piece, Slot
from setok.data.prompts import (
    Exercise,
    RecordDraw,
    asks_for_image,
    conversation,
    lessons,
    without_condition,
)
from setok.data.schema import Record
from setok.data.text_tokenizer import Before, TextTokenizer
from setok.data.turns import SLACK, can_be_shuffled, shuffled
from setok.errors import DataError
from setok.vocabulary import IMAGE_END, IMAGE_START, SEGMENT

UNTRAINED = -100
"""The label where nothing is to be learned."""


@dataclass(frozen=True, kw_only=True)
class TokenSequence:
    """A sample in tokens; its pictures are still to be decoded."""

    id: str
    input_ids: Int32[np.ndarray, " length"]
    """The padding id at places of pictures."""
    labels: Int32[np.ndarray, " length"]
    """The id where it is to be learned, at the place of the id itself; else ``UNTRAINED``."""
    image_index: Int32[np.ndarray, " length"]
    """Which of ``images`` a place belongs to, else -1."""
    image_offset: Int32[np.ndarray, " length"]
    """Which token of the picture, 0 elsewhere."""
    mask_index: Int32[np.ndarray, " length"]
    """At a ``[Seg]`` which of the record's masks it means, else -1."""
    images: tuple[int, ...] = ()
    """Which pictures of the record, in the order of their places."""
    image_is_target: tuple[bool, ...] = ()
    error: str = ""
    """Why the record could not be made a sequence: then this is one place that stands in for it, and is not trained."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_masks(self) -> int:
        return int((self.mask_index >= 0).sum())


class SequenceBuilder:
    """Makes sequences of records; the same record gives the same sequence in the same epoch, in every process.

    Args:
        tokenizer: with ``[Img]``, ``[/Img]`` and ``[Seg]``.
        config: template, wordings and lengths.
        seed: of the run.

    Raises:
        ConfigError: the tokenizer lacks tokens, or the chat template cannot be used; see ``ChatTemplate``.
    """

    def __init__(self, tokenizer: TextTokenizer, config: SequenceConfig, *, seed: int) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.seed = seed
        self.template = ChatTemplate(config.chat, tokenizer)
        self.pad_id = tokenizer.pad_id
        self._image_start, self._image_end, self._segment = (
            tokenizer.special_id(token) for token in (IMAGE_START, IMAGE_END, SEGMENT)
        )
        self._longest: dict[Exercise, tuple[list[int], int]] = {}

    def build(self, record: Record, *, epoch: int) -> TokenSequence:
        """The sequence of a record in an epoch. Of a text without conversation that is too long, a part of it.

        Raises:
            DataError: it is too long, or the record lacks what its task needs, or its slots differ in number from its
                images or masks; the part of the text before ``:`` is the kind.
        """
        if _is_document(record):
            return self._part(record, epoch=epoch)
        chosen = conversation(record, self.config, seed=self.seed, epoch=epoch)
        sequence = self._sequence(record.id, self.template.pieces(chosen.messages), chosen.images)
        self._check_length(sequence, num_turns=len(chosen.messages))
        if sequence.num_masks and all(sequence.image_is_target):
            raise DataError("no picture: a mask is a region of an input image, and there is none", "correct the record")
        return sequence

    def build_or_stand_in(self, record: Record, *, epoch: int) -> TokenSequence:
        """As ``build``; a record that gives no sequence gives one place that is not trained, with the reason."""
        try:
            return self.build(record, epoch=epoch)
        except DataError as error:
            return self.stand_in(record.id, error.problem)

    @functools.cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens at which what the assistant says ends: the template's end of a turn, and the end of the text."""
        ends = dict.fromkeys((self.template.end_of_turn, self.tokenizer.eos_token))
        return tuple(self.tokenizer.special_id(token) for token in ends if token)

    def stand_in(self, record_id: str, error: str) -> TokenSequence:
        """One place that is not trained, for a record that cannot be used."""
        return TokenSequence(
            id=record_id,
            input_ids=np.full(1, self.pad_id, np.int32),
            labels=np.full(1, UNTRAINED, np.int32),
            image_index=np.full(1, -1, np.int32),
            image_offset=np.zeros(1, np.int32),
            mask_index=np.full(1, -1, np.int32),
            error=error,
        )

    def prompt(self, messages: Sequence[Message]) -> TokenSequence:
        """A conversation up to where the assistant is to speak; picture n stands in the n-th image slot.

        Raises:
            DataError: it is too long, or the template refuses the turns.
        """
        pieces = self.template.pieces(messages, add_generation_prompt=True)
        slots = sum(piece.content is Slot.IMAGE for piece in pieces)
        sequence = self._sequence("", pieces, tuple(range(slots)))
        self._check_length(sequence, num_turns=len(messages))
        return replace(
            sequence, labels=np.full_like(sequence.labels, UNTRAINED), image_is_target=(False,) * len(sequence.images)
        )

    def answered(self, messages: Sequence[Message], answer: str) -> TokenSequence:
        """The prompt of ``messages`` with an answer behind it, of which alone, and of the token that ends it, there are labels.

        Raises:
            DataError: as ``prompt``.
        """
        said = Message(role="assistant", parts=(answer,) if answer else ())
        prompt = self.prompt(messages)
        sequence = self._sequence("", self.template.pieces([*messages, said]), prompt.images)
        self._check_length(sequence, num_turns=len(messages) + 1)
        labels = sequence.labels.copy()
        labels[: len(prompt)] = UNTRAINED
        return replace(sequence, labels=labels, image_is_target=(False,) * len(sequence.images))

    # ------------------------------------------------------------ lengths

    def length_of(self, record: Record) -> int:
        """Tokens of the longest sequence that a record gives in any epoch; its pictures are not decoded.

        It may be more than ``max_length``: then no row has room for the record.

        Raises:
            DataError: as ``build``, but for the length.
        """
        if _is_document(record):
            return min(len(self._document(record)), self.config.max_length)
        lengths = []
        for lesson in lessons(record, self.config):
            if isinstance(lesson, Exercise):
                lengths.append(self._longest_of(lesson))
            elif lesson is not None:
                lengths += [self._length(lesson.messages), self._length_without_condition(lesson.messages)]
        return max(lengths) + (SLACK if self.config.shuffle_turns and can_be_shuffled(record) else 0)

    def arranged(self, record: Record, *, epoch: int) -> Record:
        """The record as it is trained on in an epoch: its questions in another order, where the settings ask for that."""
        return shuffled(record, seed=self.seed, epoch=epoch) if self.config.shuffle_turns else record

    def planned_length(self, record: Record) -> int:
        """As ``length_of``; 1 for a record that gives no sequence: that much stands in for it."""
        try:
            return self.length_of(record)
        except DataError:
            return 1

    def _longest_of(self, exercise: Exercise) -> int:
        """Tokens of the longest conversation of an exercise.

        A text is tokenized apart from its wording, but for the space before it. So of all wordings that set the text
        between the same characters, the longest one is so for every text.
        """
        sample = replace(exercise, texts=("x",))
        if sample not in self._longest:
            by_setting: dict[tuple[str, bool], list[tuple[int, int]]] = {}
            without = 0
            for index, (asked, _) in enumerate(sample.wordings):
                before, _, after = asked.partition("{}")
                messages = sample.conversation(index, 0).messages
                by_setting.setdefault((before[-1:], bool(after)), []).append((self._length(messages), index))
                without = max(without, self._length_without_condition(messages))
            self._longest[sample] = [max(group)[1] for group in by_setting.values()], without
        wordings, without = self._longest[sample]
        texts = range(len(exercise.texts))
        lengths = (
            self._length(exercise.conversation(wording, text).messages) for wording in wordings for text in texts
        )
        return max(*lengths, without)

    def _length_without_condition(self, messages: Sequence[Message]) -> int:
        if not self.config.drop_condition or not asks_for_image(messages):
            return 0
        return self._length(without_condition(messages))

    def _length(self, messages: Sequence[Message]) -> int:
        lengths = {Slot.IMAGE: self.config.max_image_tokens + 2, Slot.MASK: 1}
        runs = self._runs(self.template.pieces(messages))
        return sum(lengths[run] if isinstance(run, Slot) else len(run) for run, _ in runs)

    def _check_length(self, sequence: TokenSequence, *, num_turns: int) -> None:
        limit, places, pictures = self.config.max_length, self.config.max_image_tokens, len(sequence.images)
        over = len(sequence) - limit
        if over <= 0:
            return
        problem = (
            f"too long: {sequence.id or 'a prompt'} has {len(sequence)} tokens, with {pictures} picture(s) of {places} places"
            f" each, which is {over} more than sequence.max_length={limit}"
        )
        if not sequence.id:
            raise DataError(
                problem, "shorten it, or give fewer turns or pictures: the model was trained on no longer ones"
            )
        remedies = [f"set sequence.max_length={len(sequence)}"]
        fewer = places - -(-over // pictures) if pictures else 0
        if fewer >= 1:
            remedies.append(f"sequence.max_image_tokens={fewer}")
        if num_turns > 2:
            remedies.append(f"fewer turns in a conversation (this one has {num_turns})")
        raise DataError(problem, ", or ".join(remedies))

    # ------------------------------------------------------------ tokens

    def _sequence(self, record_id: str, pieces: Sequence[Piece], images: tuple[int, ...]) -> TokenSequence:
        """Columns of all pieces, one after the other."""
        ids: list[int] = []
        labels: list[int] = []
        image_starts: list[int] = []
        mask_places: list[int] = []
        is_target: list[bool] = []
        for run, trained in self._runs(pieces):
            if run is Slot.IMAGE:
                image_starts.append(len(ids) + 1)
                is_target.append(trained)
                places = self.config.max_image_tokens
                new = [self._image_start, *[self.pad_id] * places, self._image_end]
                learned = [self._image_start, *[UNTRAINED] * places, self._image_end]
            elif run is Slot.MASK:
                mask_places.append(len(ids))
                new = learned = [self._segment]
            else:
                new = learned = list(run)
            ids += new
            labels += learned if trained else [UNTRAINED] * len(new)
        image_index, image_offset, mask_index = (np.full(len(ids), value, np.int32) for value in (-1, 0, -1))
        for number, start in enumerate(image_starts):
            stop = start + self.config.max_image_tokens
            image_index[start:stop] = number
            image_offset[start:stop] = np.arange(self.config.max_image_tokens)
        mask_index[mask_places] = np.arange(len(mask_places))
        return TokenSequence(
            id=record_id,
            input_ids=np.array(ids, np.int32),
            labels=np.array(labels, np.int32),
            image_index=image_index,
            image_offset=image_offset,
            mask_index=mask_index,
            images=images,
            image_is_target=tuple(is_target),
        )

    def _runs(self, pieces: Sequence[Piece]) -> Iterator[tuple[list[int] | Slot, bool]]:
        """Ids of texts and special tokens, and slots, in order; each with whether it is trained."""
        special = self.tokenizer.special_tokens
        joined = _joined(pieces)
        for index, piece in enumerate(joined):
            if isinstance(piece.content, Slot):
                yield piece.content, piece.trained
                continue
            if piece.is_token:
                yield [special[piece.content].id], piece.trained
                continue
            text = piece.content
            left = joined[index - 1] if index else None
            right = joined[index + 1] if index + 1 < len(joined) else None
            if left is not None and left.is_token and special[str(left.content)].strips_right:
                text = text.lstrip()
            if right is not None and right.is_token and special[str(right.content)].strips_left:
                text = text.rstrip()
            before: Before = "nothing" if left is None else "text" if _is_text(left) else "token"
            if text:
                yield self.tokenizer.encode(text, before=before), piece.trained

    # ------------------------------------------------------------ text without conversation

    def _document(self, record: Record) -> list[int]:
        """Ids of a text between the tokens of its beginning and end, as far as the tokenizer has them."""
        text = record.caption or next(iter(record.answers), "")
        if not text.strip():
            raise DataError("nothing to learn from: a record of task 'text' needs a text", "leave it out of this stage")
        start, end = (
            [self.tokenizer.special_id(token)] if token else []
            for token in (self.tokenizer.bos_token, self.tokenizer.eos_token)
        )
        return [*start, *self.tokenizer.encode(text, before="token" if start else "nothing"), *end]

    def _part(self, record: Record, *, epoch: int) -> TokenSequence:
        """A text to continue: all of it, or where it is too long another part in every epoch."""
        ids = np.array(self._document(record), np.int32)
        spare = max(0, len(ids) - self.config.max_length)
        start = RecordDraw(record, seed=self.seed, epoch=epoch).part(spare + 1)
        ids = ids[start : start + self.config.max_length]
        labels = ids.copy()
        labels[0] = UNTRAINED  # nothing stands before it
        nothing = np.full(len(ids), -1, np.int32)
        return TokenSequence(
            id=record.id,
            input_ids=ids,
            labels=labels,
            image_index=nothing,
            image_offset=np.zeros(len(ids), np.int32),
            mask_index=nothing.copy(),
        )


def _is_document(record: Record) -> bool:
    return record.task == "text" and not record.conversation


def _is_text(piece: Piece) -> bool:
    return isinstance(piece.content, str) and not piece.is_token


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Pieces with neighbouring texts made one, where they may be tokenized together."""
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        together = last is not None and _is_text(last) and _is_text(piece) and not piece.stands_alone
        if last is not None and together and last.trained == piece.trained:
            joined[-1] = replace(last, content=f"{last.content}{piece.content}")
        else:
            joined.append(piece)
    return joined
