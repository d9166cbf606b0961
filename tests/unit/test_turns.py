"""Questions in another order every epoch: all there, pictures first, masks with their phrases, and never longer than planned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setok.config import SequenceConfig
from setok.data.packer import Packer
from setok.data.schema import EncodedImage, Mask, Record, Turn
from setok.data.sequences import SequenceBuilder
from setok.data.text_tokenizer import TextTokenizer
from setok.data.turns import can_be_shuffled, shuffled
from setok.data.word_tokenizer import build_word_tokenizer

IMAGE = EncodedImage(data=b"x")


def questions(number: int, *, pictures: int = 1, name: str = "q") -> Record:
    turns = []
    for i in range(number):
        lead = "<image>\n" * pictures if i == 0 else ""
        turns += [Turn(role="user", text=f"{lead}what is {i}?"), Turn(role="assistant", text=f"a {i}")]
    return Record(id=name, source="s", task="vqa", images=[IMAGE] * pictures, conversation=turns)


def phrases(counts: list[int]) -> Record:
    turns, masks = [], []
    for i, count in enumerate(counts):
        lead = "<image>\n" if i == 0 else ""
        turns += [Turn(role="user", text=f"{lead}mark {i}"), Turn(role="assistant", text="<mask>" * count)]
        masks += [Mask(counts=[i], height=1, width=1)] * count
    return Record(id="m", source="s", task="segment", images=[IMAGE], conversation=turns, masks=masks)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.integers(1, 3), st.integers(0, 99), st.integers(0, 9))
def test_the_same_questions_in_another_order(number: int, pictures: int, seed: int, epoch: int) -> None:
    record = questions(number, pictures=pictures)
    other = shuffled(record, seed=seed, epoch=epoch)
    assert other == shuffled(record, seed=seed, epoch=epoch)
    other.check()
    lead = "<image>\n" * pictures
    assert other.conversation[0].text.startswith(lead)
    pairs = [
        (asked.text.removeprefix(lead), said.text)
        for asked, said in zip(other.conversation[::2], other.conversation[1::2], strict=True)
    ]
    assert sorted(pairs) == [(f"what is {i}?", f"a {i}") for i in range(number)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=6), st.integers(0, 9))
def test_masks_go_with_their_phrases(counts: list[int], epoch: int) -> None:
    other = shuffled(phrases(counts), seed=1, epoch=epoch)
    expected = []
    for asked, said in zip(other.conversation[::2], other.conversation[1::2], strict=True):
        expected += [[int(asked.text.split()[-1])]] * said.text.count("<mask>")
    assert [mask.counts for mask in other.masks] == expected


def test_every_question_comes_first_as_often() -> None:
    record = questions(4)
    first = [shuffled(record, seed=0, epoch=epoch).conversation[1].text for epoch in range(400)]
    assert min(first.count(f"a {i}") for i in range(4)) > 70


def test_records_have_orders_of_their_own() -> None:
    orders = {
        tuple(t.text for t in shuffled(questions(5, name=f"r{i}"), seed=0, epoch=0).conversation[1::2])
        for i in range(30)
    }
    assert len(orders) > 15


@pytest.mark.parametrize(
    "record",
    [
        questions(1),
        Record(id="d", source="s", task="dialogue", images=[IMAGE], conversation=questions(3).conversation),
        Record(
            id="c", source="s", task="vqa", images=[IMAGE], conversation=questions(3).conversation, choices=["a", "b"]
        ),
        Record(
            id="i",
            source="s",
            task="vqa",
            images=[IMAGE],
            conversation=[
                Turn(role="user", text="hello"),
                Turn(role="assistant", text="hi"),
                Turn(role="user", text="<image>\nwhat?"),
                Turn(role="assistant", text="x"),
            ],
        ),
    ],
)
def test_what_depends_on_its_order_keeps_it(record: Record) -> None:
    assert not can_be_shuffled(record)
    assert shuffled(record, seed=0, epoch=3) is record


def test_rows_are_never_longer_than_planned(tmp_path: Path) -> None:
    build_word_tokenizer([f"what is a mark {i}?" for i in range(9)], tmp_path)
    tree = {"max_length": 400, "max_image_tokens": 4, "shuffle_turns": True, "chat": {"template": "plain"}}
    config = SequenceConfig.model_validate(tree)
    builder = SequenceBuilder(TextTokenizer.load(tmp_path), config, seed=3)
    record = phrases([1, 2, 0, 1])
    limit = builder.length_of(record)
    seen = set()
    for epoch in range(20):
        sequence = builder.build(builder.arranged(record, epoch=epoch), epoch=epoch)
        assert len(sequence) <= limit
        seen.add(tuple(sequence.input_ids.tolist()))
    assert len(seen) > 5
    still = SequenceBuilder(TextTokenizer.load(tmp_path), config.model_copy(update={"shuffle_turns": False}), seed=3)
    assert still.arranged(record, epoch=1) is record
    assert limit - 4 == still.length_of(record)


def test_the_packer_shuffles_pixels_of_masks_too(tmp_path: Path) -> None:
    import io
    from dataclasses import dataclass

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    build_word_tokenizer(["mark 0 1 2"], tmp_path)
    tree = {"max_length": 64, "max_image_tokens": 4, "shuffle_turns": True, "chat": {"template": "plain"}}
    builder = SequenceBuilder(TextTokenizer.load(tmp_path), SequenceConfig.model_validate(tree), seed=0)
    whole = phrases([1, 1, 1])
    sizes = [[8 * i, 8, 56 - 8 * i] for i in range(3)]  # column i is marked
    masks = [Mask(counts=runs, height=8, width=8) for runs in sizes]
    record = Record(**vars(whole) | {"images": [EncodedImage(data=file.getvalue())], "masks": masks})

    @dataclass(frozen=True)
    class Planned:
        record: Record
        epoch: int
        too_long: bool = False

    for epoch in range(6):
        columns = Packer(builder, image_size=8).build([[Planned(record, epoch)]])
        found = np.unpackbits(np.frombuffer(columns["masks"][0], np.uint8), count=3 * 64).reshape(3, 8, 8)
        asked = [t.text.split()[-1] for t in builder.arranged(record, epoch=epoch).conversation[::2]]
        assert [str(int(mask.any(0).argmax())) for mask in found] == asked
