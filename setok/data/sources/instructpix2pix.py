"""InstructPix2Pix (Brooks et al. 2023): generated pictures before and after an instruction.

    ROOT/seeds.json                    [["0000132", ["127380018", …]], …]
    ROOT/0000132/prompt.json           {"edit": INSTRUCTION, …}
    ROOT/0000132/127380018_0.jpg       before; …_1.jpg after

or a folder of ``datasets.save_to_disk`` with the columns original_image, edit_prompt, edited_image. Either may lie one folder
deeper, in one for the split (train, val or dev, test); the published set is one, which is ``train``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from setok.config import SourceConfig
from setok.data.schema import Record
from setok.data.sources.annotations import inside, read_json
from setok.data.sources.arrow_folder import STATE, ArrowFolder, is_arrow_folder
from setok.data.sources.base import BadRecord, Requirement, Source, read_image
from setok.data.sources.edits import SPLIT_FOLDERS, edit_record, split_folder
from setok.data.sources.rows import ROW_ERRORS, known_split, problem_of, rows_of, words
from setok.errors import DataError

_SEEDS = "seeds.json"
_COLUMNS = ("original_image", "edit_prompt", "edited_image")


class InstructPix2PixSource(Source):
    """Pairs of pictures with an instruction."""

    name: ClassVar[str] = "instructpix2pix"
    has_image_files: ClassVar[bool] = False

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        known_split(self.name, config.split, SPLIT_FOLDERS)

    @property
    def _folder(self) -> Path:
        return split_folder(self.root, self.config.split, (_SEEDS, STATE))

    @property
    def requirements(self) -> list[Requirement]:
        if is_arrow_folder(self._folder):
            return []
        path = (self._folder / _SEEDS).relative_to(self.root).as_posix()
        return [Requirement(path=path, origin="http://instruct-pix2pix.eecs.berkeley.edu")]

    def _files(self) -> Iterable[Path]:
        if is_arrow_folder(self._folder):
            return [self._folder / STATE, *self._rows.files]
        folders = (self._folder / name for name in dict.fromkeys(name for name, _ in self._pairs))
        return [self._folder / _SEEDS, *(folder for folder in folders if folder.is_dir())]

    @cached_property
    def _rows(self) -> ArrowFolder:
        return ArrowFolder(self._folder, _COLUMNS)

    @cached_property
    def _pairs(self) -> list[tuple[str, str]]:
        """Folder and seed of every pair."""
        path = self._folder / _SEEDS
        try:
            return [(inside(name), inside(str(seed))) for name, seeds in rows_of(path) for seed in seeds]
        except (TypeError, ValueError) as error:
            raise DataError(f"{path} is no list of [folder, [seed, …]]: {error}", "get the official file") from error

    def _count(self) -> int:
        return len(self._rows) if is_arrow_folder(self._folder) else len(self._pairs)

    def _record(self, index: int) -> Record | BadRecord:
        on_disk = is_arrow_folder(self._folder)
        name = str(index) if on_disk else "/".join(self._pairs[index])
        record_id = f"{self.name}/{self.config.split}/{name}"
        try:
            pictures, prompts = self._from_row(index) if on_disk else self._from_files(*self._pairs[index])
            instruction = words(prompts, "edit")
        except ROW_ERRORS as error:
            return BadRecord(id=record_id, reason=problem_of(error))
        provenance = {"pair": name} | {
            key: text for key, text in prompts.items() if key != "edit" and isinstance(text, str)
        }
        return edit_record(record_id, self.name, pictures, [instruction], provenance)

    def _from_row(self, index: int) -> tuple[list[bytes], dict[str, Any]]:
        row = self._rows.row(index)
        pictures = [self._rows.image(row, column) for column in ("original_image", "edited_image")]
        return pictures, {"edit": row["edit_prompt"]}

    def _from_files(self, name: str, seed: str) -> tuple[list[bytes], dict[str, Any]]:
        folder = self._folder / name
        prompts = read_json(folder / "prompt.json")
        if not isinstance(prompts, dict):
            raise DataError(f"no text: {name}/prompt.json is no object", "get the folder again")
        return [read_image(folder / f"{seed}_{which}.jpg") for which in (0, 1)], prompts
