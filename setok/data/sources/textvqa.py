"""TextVQA (Singh et al. 2019) and TextCaps (Sidorov et al. 2020): pictures of OpenImages with text in them.

    ROOT/TextVQA_0.5.1_train.json                  val, test
    ROOT/TextVQA_Rosetta_OCR_v0.2_train.json       optional: what a reading system found; goes to the provenance
    ROOT/TextCaps_0.1_train.json                   val, test (TextCaps)
    ROOT/train_images/000adfe5b817011c.jpg         of train and val; test_images/ of test

An early release of TextVQA, with ``image: train/ID.jpg`` and without question ids, is read too, under the newer file's name;
its questions are numbered.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from setok.config import SourceConfig
from setok.data.concepts import concepts_of_captions
from setok.data.schema import EncodedImage, Record
from setok.data.sources.base import BadRecord, Requirement, Source
from setok.data.sources.pictures import PictureFolders, check_pictures, picture_root
from setok.data.sources.questions import Question, QuestionSource, read_questions, require_answers
from setok.data.sources.rows import ROW_ERRORS, answers_of, known_split, problem_of, rows_of, words
from setok.errors import DataError

_SPLITS = ("train", "val", "test")
_DATA = "https://dl.fbaipublicfiles.com/textvqa/data"
_PICTURES = "https://dl.fbaipublicfiles.com/textvqa/images/{train_val,test}_images.zip"


def _text_pictures(config: SourceConfig) -> PictureFolders:
    root = picture_root(config)
    own = "test_images" if config.split == "test" else "train_images"
    return PictureFolders([root / own, root / "images", root])


class TextvqaSource(QuestionSource):
    """Questions that are answered by reading, with ten answers each."""

    name: ClassVar[str] = "textvqa"

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._file = self.root / f"TextVQA_0.5.1_{known_split(self.name, config.split, _SPLITS)}.json"

    @property
    def requirements(self) -> list[Requirement]:
        return [Requirement(path=self._file.name, origin=f"{_DATA}/{self._file.name}")]

    @property
    def _ocr_files(self) -> list[Path]:
        return sorted(self.root.glob(f"TextVQA_Rosetta_OCR_*_{self.config.split}.json"))[-1:]

    @property
    def _annotation_files(self) -> list[Path]:
        return [self._file, *self._ocr_files]

    @cached_property
    def picture_files(self) -> PictureFolders:
        return _text_pictures(self.config)

    @property
    def picture_origin(self) -> str:
        return _PICTURES

    def _questions(self) -> Iterable[Question]:
        ocr = {}
        for path in self._ocr_files:
            ocr = {row["image_id"]: json.dumps(row["ocr_tokens"], ensure_ascii=False) for row in rows_of(path, "data")}

        def make(row: Any) -> Question:
            image = row["image_id"] if "image_id" in row else Path(row["image"]).stem
            answers = answers_of(row.get("answers", []))
            if self.config.split != "test":
                require_answers(answers)
            return Question(
                id=str(row["question_id"]),
                text=words(row, "question"),
                image=str(image),
                answers=answers,
                facts={"ocr_tokens": ocr[image]} if image in ocr else {},
            )

        rows = rows_of(self._file, "data")
        numbered = ({"question_id": number} | row if isinstance(row, dict) else row for number, row in enumerate(rows))
        return read_questions(numbered, make, "question_id")


class TextcapsSource(Source):
    """Pictures, each with the captions of five people who were asked to mention the text; those of test have none."""

    name: ClassVar[str] = "textcaps"

    def __init__(self, config: SourceConfig) -> None:
        super().__init__(config)
        self._file = self.root / f"TextCaps_0.1_{known_split(self.name, config.split, _SPLITS)}.json"

    @property
    def requirements(self) -> list[Requirement]:
        return [Requirement(path=self._file.name, origin=f"{_DATA}/textcaps/{self._file.name}")]

    @cached_property
    def picture_files(self) -> PictureFolders:
        return _text_pictures(self.config)

    def check(self) -> None:
        super().check()
        check_pictures(self.name, self.config, self.picture_files, _PICTURES)

    def _files(self) -> Iterable[Path]:
        return [self._file, *self.picture_files.folders]

    @cached_property
    def _captions(self) -> list[tuple[str, list[str], str]]:
        """Every picture with its captions and what is wrong with them; a row of the file is one caption, or all of them."""
        captions: dict[str, dict[str, None]] = {}  # dictionaries keep the order and what is equal once
        broken = []
        for number, row in enumerate(rows_of(self._file, "data")):
            try:
                own = captions.setdefault(str(row["image_id"]), {})
                own.update(dict.fromkeys(_captions_of(row, needed=self.config.split != "test")))
            except ROW_ERRORS as error:
                broken.append((f"row-{number}", list[str](), problem_of(error)))
        return [(image, list(texts), "") for image, texts in captions.items()] + broken

    def _count(self) -> int:
        return len(self._captions)

    def _record(self, index: int) -> Record | BadRecord:
        image, captions, problem = self._captions[index]
        record_id = f"{self.name}/{self.config.split}/{image}"
        if problem:
            return BadRecord(id=record_id, reason=problem)
        try:
            data = self.picture_files.read(image)
        except DataError as error:
            return BadRecord(id=record_id, reason=error.problem)
        return Record(
            id=record_id,
            source=self.name,
            task="caption" if captions else "image",
            images=[EncodedImage(data=data)],
            caption=captions[0] if captions else "",
            concepts=concepts_of_captions(captions),
            answers=captions,
            provenance={"image_id": image},
        )


def _captions_of(row: dict[str, Any], *, needed: bool) -> Iterator[str]:
    if needed:
        yield words(row, "caption_str")
    yield from answers_of(row.get("reference_strs") or [])
