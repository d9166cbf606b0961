"""Questions that are answered by reading, by choosing, or with yes and no: small generated cases, whole and damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from setok.data.schema import Record
from setok.data.sources import BadRecord
from setok.data.sources.mme import SUBTASKS
from setok.errors import ConfigError, DataError
from setok.metrics import mme as mme_metric
from tests.source_files import answered, put, read, shaded, texts

# ---------------------------------------------------------------- TextVQA, TextCaps, VizWiz, ScienceQA


def test_textvqa(tmp_path: Path) -> None:
    rows = [
        {"question_id": 1, "image_id": "ab", "question": "what does it say?", "answers": ["stop", "stop sign", "stop"]},
        {"question_id": 3, "image_id": "ab", "question": "none?", "answers": []},
    ]
    put(tmp_path / "TextVQA_0.5.1_train.json", {"data": rows})
    put(tmp_path / "TextVQA_Rosetta_OCR_v0.2_train.json", {"data": [{"image_id": "ab", "ocr_tokens": ["STOP"]}]})
    put(tmp_path / "train_images/ab.jpg", shaded())
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
        put(tmp_path / f"{name}.jpg", shaded())
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
            "answers": answered("unanswerable", "can", "unanswerable"),
        },
        {"image": "VizWiz_val_00000001.jpg", "question": "What?", "answers": []},
    ]
    put(tmp_path / f"{folder}val.json", rows)
    put(tmp_path / f"val/{name}.jpg", shaded())
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
    put(tmp_path / "images/train/1/image.png", shaded())
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
    put(root / f"val2014/{name}", shaded())


def test_pope(tmp_path: Path) -> None:
    make_pope(tmp_path)
    items = read("pope", tmp_path, split="popular")
    assert [item.id for item in items] == [f"pope/popular/popular/{number}" for number in (1, 2, 3)]
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
    put(tmp_path / "color/0001.png", shaded(10))
    put(tmp_path / "color/0001.txt", text)
    put(tmp_path / "artwork/images/0001.jpg", shaded(20))
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
        assert good[2].images[0].data == shaded(10)
        assert good[2].provenance["subtask"] == "color"
    else:
        assert texts(good[1])[1::2] == ["Yes", "No"]


def test_a_subtask_that_mme_does_not_have(tmp_path: Path) -> None:
    assert sorted(SUBTASKS) == sorted(mme_metric.SUBTASKS), "what is read is what is scored"
    put(tmp_path / "colour/0001.txt", b"Is it red?\tYes\nIs it blue?\tNo")
    with pytest.raises(DataError, match=r"colour: MME has no subtask 'colour'\n.*did you mean 'color'"):
        read("mme", tmp_path, split="test")
