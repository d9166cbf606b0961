"""What sets of edits share: folders of their splits, and the record of an instruction with pictures before and after.

<image>\\nINSTRUCTION → <image>          the first slot is the picture before, the second, the target, the one after
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from setok.data.schema import IMAGE_SLOT, EncodedImage, Record, Turn

SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "validation", "dev"), "dev": ("dev",), "test": ("test",)}


def split_folder(root: Path, split: str, marks: Sequence[str]) -> Path:
    """The folder of a split: the first below ``root`` that has one of the files ``marks``; for ``train`` else the root
    itself, because a set of one split has no folder for it. Where nothing fits, the folder where it should be."""
    candidates = [root / name for name in SPLIT_FOLDERS[split]]
    if split == "train":
        candidates.append(root)
    found = [folder for folder in candidates if any((folder / mark).is_file() for mark in marks)]
    return found[0] if found else candidates[-1]


def edit_record(
    record_id: str, source: str, pictures: Sequence[bytes], instructions: Sequence[str], provenance: dict[str, str]
) -> Record:
    """A record of edits, each applied to the result of the one before: one picture more than instructions."""
    conversation = []
    for number, instruction in enumerate(instructions):
        slot = "" if number else f"{IMAGE_SLOT}\n"
        conversation += [Turn(role="user", text=slot + instruction), Turn(role="assistant", text=IMAGE_SLOT)]
    images = [EncodedImage(data=data, role="target" if number else "input") for number, data in enumerate(pictures)]
    return Record(
        id=record_id, source=source, task="edit", images=images, conversation=conversation, provenance=provenance
    )
