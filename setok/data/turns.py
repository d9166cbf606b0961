"""Questions that do not depend on each other, in another order every epoch.

Sets with several questions or phrases on a picture are read as one conversation, which saves work: the picture is read once. But
their order is that of the file, so a model would learn to answer the third question only behind the first two, and would not
know what to do when it comes first.
"""

from __future__ import annotations

import re
from dataclasses import replace

from setok.data.prompts import RecordDraw
from setok.data.schema import IMAGE_SLOT, MASK_SLOT, Record, Turn

SLACK = 4
"""Tokens by which another order may change a conversation's length: two questions stand next to something else."""
_FIRST_PURPOSE = 16
"""Purposes of ``RecordDraw`` from here on are the places of questions."""
_PICTURES = re.compile(rf"^(?:{IMAGE_SLOT}\n?)*")


def can_be_shuffled(record: Record) -> bool:
    """Whether a record is several questions, or phrases with masks, on pictures that all come before the first of them."""
    turns = record.conversation
    roles = [turn.role for turn in turns]
    if record.task not in ("vqa", "segment") or record.choices or len(turns) < 4:
        return False
    if roles != ["user", "assistant"] * (len(turns) // 2):
        return False
    rest = _PICTURES.sub("", turns[0].text) + "".join(turn.text for turn in turns[1:])
    return IMAGE_SLOT not in rest


def shuffled(record: Record, *, seed: int, epoch: int) -> Record:
    """The record with its questions in the order of this epoch; itself where they cannot be shuffled.

    A function of seed, epoch and record alone. Masks go with their phrases.
    """
    if not can_be_shuffled(record):
        return record
    turns = record.conversation
    match = _PICTURES.match(turns[0].text)
    assert match is not None
    pictures = match.group()
    pairs = [(turns[i].text, turns[i + 1].text) for i in range(0, len(turns), 2)]
    pairs[0] = (turns[0].text[len(pictures) :], pairs[0][1])
    starts = [sum(said.count(MASK_SLOT) for _, said in pairs[:number]) for number in range(len(pairs) + 1)]
    draw = RecordDraw(record, seed=seed, epoch=epoch)
    order = sorted(range(len(pairs)), key=lambda number: draw.share(_FIRST_PURPOSE + number))
    conversation, masks = list[Turn](), []
    for place, number in enumerate(order):
        asked, said = pairs[number]
        conversation.append(Turn(role="user", text=asked if place else pictures + asked))
        conversation.append(Turn(role="assistant", text=said))
        masks += record.masks[starts[number] : starts[number + 1]]
    return replace(record, conversation=conversation, masks=masks)
