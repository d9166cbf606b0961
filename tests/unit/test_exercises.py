"""Stored records as questions: prompts as in training, and what would have been right."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from setok.config import SequenceConfig
from setok.data.chat import Slot
from setok.data.schema import EncodedImage, Mask, Record, Turn
from setok.errors import DataError
from setok.predictor.exercises import apart, questions_of, right_answers, samples_of, tasks_of

BARE = SequenceConfig.model_validate({"instructions": "none", "short_answer": False})
IMAGE = EncodedImage(data=b"x")
MASK = Mask(counts=[4], height=2, width=2)


def talk(*texts: str) -> list[Turn]:
    return [Turn(role="assistant" if number % 2 else "user", text=text) for number, text in enumerate(texts)]


def test_a_captioned_picture_is_described_and_drawn() -> None:
    record = Record(id="c", source="s", task="caption", images=[IMAGE], caption="a dog")
    assert tasks_of(record) == ("caption", "generate")
    (describe,) = questions_of(record, "caption", BARE)
    assert describe.images == (0,)
    assert describe.target is None
    (draw,) = questions_of(record, "generate", BARE)
    assert draw.images == ()
    assert draw.target == 0
    assert draw.text == "a dog"


def test_the_last_question_with_what_came_before() -> None:
    record = Record(
        id="q", source="s", task="vqa", images=[IMAGE], conversation=talk("<image>\nOne?", "1", "Two?", "2")
    )
    (question,) = questions_of(record, "vqa", BARE)
    assert [message.role for message in question.messages] == ["user", "assistant", "user"]
    assert question.text == "Two?"
    assert question.images == (0,)


def test_every_phrase_is_asked_by_itself() -> None:
    turns = talk("<image>\nSegment the dog", "<mask>", "Segment the cat", "<mask>")
    record = Record(id="m", source="s", task="segment", images=[IMAGE], masks=[MASK, MASK], conversation=turns)
    first, second = questions_of(record, "segment", BARE)
    assert (first.mask, second.mask) == (0, 1)
    assert first.text == "Segment the dog"
    assert second.messages[0].parts == (Slot.IMAGE, "\nSegment the cat")
    assert second.images == (0,)


def test_a_phrase_without_conversation() -> None:
    record = Record(id="m", source="s", task="segment", images=[IMAGE], masks=[MASK], caption="the dog")
    (question,) = questions_of(record, "segment", BARE)
    assert question.mask == 0
    assert question.text == "the dog"


def test_the_picture_that_an_edit_should_give() -> None:
    images = [IMAGE, EncodedImage(data=b"1", role="target"), EncodedImage(data=b"2", role="target")]
    turns = talk("<image>\nadd a hat", "<image>", "make it red", "<image>")
    record = Record(id="e", source="s", task="edit", images=images, conversation=turns)
    (question,) = questions_of(record, "edit", BARE)
    assert question.images == (0, 1)
    assert question.target == 2


def test_what_cannot_be_asked() -> None:
    assert tasks_of(Record(id="t", source="s", task="text", caption="words")) == ()
    with pytest.raises(DataError):
        questions_of(Record(id="c", source="s", task="caption", images=[IMAGE]), "caption", BARE)


def test_questions_of_one_conversation_are_those_of_several_records() -> None:
    rows = [
        {"question_id": "7", "question": "One?", "answers": ["1", "2"], "question_type": "one"},
        {"question_id": "8", "question": "Two?", "answers": ["b", "x"], "choices": ["a", "b"]},
    ]
    facts = {"image_id": "5", "questions": json.dumps(rows)}
    turns = talk("<image>\nOne?", "1", "Two?", "b")
    record = Record(id="q", source="s", task="vqa", images=[IMAGE], conversation=turns, provenance=facts)
    first, second = apart(record)
    assert first.provenance == {"image_id": "5", "question_id": "7", "question_type": "one"}
    assert (second.answers, second.choices, second.id) == (["b", "x"], ["a", "b"], "q#8")
    (_, one), (part, two) = samples_of(record, "vqa", BARE)
    assert (one.text, two.text) == ("One?", "Two?") and one.messages[0].parts == (Slot.IMAGE, "\nOne?")
    assert part == second and len(two.messages) == 1
    ((direct, question),) = samples_of(record, "direct", BARE)
    assert (direct.answers, direct.choices, question.task) == (["x"], [], "vqa")
    alone = Record(id="a", source="s", task="vqa", images=[IMAGE], conversation=talk("<image>\nOne?"), answers=["1"])
    assert apart(alone) == [alone]


def test_phrases_of_one_conversation_are_those_of_several_records() -> None:
    turns = talk("<image>\nSegment the dog", "<mask>", "Segment the cat", "<mask>")
    other = Mask(counts=[0, 4], height=2, width=2)
    facts = {"phrases": json.dumps([{"sent_id": "1"}, {"sent_id": "2"}])}
    record = Record(
        id="m", source="s", task="segment", images=[IMAGE], masks=[MASK, other], conversation=turns, provenance=facts
    )
    found = samples_of(record, "segment", BARE)
    assert [part.provenance["sent_id"] for part, _ in found] == ["1", "2"]
    assert [part.masks for part, _ in found] == [[MASK], [other]]
    assert [question.text for _, question in found] == ["Segment the dog", "Segment the cat"]
    assert {question.mask for _, question in found} == {0}


def test_who_knows_the_right_answer() -> None:
    asked = talk("<image>\nOne?", " 1 ")
    record = Record(id="q", source="s", task="vqa", images=[IMAGE], conversation=asked)
    assert right_answers(record) == ["1"]
    assert right_answers(replace(record, answers=["one"])) == ["one"]
    assert right_answers(replace(record, conversation=asked[:1])) == []
