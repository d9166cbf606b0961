"""Closing the gaps, against a reference that walks over rows and places one by one."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from setok.batch import SequenceBatch
from setok.models.splice import attention_mask, close_gaps, positions, slots

PAD, LIMIT = 7, 4
Script = tuple[list[list[list[int]]], int, list[int]]
FIELDS = ("input_ids", "labels", "segment_ids", "image_index", "image_offset", "mask_index")


@st.composite
def scripts(draw: Any) -> Script:
    """Columns of rows of samples of text, pictures and masks; the number of masks; how many tokens each picture has."""
    number = st.integers(0, 3)
    pictures = masks = 0
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        row = []
        for segment in range(1, draw(number) + 1):
            for part in draw(st.lists(st.sampled_from("tipm"), max_size=5)):
                if part in "tm":
                    mask = -1
                    if part == "m":
                        mask, masks = masks, masks + 1
                    word = draw(st.integers(10, 99))
                    row.append((word, draw(st.sampled_from([-100, word])), segment, -1, 0, mask))
                else:
                    row += [(PAD, -100, segment, pictures, offset, -1) for offset in range(LIMIT)]
                    pictures += 1
        rows.append(row)
    length = max(map(len, rows)) + draw(number)
    if length == 0:
        length = 1
    filled = [row + [(PAD, -100, 0, -1, 0, -1)] * (length - len(row)) for row in rows]
    columns = [[[place[i] for place in row] for row in filled] for i in range(len(FIELDS))]
    return columns, masks, [draw(st.integers(1, LIMIT)) for _ in range(pictures)]


def build(script: Script) -> tuple[SequenceBatch, Tensor]:
    """The batch of a script; not inside a strategy, because the checks of types roll dice of their own."""
    columns, masks, counts = script
    pictures = len(counts)
    batch = SequenceBatch(
        **{name: torch.tensor(column) for name, column in zip(FIELDS, columns, strict=True)},
        pixel_values=torch.zeros(pictures, 3, 1, 1, dtype=torch.uint8),
        image_is_target=torch.zeros(pictures, dtype=torch.bool),
        image_valid=torch.ones(pictures, dtype=torch.bool),
        mask_image=torch.zeros(masks, dtype=torch.long),
        masks=torch.zeros(masks, 1, 1, dtype=torch.bool),
        ids=tuple(() for _ in columns[0]),
    )
    return batch, torch.tensor(counts, dtype=torch.long)


def by_hand(batch: SequenceBatch, counts: Tensor) -> dict[str, list[list[int]]]:
    """The same place by place."""
    found: dict[str, list[list[int]]] = {name: [] for name in (*FIELDS, "position_ids")}
    for r in range(len(batch)):
        kept, place, sample = [], 0, 0
        for c in range(batch.input_ids.shape[1]):
            here = {name: int(getattr(batch, name)[r, c]) for name in FIELDS}
            if here["segment_ids"] == 0 or (
                here["image_index"] >= 0 and here["image_offset"] >= counts[here["image_index"]]
            ):
                continue
            place = place + 1 if here["segment_ids"] == sample else 0
            sample = here["segment_ids"]
            kept.append(here | {"position_ids": place})
        rest = dict(zip(FIELDS, (PAD, -100, 0, -1, 0, -1), strict=True))
        padding = batch.input_ids.shape[1] - len(kept)
        kept += [rest | {"position_ids": i} for i in range(padding)]
        for name, rows in found.items():
            rows.append([place[name] for place in kept])
    return found


@settings(max_examples=150, deadline=None)
@given(scripts())
def test_it_keeps_what_a_walk_over_the_places_keeps(script: Script) -> None:
    batch, counts = build(script)
    rows = close_gaps(batch, counts, PAD)
    for name, expected in by_hand(batch, counts).items():
        assert getattr(rows, name).tolist() == expected, name
    longest = max(1, int((rows.segment_ids > 0).sum(1).max()))
    short = rows.trimmed()
    assert short.input_ids.shape == (len(batch), longest) == short.mask_index.shape
    assert torch.equal(short.labels, rows.labels[:, :longest])


@settings(max_examples=60, deadline=None)
@given(scripts())
def test_a_place_sees_itself_and_what_came_before_in_its_sample(script: Script) -> None:
    rows = close_gaps(*build(script), PAD)
    for window in (None, 3):
        mask = attention_mask(rows.segment_ids, rows.position_ids, window)
        segments = rows.segment_ids.tolist()
        for r, row in enumerate(segments):
            for i in range(len(row)):
                seen = [j for j in range(i + 1) if row[j] == row[i] and (window is None or i - j < window)]
                assert mask[r, 0, i].nonzero().squeeze(1).tolist() == seen


@settings(max_examples=60, deadline=None)
@given(scripts())
def test_right_aligned_rows_end_with_their_last_place(script: Script) -> None:
    rows = close_gaps(*build(script), PAD)
    moved = rows.right_aligned()
    width = rows.input_ids.shape[1]
    for r, length in enumerate(rows.lengths.tolist()):
        assert moved.segment_ids[r, : width - length].eq(0).all()
        assert torch.equal(moved.input_ids[r, width - length :], rows.input_ids[r, :length])
        assert torch.equal(moved.image_index[r, width - length :], rows.image_index[r, :length])
        assert moved.position_ids[r, width - length :].tolist() == list(range(length))


def test_positions_restart() -> None:
    assert positions(torch.tensor([[1, 1, 2, 2, 2, 0], [1, 2, 3, 0, 0, 0]])).tolist() == [
        [0, 1, 0, 1, 2, 0],
        [0, 0, 0, 0, 1, 2],
    ]


def test_slots_find_where_things_stand() -> None:
    index = torch.tensor([[-1, 2, -1], [0, -1, -1]])
    assert slots(index, 4).tolist() == [3, -1, 1, -1]
    assert slots(index - 5, 0).tolist() == []
