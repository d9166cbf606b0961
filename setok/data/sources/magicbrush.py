"""MagicBrush (Zhang et al. 2023): sessions of edits on COCO pictures, each edit applied to the result of the one before.

    ROOT/train/edit_sessions.json          {"187390": [{"input", "mask", "output", "instruction"}, …], …}
    ROOT/train/edit_turns.json             the same turns in one list; enough where the file above is missing
    ROOT/train/images/187390/187390-input.png, 187390-mask1.png, 187390-output1.png, …

with dev (or val) and test likewise, or a folder of ``datasets.save_to_disk`` with the columns img_id, turn_index, source_img,
instruction and target_img. With ``turns: each`` a record is an edit, with ``all`` a whole session: the picture is given
once, and every turn answers with the next one. The masks of what was edited are left out, because a record's masks are
what it teaches to draw; the raw layout's provenance names their files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from setok.config import SourceConfig
from setok.data.schema import Record
from setok.data.sources.annotations import inside, read_json, text_of
from setok.data.sources.arrow_folder import STATE, ArrowFolder, is_arrow_folder
from setok.data.sources.base import BadRecord, Requirement, Source, read_image
from setok.data.sources.edits import SPLIT_FOLDERS, edit_record, split_folder
from setok.data.sources.rows import ROW_ERRORS, known_split, problem_of, rows_of, words
from setok.errors import DataError

_SESSIONS, _TURNS = "edit_sessions.json", "edit_turns.json"
_COLUMNS = ("img_id", "turn_index", "source_img", "instruction", "target_img")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Edit:
    """One turn: what it says, where its pictures are (file names, or the number of a row), what is wrong with it."""

    session: str
    turn: str
    instruction: str = ""
    before: str = ""
    after: str = ""
    row: int = -1
    facts: dict[str, str] = field(default_factory=dict)
    problem: str = ""


class MagicBrushSource(Source):
    """Edits that people asked for and approved."""

    name: ClassVar[str] = "magicbrush"
    has_image_files: ClassVar[bool] = False

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        known_split(self.name, config.split, SPLIT_FOLDERS)

    @property
    def _folder(self) -> Path:
        return split_folder(self.root, self.config.split, (_SESSIONS, _TURNS, STATE))

    @property
    def requirements(self) -> list[Requirement]:
        folder = self._folder
        if is_arrow_folder(folder):
            return []
        path = folder / (_TURNS if (folder / _TURNS).is_file() else _SESSIONS)
        origin = "https://osu-nlp-group.github.io/MagicBrush"
        parts = (path.relative_to(self.root).as_posix(), f"{(folder / 'images').relative_to(self.root).as_posix()}/")
        return [Requirement(path=part, origin=origin) for part in parts]

    def _files(self) -> Iterable[Path]:
        folder = self._folder
        if is_arrow_folder(folder):
            return [folder / STATE, *self._rows.files]
        pictures = {folder / "images" / edit.session for session in self._entries for edit in session}
        return [folder / _SESSIONS, folder / _TURNS, *sorted(path for path in pictures if path.is_dir())]

    @cached_property
    def _rows(self) -> ArrowFolder:
        return ArrowFolder(self._folder, _COLUMNS)

    @cached_property
    def _entries(self) -> list[tuple[_Edit, ...]]:
        """The edits of every record."""
        sessions: dict[str, list[_Edit]] = {}
        for edit in self._edits_of_rows() if is_arrow_folder(self._folder) else self._edits_of_files():
            sessions.setdefault(edit.session, []).append(edit)
        if self.config.turns == "all":
            return [tuple(edits) for edits in sessions.values()]
        return [(edit,) for edits in sessions.values() for edit in edits]

    def _edits_of_rows(self) -> Iterable[_Edit]:
        columns = (self._rows.column(name) for name in ("img_id", "turn_index", "instruction"))
        for number, (session, turn, instruction) in enumerate(zip(*columns, strict=True)):
            text = " ".join((instruction or "").split())
            problem = "" if text else "empty text: 'instruction'"
            yield _Edit(session=str(session), turn=str(turn), instruction=text, row=number, problem=problem)

    def _edits_of_files(self) -> Iterable[_Edit]:
        path = self._folder / _SESSIONS
        if path.is_file():
            sessions = read_json(path)
            if not isinstance(sessions, dict) or not all(isinstance(rows, list) for rows in sessions.values()):
                raise DataError(f"{path} has no sessions by picture", "get the official file")
            turns = [(name, number, row) for name, rows in sessions.items() for number, row in enumerate(rows, start=1)]
        else:
            rows, turns, counts = rows_of(self._folder / _TURNS), [], dict[str, int]()
            for number, row in enumerate(rows):
                known = isinstance(row, dict) and isinstance(row.get("input"), str)
                name = row["input"].rsplit("-", 1)[0] if known else f"row-{number}"
                counts[name] = counts.get(name, 0) + 1
                turns.append((name, counts[name], row))
        for name, number, row in turns:
            yield _edit_of_file(name, str(number), row)

    def _count(self) -> int:
        return len(self._entries)

    def _record(self, index: int) -> Record | BadRecord:
        edits = self._entries[index]
        first = edits[0]
        name = f"session/{first.session}" if self.config.turns == "all" else f"{first.session}/{first.turn}"
        record_id = f"{self.name}/{self.config.split}/{name}"
        problems = [edit.problem for edit in edits if edit.problem]
        if problems:
            return BadRecord(id=record_id, reason=problems[0])
        for before, after in pairwise(edits):
            if after.before != before.after:
                return BadRecord(id=record_id, reason=f"session broken: turn {after.turn} starts from {after.before}")
        try:
            pictures = [self._picture(first, "before"), *(self._picture(edit, "after") for edit in edits)]
        except ROW_ERRORS as error:
            return BadRecord(id=record_id, reason=problem_of(error))
        provenance = {"img_id": first.session, "turns": ",".join(edit.turn for edit in edits)}
        if masks := [edit.facts["mask"] for edit in edits if "mask" in edit.facts]:
            provenance["masks"] = ",".join(masks)
        return edit_record(record_id, self.name, pictures, [edit.instruction for edit in edits], provenance)

    def _picture(self, edit: _Edit, which: str) -> bytes:
        if edit.row >= 0:
            column = "source_img" if which == "before" else "target_img"
            return self._rows.image(self._rows.row(edit.row), column)
        name = edit.before if which == "before" else edit.after
        return read_image(self._folder / "images" / edit.session / name)


def _edit_of_file(session: str, turn: str, row: Any) -> _Edit:
    try:
        return _Edit(
            session=inside(session),
            turn=turn,
            instruction=words(row, "instruction"),
            before=inside(text_of(row, "input")),
            after=inside(text_of(row, "output")),
            facts={"mask": row["mask"]} if row.get("mask") else {},
        )
    except ROW_ERRORS as error:
        return _Edit(session=session, turn=turn, problem=problem_of(error))
