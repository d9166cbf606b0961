"""Sequences to rows to the model's batch: samples stay whole and apart, pictures and masks stand where they belong."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from setok.batch import SequenceBatch
from setok.config import ChatConfig, SequenceConfig
from setok.data import rle
from setok.data.collate import columns_to_sequences
from setok.data.pack import PackedRow, Sample, decode_sample, pack_row, row_columns
from setok.data.packer import Packer, PackerSpec
from setok.data.schema import EncodedImage, Mask, Record, Turn
from setok.data.sequences import SequenceBuilder
from setok.data.special_tokens import text_tokenizer
from setok.errors import DataError
from tests.text_tokenizers import tokenizer_of

SIZE, LENGTH, PLACES = 8, 96, 3
BUILD_CONFIG = SequenceConfig(
    chat=ChatConfig(template="plain"), max_image_tokens=PLACES, max_length=LENGTH, drop_condition=0.0
)


@pytest.fixture(scope="module")
def build() -> SequenceBuilder:
    return SequenceBuilder(text_tokenizer(tokenizer_of("gpt2")), BUILD_CONFIG, seed=0)


def picture(value: int, role: str = "input", *, width: int = 16, height: int = 16) -> EncodedImage:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (value, 0, 0)).save(buffer, "PNG")
    return EncodedImage(data=buffer.getvalue(), role=role)


def edit(value: int, *, broken: bool = False) -> Record:
    """Reads picture ``value``, draws ``value + 1``."""
    target = EncodedImage(data=b"junk", role="target") if broken else picture(value + 1, "target")
    turns = [Turn(role="user", text="<image> hat"), Turn(role="assistant", text="so <image>")]
    return Record(id=f"e{value}", source="s", task="edit", images=[picture(value), target], conversation=turns)


def marked(value: int, masks: list[np.ndarray], *, counts: list[int] | None = None) -> Record:
    height, width = masks[0].shape
    turns = [Turn(role="user", text="<image> it?"), Turn(role="assistant", text=" ".join(["<mask>"] * len(masks)))]
    runs = [Mask(counts=counts or rle.encode(mask), height=height, width=width) for mask in masks]
    image = picture(value, width=width, height=height)
    return Record(id=f"m{value}", source="s", task="segment", images=[image], conversation=turns, masks=runs)


def talk(value: int) -> Record:
    turns = [Turn(role="user", text="q" * (value % 7 + 1)), Turn(role="assistant", text="a dog")]
    return Record(id=f"t{value}", source="s", task="dialogue", conversation=turns)


def sample_of(build: SequenceBuilder, record: Record) -> Sample:
    return decode_sample(record, build.build_or_stand_in(record, epoch=0), image_size=SIZE)


def row_of(build: SequenceBuilder, records: list[Record]) -> PackedRow:
    samples = [sample_of(build, record) for record in records]
    return pack_row(samples, max_length=LENGTH, pad_id=build.pad_id, image_size=SIZE)


def batch_of(rows: list[PackedRow]) -> SequenceBatch:
    return columns_to_sequences(row_columns(rows), image_size=SIZE)


def half() -> np.ndarray:
    mask = np.zeros((16, 24), bool)
    mask[:, 12:] = True
    return mask


MAKERS = {
    "edit": edit,
    "broken": lambda value: edit(value, broken=True),
    "marked": lambda value: marked(value, [half(), ~half()]),
    "talk": talk,
    "impossible": lambda value: Record(id=f"i{value}", source="s", task="caption"),
}


@settings(max_examples=40, deadline=None)
@given(plan=st.lists(st.lists(st.sampled_from(sorted(MAKERS)), max_size=4), min_size=1, max_size=4))
def test_packed_rows_hold_their_samples(build: SequenceBuilder, plan: list[list[str]]) -> None:
    """Row by row and sample by sample against the sequences that went in."""
    records = [[MAKERS[kind](10 * r + 2 * s + 1) for s, kind in enumerate(kinds)] for r, kinds in enumerate(plan)]
    batch = batch_of([row_of(build, row) for row in records])
    assert len(batch) == len(plan)
    assert batch.input_ids.shape == batch.labels.shape == batch.segment_ids.shape == (len(plan), LENGTH)
    assert batch.ids == tuple(tuple(record.id for record in row) for row in records)
    image = mask = 0
    for r, row in enumerate(records):
        position = 0
        for s, record in enumerate(row):
            sequence = build.build_or_stand_in(record, epoch=0)
            bad = plan[r][s] in ("broken", "impossible")
            place = slice(position, position + len(sequence))
            assert (batch.segment_ids[r, place] == s + 1).all()
            assert batch.input_ids[r, place].tolist() == sequence.input_ids.tolist()
            assert batch.labels[r, place].tolist() == [-100 if bad else label for label in sequence.labels.tolist()]
            own = [image + index if index >= 0 else -1 for index in sequence.image_index.tolist()]
            assert batch.image_index[r, place].tolist() == own
            assert batch.image_offset[r, place].tolist() == sequence.image_offset.tolist()
            masks = [mask + index if index >= 0 else -1 for index in sequence.mask_index.tolist()]
            assert batch.mask_index[r, place].tolist() == masks
            for which, target in zip(sequence.images, sequence.image_is_target, strict=True):
                assert batch.image_valid[image] == (not bad)
                assert batch.image_is_target[image] == target
                expected = 0 if bad else 10 * r + 2 * s + 1 + which
                assert (batch.pixel_values[image, 0] == expected).all()
                image += 1
            for _ in range(sequence.num_masks):
                assert batch.mask_image[mask] == image - 1
                mask += 1
            position += len(sequence)
        rest = slice(position, LENGTH)
        assert (batch.segment_ids[r, rest] == 0).all()
        assert (batch.input_ids[r, rest] == build.pad_id).all()
        assert (batch.labels[r, rest] == -100).all()
        assert (batch.image_index[r, rest] == -1).all()
        assert (batch.mask_index[r, rest] == -1).all()
        first_of_samples = (batch.segment_ids[r, 1:] != batch.segment_ids[r, :-1]).nonzero().flatten() + 1
        assert (batch.labels[r, first_of_samples] == -100).all(), "a label would be learned from another sample"
    assert len(batch.pixel_values) == len(batch.image_valid) == len(batch.image_is_target) == image
    assert len(batch.masks) == len(batch.mask_image) == mask


def test_masks_have_the_geometry_of_the_pictures(build: SequenceBuilder) -> None:
    batch = batch_of([row_of(build, [talk(1), edit(1)]), row_of(build, [edit(3), marked(9, [half(), ~half()])])])
    assert batch.pixel_values.shape == (5, 3, SIZE, SIZE)
    assert batch.masks.shape == (2, SIZE, SIZE)
    assert batch.masks.dtype == torch.bool
    assert batch.masks[0].tolist() == [[False] * 4 + [True] * 4] * SIZE
    assert (batch.masks[1] == ~batch.masks[0]).all()
    assert batch.mask_image.tolist() == [4, 4]
    assert (batch.input_ids[batch.mask_index >= 0] == build.tokenizer.special_id("[Seg]")).all()
    moved = batch.to(torch.device("cpu"))
    assert moved.ids == batch.ids


def test_no_pictures_and_no_samples(build: SequenceBuilder) -> None:
    batch = batch_of([row_of(build, []), row_of(build, [talk(1)])])
    assert batch.pixel_values.shape == (0, 3, SIZE, SIZE)
    assert batch.pixel_values.dtype == torch.uint8
    assert batch.masks.shape == (0, SIZE, SIZE)
    assert batch.ids == ((), ("t1",))
    assert (batch.segment_ids[0] == 0).all()
    assert (batch.labels[1] >= 0).any()


@pytest.mark.parametrize(
    ("record", "error", "images"),
    [
        (edit(1, broken=True), "not an image", 2),
        (marked(1, [half()], counts=[3, 4]), "broken mask", 1),
        (Record(id="i", source="s", task="caption"), "nothing to learn", 0),
    ],
)
def test_what_cannot_be_read_keeps_its_places(build: SequenceBuilder, record: Record, error: str, images: int) -> None:
    row = row_of(build, [talk(1), record, talk(2)])
    assert row.errors[0] == row.errors[2] == ""
    assert row.errors[1].startswith(error)
    assert row.image_valid.tolist() == [False] * images
    own = row.segment_ids == 2
    assert own.sum() == len(build.build_or_stand_in(record, epoch=0))
    assert (row.labels[own] == -100).all()
    assert (row.mask_index == -1).all() and not len(row.masks)
    assert (row.labels[~own] >= 0).any()


def test_rows_that_are_too_full_are_refused(build: SequenceBuilder) -> None:
    with pytest.raises(DataError, match="e1, e3, e5, e7, e9, e11") as error:
        row_of(build, [edit(value) for value in (1, 3, 5, 7, 9, 11)])
    assert "packing plan" in error.value.remedy


def test_columns_travel_as_an_arrow_table(build: SequenceBuilder) -> None:
    rows = [row_of(build, [edit(1)]), row_of(build, [marked(3, [half()])]), row_of(build, [])]
    columns = row_columns(rows)
    fixed = {
        name: [list(map(int, line)) for line in value] if isinstance(value, np.ndarray) else value
        for name, value in columns.items()
    }
    table = pa.table(fixed).to_pydict()
    here, there = batch_of(rows), columns_to_sequences(table, image_size=SIZE)
    for name, value in vars(here).items():
        other: Any = getattr(there, name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other


def test_data_workers_need_neither_torch_nor_transformers() -> None:
    probe = (
        "import sys, setok.data.packer, setok.data.sequences, setok.data.chat, setok.data.prompts;"
        "assert not {'torch', 'transformers', 'ray'} & set(sys.modules), 'slow imports'"
    )
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


# ---------------------------------------------------------------- the packer


@dataclass(frozen=True, kw_only=True)
class Turned:
    record: Record
    epoch: int = 0
    too_long: bool = False


def test_a_packer_builds_whole_rows(build: SequenceBuilder, tmp_path: Path) -> None:
    tokenizer_of("gpt2").save_pretrained(tmp_path)
    spec = PackerSpec(tokenizer=str(tmp_path), config=BUILD_CONFIG, seed=0, image_size=SIZE)
    assert hash(spec) == hash(pickle.loads(pickle.dumps(spec)))
    packer = pickle.loads(pickle.dumps(spec)).open()
    packs = [[Turned(record=talk(1)), Turned(record=edit(1), too_long=True)], [], [Turned(record=edit(3))]]
    columns = packer.build(packs)
    assert [json.loads(text) for text in columns["error"]] == [
        ["", "too long: the record has no room in a row"],
        [],
        [""],
    ]
    batch = columns_to_sequences(columns, image_size=SIZE)
    assert batch.ids == (("t1", "e1"), (), ("e3",))
    assert (batch.segment_ids[0] == 2).sum() == 1
    expected = batch_of([row_of(build, [edit(3)])])
    assert torch.equal(batch.input_ids[2], expected.input_ids[0])
    assert torch.equal(batch.pixel_values, expected.pixel_values)
    assert spec.row_bytes >= len(columns["pixels"][2]) + 6 * 4 * LENGTH


def test_a_packer_reads_what_it_needs(build: SequenceBuilder) -> None:
    """Its columns give the same rows as whole records."""
    packer = Packer(build, image_size=SIZE)
    records = [edit(1), marked(3, [half()]), talk(5), picture_of_class()]
    for record in records:
        row = Record(id="", source="").to_row()
        row |= {name: value for name, value in record.to_row().items() if name in packer.columns}
        whole, partial = (packer.build([[Turned(record=one)]]) for one in (record, Record.from_row(row)))
        assert str(whole) == str(partial)


def picture_of_class() -> Record:
    return Record(id="c", source="s", task="classify", images=[picture(7)], concepts=["dog"])
