"""Records to conversations: every task, the words around it, and shares that come out as configured."""

from __future__ import annotations

import random

import numpy as np
import pytest

from setok.config import SequenceConfig
from setok.data import wordings
from setok.data.chat import Message, Slot
from setok.data.prompts import Conversation, conversation, request, without_condition
from setok.data.schema import EncodedImage, Mask, Record, Turn
from setok.errors import ConfigError, DataError

IMAGE = EncodedImage(data=b"x")
TARGET = EncodedImage(data=b"y", role="target")
MASK = Mask(counts=[0, 4], height=2, width=2)
EPOCHS = 400


def record(task: str, *, turns: list[tuple[str, str]] | None = None, **parts: object) -> Record:
    conversation = [Turn(role=role, text=text) for role, text in turns or []]
    return Record(**{"id": "r", "source": "s", "task": task, "conversation": conversation, "images": [IMAGE]} | parts)


def settings(**changes: object) -> SequenceConfig:
    return SequenceConfig(**{"drop_condition": 0.0} | changes)


def said(found: Conversation) -> list[tuple[str, str]]:
    """Roles and texts, slots as in a record."""
    return [
        (one.role, "".join(part.value if isinstance(part, Slot) else part for part in one.parts))
        for one in found.messages
    ]


def epochs(one: Record, config: SequenceConfig, *, count: int = EPOCHS, seed: int = 3) -> list[Conversation]:
    return [conversation(one, config, seed=seed, epoch=epoch) for epoch in range(count)]


# ---------------------------------------------------------------- records without conversation


def test_captions_in_both_directions() -> None:
    one = record("caption", caption="a dog", answers=["a dog", "the <image> of </s> a dog"])
    found = epochs(one, settings(generation_share=0.25))
    drawn = [each for each in found if Slot.IMAGE in each.messages[1].parts]
    assert 0.18 < len(drawn) / EPOCHS < 0.32
    described = [each for each in found if each not in drawn]
    expected = {(asked, answer) for asked, _ in wordings.CAPTION for answer in ("a dog", "the <image> of </s> a dog")}
    assert {(said(each)[0][1], said(each)[1][1]) for each in described} == expected
    texts = ("a dog", "the <image> of </s> a dog")
    assert {said(each)[0][1] for each in drawn} == {
        asked.replace("{}", text) for asked, _ in wordings.GENERATE for text in texts
    }
    for each in found:
        assert each.images == (0,)
        slots = [part for message in each.messages for part in message.parts if isinstance(part, Slot)]
        assert slots == [Slot.IMAGE], "a caption's own <image> is text"


@pytest.mark.parametrize(("share", "role"), [(0.0, "user"), (1.0, "assistant")])
@pytest.mark.parametrize("task", ["caption", "classify"])
def test_one_direction_only(share: float, role: str, task: str) -> None:
    one = record(task, caption="a dog", concepts=["dog"])
    for each in epochs(one, settings(generation_share=share), count=20):
        assert [message.role for message in each.messages if Slot.IMAGE in message.parts] == [role]


def test_classes() -> None:
    one = record("classify", concepts=["tench"], answers=["tench, Tinca tinca"])
    found = epochs(one, settings())
    assert {said(each)[1][1] for each in found} == {"tench", "<image>"}
    asked = {said(each)[0][1] for each in found}
    assert asked == {text for text, _ in wordings.CLASSIFY} | {
        text.replace("{}", "tench") for text, _ in wordings.GENERATE_CLASS
    }


def test_pictures_alone_are_drawn_without_a_condition() -> None:
    for each in epochs(record("image"), settings(), count=5):
        assert said(each) == [("user", ""), ("assistant", "<image>")]


def test_generation_edit_and_segmentation_without_conversation() -> None:
    drawn = epochs(record("generate", caption="a dog", images=[TARGET]), settings())
    assert {said(each)[0][1] for each in drawn} == {text.replace("{}", "a dog") for text, _ in wordings.GENERATE}
    edited = epochs(record("edit", caption="add a hat", images=[TARGET, IMAGE]), settings())
    assert {said(each)[0][1] for each in edited} == {text.replace("{}", "add a hat") for text, _ in wordings.EDIT}
    assert {each.images for each in edited} == {(1, 0)}
    assert {said(each)[1][1] for each in edited} == {"<image>"}
    marked = epochs(record("segment", answers=["the dog", "left dog"], masks=[MASK]), settings())
    assert {said(each)[0][1] for each in marked} == {
        asked.replace("{}", text) for asked, _ in wordings.SEGMENT for text in ("the dog", "left dog")
    }
    assert {each.messages[1].parts for each in marked} == {(Slot.MASK,)}


def test_no_words_around() -> None:
    config = settings(instructions="none")
    found = {str(said(each)) for each in epochs(record("caption", caption="a dog"), config)}
    assert found == {
        str([("user", "<image>"), ("assistant", "a dog")]),
        str([("user", "a dog"), ("assistant", "<image>")]),
    }
    marked = conversation(record("segment", caption="it", masks=[MASK]), config, seed=0, epoch=0)
    assert said(marked) == [("user", "<image>\nit"), ("assistant", "<mask>")]
    edited = conversation(record("edit", caption="cut", images=[IMAGE, TARGET]), config, seed=0, epoch=0)
    assert said(edited) == [("user", "<image>\ncut"), ("assistant", "<image>")]


@pytest.mark.parametrize(
    ("one", "missing"),
    [
        (record("caption"), "a caption"),
        (record("caption", caption="x", images=[]), "an image"),
        (record("classify"), "a class name"),
        (record("image", images=[]), "image"),
        (record("generate", caption="x"), "a target image"),
        (record("edit", caption="x"), "one target image"),
        (record("edit", images=[IMAGE, TARGET]), "an instruction"),
        (record("segment", caption="x"), "one mask"),
        (record("vqa", answers=["x"]), "no conversation"),
        (record("dialogue", turns=[("user", "<image>")]), "says nothing"),
        (record("dialogue", turns=[("user", "<image> <image>"), ("assistant", "x")]), "2 slots, 1 input images"),
        (record("dialogue", turns=[("user", "a"), ("assistant", "<mask>")], images=[]), "1 slots, 0 masks"),
    ],
)
def test_what_is_missing_is_said(one: Record, missing: str) -> None:
    with pytest.raises(DataError, match=missing) as error:
        conversation(one, settings(), seed=0, epoch=0)
    assert "record" in error.value.remedy


# ---------------------------------------------------------------- records with a conversation


def test_a_conversation_is_kept() -> None:
    turns = [
        ("system", "Be kind."),
        ("user", "Compare <image> and <image>"),
        ("assistant", "Here: <image>"),
        ("user", "And <image>?"),
        ("assistant", "No."),
    ]
    one = record("dialogue", turns=turns, images=[IMAGE, TARGET, IMAGE, IMAGE])
    found = conversation(one, settings(), seed=0, epoch=0)
    assert said(found) == turns
    assert found.images == (0, 2, 1, 3)


def test_questions_ask_for_short_answers() -> None:
    asked = "<image>\nWhat colour?"
    short = f"{asked}\n{wordings.SHORT_ANSWER}"
    bare = record("vqa", turns=[("user", asked)], answers=["red", "blue", "blue"])
    assert said(conversation(bare, settings(), seed=0, epoch=0)) == [("user", short), ("assistant", "blue")]
    assert said(conversation(bare, settings(short_answer=False), seed=0, epoch=0))[0] == ("user", asked)
    given = record("vqa", turns=[("user", asked), ("assistant", "red"), ("user", short[8:]), ("assistant", "no")])
    assert said(conversation(given, settings(), seed=0, epoch=0)) == [
        ("user", short),
        ("assistant", "red"),
        ("user", short[8:]),
        ("assistant", "no"),
    ]
    other = record("dialogue", turns=[("user", asked), ("assistant", "red")])
    assert said(conversation(other, settings(), seed=0, epoch=0))[0] == ("user", asked)
    trailing = record("vqa", turns=[("user", "What colour?\n<image>")], answers=["red"])
    assert said(conversation(trailing, settings(), seed=0, epoch=0))[0][1] == (
        f"What colour?\n<image>\n{wordings.SHORT_ANSWER}"
    )


@pytest.mark.parametrize("answered", [False, True])
def test_multiple_choice(answered: bool) -> None:
    turns = [("user", "<image>\nWhich?"), *([("assistant", "a cat")] if answered else [])]
    one = record("vqa", turns=turns, choices=["a dog", "a cat", "a cow"], answers=["a cat"])
    lines = "<image>\nWhich?\nA. a dog\nB. a cat\nC. a cow"
    assert said(conversation(one, settings(), seed=0, epoch=0)) == [
        ("user", f"{lines}\n{wordings.LETTER}"),
        ("assistant", "B"),
    ]
    assert said(conversation(one, settings(short_answer=False), seed=0, epoch=0))[0] == ("user", lines)


def test_choices_that_make_no_sense() -> None:
    one = record("vqa", turns=[("user", "<image>")], choices=["a", "b"], answers=["c"])
    with pytest.raises(DataError, match="no right choice"):
        conversation(one, settings(), seed=0, epoch=0)
    many = [str(number) for number in range(27)]
    with pytest.raises(DataError, match="27"):
        conversation(
            record("vqa", turns=[("user", "<image>")], choices=many, answers=["1"]), settings(), seed=0, epoch=0
        )


def test_a_caption_with_a_conversation_goes_both_ways() -> None:
    turns = [("user", "Tell me.\n<image>"), ("assistant", "a dog")]
    one = record("caption", turns=turns, caption="a dog", answers=["a dog"])
    found = [said(each) for each in epochs(one, settings(generation_share=0.3))]
    assert 0.2 < 1 - found.count(turns) / EPOCHS < 0.4
    drawn = {text.replace("{}", "a dog") for text, _ in wordings.GENERATE}
    assert {each[0][1] for each in found if each != turns} == drawn
    assert [said(each) for each in epochs(one, settings(generation_share=0.0), count=20)] == [turns] * 20
    assert turns not in [said(each) for each in epochs(one, settings(generation_share=1.0), count=20)]


def test_what_is_asked_in_an_evaluation() -> None:
    config = SequenceConfig(drop_condition=1.0, generation_share=1.0)

    def asked(one: Record, *, draw: bool = False) -> tuple[list[tuple[str, str]], tuple[int, ...]]:
        found = request(one, config, draw=draw)
        return said(found), found.images

    question = "<image>\nWhat?"
    short = f"{question}\n{wordings.SHORT_ANSWER}"
    for turns in ([("user", question)], [("user", question), ("assistant", "red")]):
        assert asked(record("vqa", turns=turns)) == ([("user", short)], (0,))
    choose = record("vqa", turns=[("user", question)], choices=["a", "b"])
    assert asked(choose) == ([("user", f"{question}\nA. a\nB. b\n{wordings.LETTER}")], (0,))
    caption = record("caption", caption="a dog")
    assert asked(caption) == ([("user", wordings.CAPTION[0][0])], (0,))
    assert asked(caption, draw=True) == ([("user", wordings.GENERATE[0][0].replace("{}", "a dog"))], ())
    told = record("caption", turns=[("user", question), ("assistant", "x")], caption="a dog")
    assert asked(told) == ([("user", question)], (0,))
    assert asked(told, draw=True)[1] == ()
    edit = record("edit", turns=[("user", "<image> hat"), ("assistant", "<image>")], images=[TARGET, IMAGE])
    assert asked(edit) == ([("user", "<image> hat")], (1,))
    assert asked(record("segment", caption="it", masks=[MASK]))[1] == (0,)


# ---------------------------------------------------------------- dropped conditions, and chance


def test_conditions_are_dropped_as_often_as_configured() -> None:
    one = record("generate", caption="a dog", images=[TARGET])
    found = [said(each)[0][1] for each in epochs(one, SequenceConfig(), count=2000)]
    assert 0.07 < found.count("") / 2000 < 0.13
    assert "" not in [said(each)[0][1] for each in epochs(one, settings())]
    edit = record(
        "edit", turns=[("user", "<image>\nAdd a hat"), ("assistant", "Done: <image>")], images=[IMAGE, TARGET]
    )
    dropped = conversation(edit, settings(drop_condition=1.0), seed=0, epoch=0)
    assert said(dropped) == [("user", "<image>"), ("assistant", "Done: <image>")]
    described = conversation(
        record("caption", caption="a dog"), settings(drop_condition=1.0, generation_share=0.0), seed=0, epoch=0
    )
    assert said(described)[1] == ("assistant", "a dog")
    assert Slot.IMAGE in described.messages[0].parts and len(described.messages[0].parts) == 2


def test_the_unconditional_request_keeps_system_and_pictures() -> None:
    turns = (
        Message(role="system", parts=("Be kind.",)),
        Message(role="user", parts=("Draw", Slot.IMAGE, " anew")),
        Message(role="assistant", parts=("So: ", Slot.IMAGE)),
    )
    assert without_condition(turns) == (turns[0], Message(role="user", parts=(Slot.IMAGE,)), turns[2])


def test_chance_depends_on_seed_epoch_and_record_alone() -> None:
    one, other = record("caption", caption="a dog"), record("caption", caption="a dog", id="q")
    first = epochs(one, SequenceConfig())
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - to show that it is not used
    backwards = [conversation(one, SequenceConfig(), seed=3, epoch=epoch) for epoch in reversed(range(EPOCHS))]
    assert first == backwards[::-1]
    for different in (epochs(one, SequenceConfig(), seed=4), epochs(other, SequenceConfig())):
        assert sum(a == b for a, b in zip(first, different, strict=True)) < EPOCHS / 2
    moved = record("caption", caption="a dog", source="elsewhere")
    assert epochs(moved, SequenceConfig()) != first


def test_a_row_without_room_for_a_picture_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_image_tokens=64") as error:
        SequenceConfig(max_length=64)
    assert "68" in error.value.remedy
    assert SequenceConfig(max_length=68).max_length == 68
