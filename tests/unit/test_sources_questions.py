"""Questions about pictures: small generated cases of every layout, whole and damaged."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from setok.config import SourceConfig
from setok.data.schema import Record
from setok.data.sources import BadRecord, open_source
from setok.errors import ConfigError, DataError


def jpeg(shade: int = 90, size: tuple[int, int] = (12, 10)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 30, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def read(kind: str, path: Path, **settings: Any) -> list[Record | BadRecord]:
    source = open_source(SourceConfig(kind=kind, path=str(path), **settings))
    source.check()
    items = list(source.records(0, len(source)))
    assert [*source.records(0, 1), *source.records(1, 2), *source.records(2, 999)] == items
    for item in items:
        if isinstance(item, Record):
            item.check()
    return items


def texts(record: Record | BadRecord) -> list[str]:
    assert isinstance(record, Record), record
    return [turn.text for turn in record.conversation]


def ten(*answers: str) -> list[dict[str, Any]]:
    return [{"answer": answer, "answer_confidence": "yes", "answer_id": n} for n, answer in enumerate(answers, 1)]


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
        {"question_id": 71, "answers": ten("yes", "no", "no", "yes"), "answer_type": "yes/no"},
        {"question_id": 70, "answers": ten("blue", "red", "red ", ""), "answer_type": "other"},
        {"question_id": 80, "answers": ten("2")},
        {"question_id": 90, "answers": ten("there")},
        {"question_id": 81, "answers": ten(" ", "")},
        {"question_id": 82, "answers": ten("x")},
    ]
    put(root / f"{prefix}OpenEnded_mscoco_{split}_questions.json", {"questions": asked})
    put(root / f"{prefix}mscoco_{split}_annotations.json", {"annotations": given})


@pytest.mark.parametrize(("kind", "prefix"), [("vqav2", "v2_"), ("okvqa", "")])
def test_vqa_each(tmp_path: Path, kind: str, prefix: str) -> None:
    make_vqa(tmp_path, prefix)
    for name in ("train2014/COCO_train2014_000000000007.jpg", "val2017/000000000008.jpg"):
        put(tmp_path / name, jpeg())
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
        put(tmp_path / f"pictures/{number:012d}.jpg", jpeg())
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
    put(tmp_path / "test2015/COCO_test2015_000000000007.jpg", jpeg())
    items = read("vqav2", tmp_path, split="test", turns=turns)
    assert [texts(item) for item in items] == [["<image>\nWhat?"]] * 2
    assert all(isinstance(item, Record) and item.answers == [] for item in items)


def test_the_first_folder_with_a_picture_counts_and_folders_are_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_vqa(tmp_path)
    put(tmp_path / "train2014/7.jpg", jpeg(10))
    put(tmp_path / "val2017/000000000007.jpg", jpeg(200))
    put(tmp_path / "val2017/._000000000008.jpg", b"no picture")
    source = open_source(SourceConfig(kind="vqav2", path=str(tmp_path)))
    source.check()
    (tmp_path / "val2017/000000000007.jpg").unlink()
    (first,) = source.records(0, 1)
    assert isinstance(first, Record) and first.images[0].data == jpeg(10)
    before = source.fingerprint()
    put(tmp_path / "val2017/000000000008.jpg", jpeg())
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
    put(tmp_path / "val2017/000000000007.jpg", jpeg())
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
    put(tmp_path / "images/n5.jpg", jpeg())
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
    put(tmp_path / "images/12.jpg", jpeg())
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


# ---------------------------------------------------------------- TextVQA, TextCaps, VizWiz, ScienceQA


def test_textvqa(tmp_path: Path) -> None:
    rows = [
        {"question_id": 1, "image_id": "ab", "question": "what does it say?", "answers": ["stop", "stop sign", "stop"]},
        {"question_id": 3, "image_id": "ab", "question": "none?", "answers": []},
    ]
    put(tmp_path / "TextVQA_0.5.1_train.json", {"data": rows})
    put(tmp_path / "TextVQA_Rosetta_OCR_v0.2_train.json", {"data": [{"image_id": "ab", "ocr_tokens": ["STOP"]}]})
    put(tmp_path / "train_images/ab.jpg", jpeg())
    first, bad = read("textvqa", tmp_path)
    assert texts(first) == ["<image>\nwhat does it say?", "stop"]
    assert isinstance(first, Record) and first.provenance["ocr_tokens"] == '["STOP"]'
    assert bad == BadRecord(id="textvqa/train/3", reason="no answer: the list of answers is empty")
    early = [{"image": "train/ab.jpg", "question": f"question {n}?", "answers": ["yes"]} for n in range(2)]
    put(tmp_path / "TextVQA_0.5.1_train.json", {"data": early})
    assert [item.id for item in read("textvqa", tmp_path)] == ["textvqa/train/0", "textvqa/train/1"]


def test_textcaps(tmp_path: Path) -> None:
    rows = [
        {"image_id": "ab", "caption_str": "A red stop sign.", "reference_strs": ["A red stop sign.", "A sign."]},
        {"image_id": "cd", "caption_str": "A bottle."},
        {"image_id": "ab", "caption_str": "A sign."},
        {"caption_str": "Of nothing."},
        {"image_id": "gone", "caption_str": "A cup."},
    ]
    put(tmp_path / "TextCaps_0.1_train.json", {"data": rows})
    put(tmp_path / "TextCaps_0.1_test.json", {"data": [{"image_id": "zz"}]})
    for name in ("train_images/ab", "train_images/cd", "test_images/zz"):
        put(tmp_path / f"{name}.jpg", jpeg())
    sign, bottle, gone, nothing = read("textcaps", tmp_path)
    assert isinstance(sign, Record) and isinstance(bottle, Record)
    assert sign.task == "caption" and sign.caption == "A red stop sign."
    assert sign.answers == ["A red stop sign.", "A sign."]
    assert bottle.concepts == ["bottle"]
    assert gone == BadRecord(id="textcaps/train/gone", reason="image file missing: gone")
    assert nothing == BadRecord(id="textcaps/train/row-3", reason="missing key: 'image_id'")
    (test,) = read("textcaps", tmp_path, split="test")
    assert isinstance(test, Record) and test.task == "image" and not test.caption


@pytest.mark.parametrize("folder", ["Annotations/", ""])
def test_vizwiz(tmp_path: Path, folder: str) -> None:
    name = "VizWiz_val_00000000"
    rows = [
        {
            "image": f"{name}.jpg",
            "question": "What is this?",
            "answer_type": "unanswerable",
            "answerable": 0,
            "answers": ten("unanswerable", "can", "unanswerable"),
        },
        {"image": "VizWiz_val_00000001.jpg", "question": "What?", "answers": []},
    ]
    put(tmp_path / f"{folder}val.json", rows)
    put(tmp_path / f"val/{name}.jpg", jpeg())
    record, bad = read("vizwiz", tmp_path, split="val")
    assert texts(record) == ["<image>\nWhat is this?", "unanswerable"]
    assert isinstance(record, Record)
    assert record.id == f"vizwiz/val/{name}"
    assert record.provenance == {
        "image_id": name,
        "question_id": name,
        "answer_type": "unanswerable",
        "answerable": "false",
    }
    assert isinstance(bad, BadRecord) and bad.reason.startswith("no answer")


def test_scienceqa(tmp_path: Path) -> None:
    row = {
        "question": "Which is it?",
        "choices": ["a", "b"],
        "answer": 1,
        "hint": "",
        "image": None,
        "split": "train",
        "subject": "natural science",
        "lecture": "L",
        "solution": "S",
    }
    problems = {
        "1": row | {"image": "image.png", "hint": "Look at\nthe passage."},
        "2": row,
        "3": row | {"answer": 2},
        "4": row | {"image": "../../secret.png"},
    }
    put(tmp_path / "problems.json", problems)
    put(tmp_path / "pid_splits.json", {"train": ["1", "2", "3", "4", "5"], "minitrain": ["2"]})
    put(tmp_path / "images/train/1/image.png", jpeg())
    for turns in ("each", "all"):
        with_picture, without, bad, outside, absent = read("scienceqa", tmp_path, turns=turns)
        assert texts(with_picture) == ["<image>\nLook at the passage.\nWhich is it?", "b"]
        assert texts(without) == ["Which is it?", "b"]
        assert isinstance(without, Record) and not without.images and without.choices == ["a", "b"]
        assert without.provenance["solution"] == "S"
        assert isinstance(bad, BadRecord) and bad.reason == "no answer: choice 2 of ['a', 'b']"
        assert isinstance(outside, BadRecord) and "leaves its folder" in outside.reason
        assert isinstance(absent, BadRecord)
    assert len(read("scienceqa", tmp_path, split="minitrain")) == 1
    with pytest.raises(ConfigError, match=r"no split 'trian'\n.*'train'"):
        read("scienceqa", tmp_path, split="trian")


# ---------------------------------------------------------------- POPE, MME


def make_pope(root: Path) -> None:
    name = "COCO_val2014_000000000007.jpg"
    for category in ("random", "popular", "adversarial"):
        rows = [
            {"question_id": 1, "image": name, "text": "Is there a cup in the image?", "label": "yes"},
            {"question_id": 2, "image": name, "text": f"Is there a {category} in the image?", "label": "No"},
            {"question_id": 3, "image": name, "text": "Is there?", "label": "perhaps"},
        ]
        put(root / f"coco_pope_{category}.json", "\n".join(json.dumps(row) for row in rows).encode() + b"\n\n")
    put(root / f"val2014/{name}", jpeg())


def test_pope(tmp_path: Path) -> None:
    make_pope(tmp_path)
    items = read("pope", tmp_path, split="popular")
    assert [item.id for item in items] == [f"pope/popular/popular/{number}" for number in (1, 2)] + ["pope/popular/3"]
    assert texts(items[1]) == ["<image>\nIs there a popular in the image?", "no"]
    assert isinstance(items[2], BadRecord) and "label 'perhaps' is neither yes nor no" in items[2].reason
    whole = [item for item in read("pope", tmp_path, split="test", turns="all") if isinstance(item, Record)]
    assert [record.id for record in whole] == [f"pope/test/image/{c}/7" for c in ("random", "popular", "adversarial")]
    assert all(len(record.conversation) == 4 for record in whole)
    with pytest.raises(ConfigError, match=r"pope has no split 'train'\n.*adversarial, popular, random, test"):
        read("pope", tmp_path)
    (tmp_path / "coco_pope_random.json").write_text('{"question_id": 1}\n{"question')
    with pytest.raises(DataError, match=r"coco_pope_random.json, line 2, is no valid JSON"):
        read("pope", tmp_path, split="random")


@pytest.mark.parametrize("turns", ["each", "all"])
def test_mme(tmp_path: Path, turns: str) -> None:
    text = b"Is it red? Please answer yes or no.\tYes\r\nIs it blue? Please answer yes or no.\tNo\n"
    put(tmp_path / "color/0001.png", jpeg(10))
    put(tmp_path / "color/0001.txt", text)
    put(tmp_path / "artwork/images/0001.jpg", jpeg(20))
    put(tmp_path / "artwork/questions_answers_YN/0001.txt", text)
    put(tmp_path / "OCR/0002.txt", b"no tab here\nIs it?\tMaybe\nIs\xff it?\tYes\nIs it?\tYes")
    records = read("mme", tmp_path, split="test", turns=turns)
    good = [item for item in records if isinstance(item, Record)]
    reasons = [item.reason for item in records if isinstance(item, BadRecord)]
    assert len(reasons) == 4
    assert sum("no question, tab, Yes or No" in reason for reason in reasons) == 2
    assert "image file missing: 0002" in reasons
    if turns == "each":
        assert [record.id for record in good] == [
            f"mme/test/{s}/0001/{n}" for s in ("artwork", "color") for n in (0, 1)
        ]
        assert good[2].images[0].data == jpeg(10)
        assert good[2].provenance["subtask"] == "color"
    else:
        assert texts(good[1])[1::2] == ["Yes", "No"]


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
    put(tmp_path / "7.jpg", jpeg())
    put(tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json", content)
    with pytest.raises(DataError, match=problem):
        read("vqav2", tmp_path)
