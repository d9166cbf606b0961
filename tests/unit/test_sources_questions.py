"""Questions about COCO and Visual Genome pictures: small generated cases, whole, damaged and missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from setok.config import SourceConfig
from setok.data.schema import Record
from setok.data.sources import BadRecord, open_source
from setok.errors import ConfigError, DataError
from tests.source_files import answered, put, read, shaded, texts

# ---------------------------------------------------------------- VQA v2 and OK-VQA


def make_vqa(root: Path, prefix: str = "v2_", split: str = "train2014") -> None:
    """Two pictures, their questions mixed, and five questions that are wrong in one way each."""
    asked = [
        {"image_id": 7, "question_id": 70, "question": "What  colour?"},
        {"image_id": 8, "question_id": 80, "question": "How many?"},
        {"image_id": 7, "question_id": 71, "question": "Is it day?"},
        {"image_id": 9, "question_id": 90, "question": "Where?"},
        {"image_id": 8, "question_id": 81, "question": "No answers?"},
        {"image_id": 8, "question_id": 82},
        {"image_id": 8, "question_id": 83, "question": "Not annotated?"},
        "nonsense",
    ]
    given = [
        {"question_id": 71, "answers": answered("yes", "no", "no", "yes"), "answer_type": "yes/no"},
        {"question_id": 70, "answers": answered("blue", "red", "red ", ""), "answer_type": "other"},
        {"question_id": 80, "answers": answered("2")},
        {"question_id": 90, "answers": answered("there")},
        {"question_id": 81, "answers": answered(" ", "")},
        {"question_id": 82, "answers": answered("x")},
    ]
    put(root / f"{prefix}OpenEnded_mscoco_{split}_questions.json", {"questions": asked})
    put(root / f"{prefix}mscoco_{split}_annotations.json", {"annotations": given})


@pytest.mark.parametrize(("kind", "prefix"), [("vqav2", "v2_"), ("okvqa", "")])
def test_vqa_each(tmp_path: Path, kind: str, prefix: str) -> None:
    make_vqa(tmp_path, prefix)
    for name in ("train2014/COCO_train2014_000000000007.jpg", "val2017/000000000008.jpg"):
        put(tmp_path / name, shaded())
    items = read(kind, tmp_path)
    assert [item.id.removeprefix(f"{kind}/train/") for item in items] == [
        *("70", "71", "80", "81", "90", "82", "83", "row-7"),
    ]
    assert texts(items[0]) == ["<image>\nWhat colour?", "red"]
    assert texts(items[1]) == ["<image>\nIs it day?", "yes"], "of two equally frequent answers the first"
    assert isinstance(items[0], Record)
    assert items[0].answers == ["blue", "red", "red"]
    assert items[0].provenance == {"image_id": "7", "question_id": "70", "answer_type": "other"}
    assert [item.reason for item in items if isinstance(item, BadRecord)] == [
        "no answer: the list of answers is empty",
        "image file missing: 9",
        "missing key: 'question', the row has ['image_id', 'question_id']",
        "no answer: the annotations do not have the question",
        "damaged row: string indices must be integers, not 'str'",
    ]


def test_vqa_all(tmp_path: Path) -> None:
    make_vqa(tmp_path)
    for number in (7, 8):
        put(tmp_path / f"pictures/{number:012d}.jpg", shaded())
    items = read("vqav2", tmp_path, turns="all", images=str(tmp_path / "pictures"))
    assert [item.id.removeprefix("vqav2/train/") for item in items] == [
        *("image/7", "image/8", "81", "image/9", "82", "83", "row-7")
    ]
    assert texts(items[0]) == ["<image>\nWhat colour?", "red", "Is it day?", "yes"]
    assert isinstance(items[0], Record)
    assert items[0].answers == [] and len(items[0].images) == 1
    assert json.loads(items[0].provenance["questions"]) == [
        {"question_id": "70", "question": "What colour?", "answers": ["blue", "red", "red"], "answer_type": "other"},
        {"question_id": "71", "question": "Is it day?", "answers": ["yes", "no", "no", "yes"], "answer_type": "yes/no"},
    ]
    assert sum(isinstance(item, BadRecord) for item in items) == 5


@pytest.mark.parametrize("turns", ["each", "all"])
def test_a_test_split_has_questions_only(tmp_path: Path, turns: str) -> None:
    asked = [{"image_id": 7, "question_id": number, "question": "What?"} for number in (1, 2)]
    put(tmp_path / "v2_OpenEnded_mscoco_test2015_questions.json", {"questions": asked})
    put(tmp_path / "test2015/COCO_test2015_000000000007.jpg", shaded())
    items = read("vqav2", tmp_path, split="test", turns=turns)
    assert [texts(item) for item in items] == [["<image>\nWhat?"]] * 2
    assert all(isinstance(item, Record) and item.answers == [] for item in items)


def test_the_first_folder_with_a_picture_counts_and_folders_are_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_vqa(tmp_path)
    put(tmp_path / "train2014/7.jpg", shaded(10))
    put(tmp_path / "val2017/000000000007.jpg", shaded(200))
    put(tmp_path / "val2017/._000000000008.jpg", b"no picture")
    source = open_source(SourceConfig(kind="vqav2", path=str(tmp_path)))
    source.check()
    (tmp_path / "val2017/000000000007.jpg").unlink()
    (first,) = source.records(0, 1)
    assert isinstance(first, Record) and first.images[0].data == shaded(10)
    before = source.fingerprint()
    put(tmp_path / "val2017/000000000008.jpg", shaded())
    assert open_source(source.config).fingerprint() != before


# ---------------------------------------------------------------- A-OKVQA, GQA


def test_aokvqa(tmp_path: Path) -> None:
    row = {
        "image_id": 7,
        "question_id": "aB",
        "question": "What?",
        "choices": ["a", "b", "c", "d"],
        "correct_choice_idx": 2,
        "direct_answers": ["x", "x", "y"],
        "rationales": ["Because."],
    }
    rows = [
        row,
        row | {"question_id": "bad", "correct_choice_idx": 4},
        row | {"question_id": "no", "direct_answers": []},
    ]
    put(tmp_path / "aokvqa_v1p0_train.json", rows)
    put(tmp_path / "aokvqa_v1p0_test.json", [{key: row[key] for key in list(row)[:4]}])
    put(tmp_path / "val2017/000000000007.jpg", shaded())
    record, out_of_range, empty = read("aokvqa", tmp_path)
    assert isinstance(record, Record) and isinstance(out_of_range, BadRecord) and isinstance(empty, BadRecord)
    assert texts(record) == ["<image>\nWhat?", "c"], "the right choice, though x is a more frequent direct answer"
    assert record.answers == ["c", "x", "x", "y"] and record.choices == ["a", "b", "c", "d"]
    assert json.loads(record.provenance["rationales"]) == ["Because."]
    assert out_of_range.reason == "no answer: choice 4 of ['a', 'b', 'c', 'd']"
    assert empty.reason == "no answer: the list of answers is empty"
    (hidden,) = read("aokvqa", tmp_path, split="test")
    assert texts(hidden) == ["<image>\nWhat?"]
    assert isinstance(hidden, Record) and hidden.choices == ["a", "b", "c", "d"] and not hidden.answers


def test_gqa_in_several_files(tmp_path: Path) -> None:
    row = {"imageId": "n5", "question": "What is it?", "answer": "cup", "fullAnswer": "It is a cup."}
    for number in (0, 2, 10):
        put(tmp_path / f"train_all_questions/train_all_questions_{number}.json", {f"q{number}": row, f"x{number}": {}})
    put(tmp_path / "images/n5.jpg", shaded())
    items = read("gqa", tmp_path, split="train_all")
    assert [item.id for item in items if isinstance(item, Record)] == [f"gqa/train_all/q{n}" for n in (0, 2, 10)]
    bad = [item for item in items if isinstance(item, BadRecord)]
    assert [item.id for item in bad] == [f"gqa/train_all/x{n}" for n in (0, 2, 10)]
    assert {item.reason for item in bad} == {"no answer: the list of answers is empty"}
    put(tmp_path / "submission_all_questions.json", {"s": {"imageId": "n5", "question": "What?"}})
    (open_question,) = read("gqa", tmp_path, split="submission_all")
    assert texts(open_question) == ["<image>\nWhat?"]


def test_gqa_keeps_what_its_evaluation_needs(tmp_path: Path) -> None:
    row = {
        "imageId": "12",
        "question": "What is it?",
        "answer": "cup",
        "isBalanced": True,
        "semantic": [{}, {}],
        "types": {"structural": "query", "semantic": "obj", "detailed": "d"},
        "groups": {"global": "thing"},
        "entailed": ["1", "2"],
    }
    put(tmp_path / "val_balanced_questions.json", {"1": row})
    put(tmp_path / "images/12.jpg", shaded())
    (record,) = read("gqa", tmp_path, split="val")
    assert isinstance(record, Record)
    assert record.provenance == {
        "image_id": "12",
        "question_id": "1",
        "structural": "query",
        "semantic": "obj",
        "detailed": "d",
        "isBalanced": "true",
        "global_group": "thing",
        "num_steps": "2",
        "entailed": '["1", "2"]',
    }


# ---------------------------------------------------------------- what is missing

MISSING: list[tuple[str, str, str, str]] = [
    ("vqav2", "train", "v2_OpenEnded_mscoco_train2014_questions.json", "visualqa.org/download"),
    ("vqav2", "val", "v2_mscoco_val2014_annotations.json", "visualqa.org/download"),
    ("okvqa", "train", "mscoco_train2014_annotations.json", "okvqa.allenai.org"),
    ("aokvqa", "val", "aokvqa_v1p0_val.json", "aokvqa_v1p0.tar.gz"),
    ("gqa", "testdev", "testdev_balanced_questions.json", "gqa/questions1.2.zip"),
    ("textvqa", "train", "TextVQA_0.5.1_train.json", "textvqa/data/TextVQA_0.5.1_train.json"),
    ("textcaps", "val", "TextCaps_0.1_val.json", "textcaps/TextCaps_0.1_val.json"),
    ("vizwiz", "train", "Annotations/train.json", "vizwiz.cs.colorado.edu"),
    ("scienceqa", "train", "problems.json", "lupantech/ScienceQA"),
    ("pope", "random", "coco_pope_random.json", "RUCAIBox/POPE"),
    ("mme", "test", "color/", "BradyFU"),
]


@pytest.mark.parametrize(("kind", "split", "file", "origin"), MISSING)
def test_a_missing_file_is_named_with_its_origin(tmp_path: Path, kind: str, split: str, file: str, origin: str) -> None:
    source = open_source(SourceConfig(kind=kind, path=str(tmp_path), split=split))
    for need in source.requirements:
        if need.path != file:
            put(tmp_path / need.path, [])
    with pytest.raises(DataError, match=rf"{file.rstrip('/')} is missing\n  → get it from .*{origin}"):
        source.check()


def test_missing_pictures_are_named_with_their_origin(tmp_path: Path) -> None:
    make_vqa(tmp_path)
    with pytest.raises(DataError, match=r"no pictures below .*\n.*images.cocodataset.org.*or set images to the folder"):
        read("vqav2", tmp_path)
    with pytest.raises(ConfigError, match=r"vqav2 has no split 'vall'\n.*'val'"):
        read("vqav2", tmp_path, split="vall")


@pytest.mark.parametrize(
    ("content", "problem"), [(b'{"questions": [', "is no valid JSON"), (b"{}", "has no list 'questions'")]
)
def test_broken_files(tmp_path: Path, content: bytes, problem: str) -> None:
    make_vqa(tmp_path)
    put(tmp_path / "7.jpg", shaded())
    put(tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json", content)
    with pytest.raises(DataError, match=problem):
        read("vqav2", tmp_path)
