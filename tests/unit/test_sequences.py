"""Records to token sequences: places of pictures, labels, lengths, errors."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setok.config import ChatConfig, SequenceConfig
from setok.data.chat import Message, message_of
from setok.data.prompts import conversation, exercises, without_condition
from setok.data.schema import EncodedImage, Mask, Record, Turn
from setok.data.sequences import UNTRAINED, SequenceBuilder, TokenSequence
from setok.data.special_tokens import text_tokenizer
from setok.errors import DataError
from tests.text_tokenizers import KINDS, tokenizer_of

IMAGE, TARGET = EncodedImage(data=b"x"), EncodedImage(data=b"y", role="target")
MASK = Mask(counts=[0, 4], height=2, width=2)
PLACES = 3


def builder(kind: str = "gpt2", *, template: str = "chatml", seed: int = 0, **changes: Any) -> SequenceBuilder:
    config = SequenceConfig(chat=ChatConfig(template=template), max_image_tokens=PLACES, **changes)
    return SequenceBuilder(text_tokenizer(tokenizer_of(kind)), config, seed=seed)


def record(task: str = "dialogue", *turns: str, **parts: Any) -> Record:
    roles = ("user", "assistant") * len(turns)
    told = [Turn(role=role, text=text) for role, text in zip(roles, turns, strict=False)]
    return Record(**{"id": "r7", "source": "s", "task": task, "conversation": told} | parts)


EDIT = record(
    "edit",
    *("<image>\nAdd a hat", "So: <image> Good?", "Mark it", "At <mask>.", "Again", "<image>"),
    images=[TARGET, IMAGE, TARGET],
    masks=[MASK],
)


def text(kind: str, ids: np.ndarray) -> str:
    return tokenizer_of(kind).decode(ids.tolist())


# ---------------------------------------------------------------- pictures, masks, labels


@pytest.mark.parametrize("kind", KINDS)
def test_places_of_pictures(kind: str) -> None:
    build = builder(kind, drop_condition=0.0)
    sequence = build.build(EDIT, epoch=0)
    start, end, pad = (build.tokenizer.special_id(token) for token in ("[Img]", "[/Img]", "<pad>"))
    assert sequence.images == (1, 0, 2)
    assert sequence.image_is_target == (False, True, True)
    for number in range(3):
        places = np.flatnonzero(sequence.image_index == number)
        assert places.tolist() == list(range(places[0], places[0] + PLACES))
        assert sequence.image_offset[places].tolist() == [0, 1, 2]
        assert (sequence.input_ids[places] == pad).all()
        assert (sequence.labels[places] == UNTRAINED).all()
        around = [places[0] - 1, places[-1] + 1]
        assert sequence.input_ids[around].tolist() == [start, end]
        learned = [start, end] if number else [UNTRAINED, UNTRAINED]
        assert sequence.labels[around].tolist() == learned
    elsewhere = sequence.image_index < 0
    assert (sequence.image_offset[elsewhere] == 0).all()
    assert (sequence.input_ids == start).sum() == (sequence.input_ids == end).sum() == 3
    assert sequence.num_masks == 1
    place = int(np.flatnonzero(sequence.mask_index == 0)[0])
    assert sequence.input_ids[place] == sequence.labels[place] == build.tokenizer.special_id("[Seg]")


def test_what_is_learned_of_pictures_and_words() -> None:
    sequence = builder(drop_condition=0.0).build(EDIT, epoch=0)
    assert text("gpt2", sequence.labels[sequence.labels >= 0]) == (
        "So: [Img][/Img] Good?<|im_end|>At [Seg].<|im_end|>[Img][/Img]<|im_end|>"
    )
    assert text("gpt2", sequence.input_ids).startswith(
        "<|im_start|>user\n[Img]<pad><pad><pad>[/Img]\nAdd a hat<|im_end|>"
    )


def test_a_dropped_condition() -> None:
    sequence = builder(drop_condition=1.0, template="plain").build(EDIT, epoch=0)
    shown = text("gpt2", sequence.input_ids).replace("<pad>", "")
    assert shown == "<s>[Img][/Img]\nSo: [Img][/Img] Good?</s>\nAt [Seg].</s>\n[Img][/Img]</s>"


def test_a_prompt_for_inference() -> None:
    build = builder()
    told = [message_of(turn) for turn in EDIT.conversation[:3]]
    prompt = build.prompt(told)
    whole = builder(drop_condition=0.0).build(EDIT, epoch=0)
    assert prompt.input_ids.tolist() == whole.input_ids[: len(prompt)].tolist()
    assert prompt.images == (0, 1)
    assert prompt.image_is_target == (False, False)
    assert (prompt.labels == UNTRAINED).all()
    assert text("gpt2", prompt.input_ids).endswith("Mark it<|im_end|>\n<|im_start|>assistant\n")


def test_a_mask_needs_a_picture() -> None:
    one = record("segment", "Draw and mark", "<image> <mask>", images=[TARGET], masks=[MASK])
    with pytest.raises(DataError, match="no picture"):
        builder().build(one, epoch=0)


# ---------------------------------------------------------------- lengths


TEXTS = st.text(st.sampled_from("ab dog is. <image>\n12É"), min_size=1, max_size=12).filter(str.strip)


TASKS = ("caption", "both", "classify", "image", "generate", "edit", "segment", "vqa", "text", "own")


def record_of(task: str, some: list[str], *, multiple_choice: bool) -> Record:
    if task == "own":
        return EDIT
    if task == "both":
        return record("caption", "<image>\nWhat?", "a dog", images=[IMAGE], caption=some[0])
    if task == "vqa":
        choices = list(dict.fromkeys(some)) if multiple_choice else []
        return record(task, "<image>\nWhat?", images=[IMAGE], answers=some, choices=choices)
    images = {"generate": [TARGET], "edit": [IMAGE, TARGET], "text": []}.get(task, [IMAGE])
    masks = [MASK] if task == "segment" else []
    return record(task, answers=some, concepts=some[:1], images=images, masks=masks)


@pytest.mark.parametrize("instructions", ["varied", "none"])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(
    task=st.sampled_from(TASKS),
    some=st.lists(TEXTS, min_size=1, max_size=3),
    multiple_choice=st.booleans(),
    template=st.sampled_from(["plain", "vicuna_v1", "llama2", "chatml"]),
)
def test_the_length_is_that_of_the_longest_sequence(
    kind: str, instructions: str, task: str, some: list[str], multiple_choice: bool, template: str
) -> None:
    one = record_of(task, some, multiple_choice=multiple_choice)
    build = builder(kind, template=template, instructions=instructions)
    length = build.length_of(one)
    built = [len(build.build(one, epoch=epoch)) for epoch in range(4)]
    assert max(built) <= length
    if task in ("own", "vqa", "text"):
        assert length == builder(kind, template=template, instructions=instructions, drop_condition=0.0).length_of(one)
        return
    own = [conversation(one, SequenceConfig(generation_share=0.0), seed=0, epoch=0).messages]
    every = [own if task == "both" else []] + [
        [exercise.conversation(wording, number).messages]
        + [without_condition(exercise.conversation(wording, number).messages)] * (exercise is drawn)
        for described, drawn in [exercises(one, build.config)]
        for exercise in (described, drawn)
        if exercise is not None and (task != "both" or exercise is drawn)
        for wording in range(len(exercise.wordings))
        for number in range(len(exercise.texts))
    ]
    whole = [
        len(build._sequence("", build.template.pieces(messages), (0,) * 9)) for group in every for messages in group
    ]
    assert length == max(whole)


def test_the_planned_length_of_what_gives_no_sequence() -> None:
    build = builder()
    assert build.planned_length(record("caption")) == 1
    assert build.planned_length(EDIT) == build.length_of(EDIT) > 1
    with pytest.raises(DataError):
        build.length_of(record("caption"))


def test_the_length_needs_no_pixels_and_no_room() -> None:
    long = record("caption", caption="a dog " * 100, images=[EncodedImage(data=b"")])
    build = builder(max_length=32)
    assert build.length_of(long) > 100
    with pytest.raises(DataError, match="too long"):
        build.build(long, epoch=0)


def test_too_long_says_by_how_much_and_what_to_change() -> None:
    length = len(builder(drop_condition=0.0).build(EDIT, epoch=0))
    exact = builder(drop_condition=0.0, max_length=length).build(EDIT, epoch=0)
    assert len(exact) == length
    with pytest.raises(
        DataError, match=f"r7 has {length} tokens, with 3 picture.s. of 3 places each, which is 4 more"
    ) as error:
        builder(drop_condition=0.0, max_length=length - 4).build(EDIT, epoch=0)
    for part in (f"max_length={length}", "max_image_tokens=1", "6"):
        assert part in error.value.remedy
    with pytest.raises(DataError, match="a prompt has"):
        builder(max_length=8).prompt([_message("a dog on grass " * 9)])
    far = record("dialogue", "x " * 60, "y")
    with pytest.raises(DataError) as error:
        builder(max_length=16).build(far, epoch=0)
    assert "max_image_tokens" not in error.value.remedy
    assert "turns" not in error.value.remedy


def _message(said: str) -> Any:
    return Message(role="user", parts=(said,))


def test_what_cannot_be_used_keeps_one_place() -> None:
    build = builder(max_length=16)
    sequence = build.build_or_stand_in(record("caption", caption="a dog " * 100, images=[IMAGE]), epoch=0)
    assert len(sequence) == 1
    assert sequence.labels.tolist() == [UNTRAINED]
    assert sequence.images == ()
    assert sequence.error.startswith("too long")
    assert build.build_or_stand_in(record("dialogue", "x", "y"), epoch=0).error == ""


# ---------------------------------------------------------------- text without conversation


def test_text_is_learned_as_it_stands() -> None:
    for one in (record("text", caption="A dog. </s> [Img]"), record("text", answers=["A dog. </s> [Img]"])):
        sequence = builder().build(one, epoch=0)
        assert text("gpt2", sequence.input_ids) == "<s>A dog. </s> [Img]</s>"
        assert (sequence.input_ids == 3).sum() == 1
        assert sequence.labels.tolist() == [UNTRAINED, *sequence.input_ids[1:].tolist()]
    with pytest.raises(DataError, match="needs a text"):
        builder().build(record("text"), epoch=0)


def test_long_text_gives_another_part_in_every_epoch() -> None:
    one = record("text", caption=" ".join(map(str, range(300))))
    build = builder(max_length=40)
    whole = builder(max_length=4000).build(one, epoch=0).input_ids.tolist()
    assert build.length_of(one) == 40
    starts = set()
    for epoch in range(20):
        part = build.build(one, epoch=epoch)
        assert len(part) == 40
        (start,) = [s for s in range(len(whole) - 39) if whole[s : s + 40] == part.input_ids.tolist()]
        assert part.labels.tolist() == [UNTRAINED, *part.input_ids[1:].tolist()]
        starts.add(start)
    assert len(starts) > 10


def test_the_same_in_every_process() -> None:
    one = record("caption", caption="a dog", images=[IMAGE])
    build = builder(seed=5)
    again = SequenceBuilder(pickle.loads(pickle.dumps(build.tokenizer)), build.config, seed=5)
    for epoch in (3, 1, 2):
        assert _same(build.build(one, epoch=epoch), again.build(one, epoch=epoch))
    assert any(not _same(build.build(one, epoch=0), build.build(one, epoch=epoch)) for epoch in range(1, 8))


def _same(a: TokenSequence, b: TokenSequence) -> bool:
    return a.input_ids.tolist() == b.input_ids.tolist() and a.labels.tolist() == b.labels.tolist()
