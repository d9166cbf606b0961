"""LLaVA's format in all the sets that have it: LLaVA, ShareGPT4V, ALLaVA, and the merged list of CC3M."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from setok.config import SourceConfig
from setok.data.schema import Record
from setok.data.sources import BadRecord, open_source
from setok.errors import ConfigError, DataError
from tests.source_files import good, jpeg, read, reasons


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": speaker, "value": text} for speaker, text in turns]


ASKED = ("human", "<image>\nWhat is this?")
TOLD = ("gpt", "A red  cup on a table.")


def write(path: Path, rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg())


# ---------------------------------------------------------------- LLaVA


def test_llava_pretrain_captions(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "00453" / "004539375.jpg")
    rows = [{"id": "004539375", "image": "00453/004539375.jpg", "conversations": said(ASKED, TOLD)}]
    write(tmp_path / "blip_laion_cc_sbu_558k.json", rows)
    (record,) = good(read("llava_pretrain", tmp_path))
    assert record.id == "llava_pretrain/blip_laion_cc_sbu_558k/0"
    assert (record.task, record.caption) == ("caption", "A red cup on a table.")
    assert record.concepts == ["red cup", "table"]
    assert record.answers == [record.caption]
    assert record.images[0].data == jpeg()
    assert [turn.role for turn in record.conversation] == ["user", "assistant"]
    assert record.provenance["image"] == "00453/004539375.jpg"


def test_llava_pretrain_595k(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture(tmp_path / "GCC_train_1.jpg")
    write(tmp_path / "metadata.json", [{"id": "1", "image": "GCC_train_1.jpg", "caption": "a cat", "url": "u"}])
    with caplog.at_level(logging.INFO):
        (bare,) = good(read("llava_pretrain", tmp_path))
    assert "metadata.json" in caplog.text
    assert (bare.task, bare.caption, bare.conversation) == ("caption", "a cat", [])
    assert bare.provenance["url"] == "u"
    write(tmp_path / "chat.json", [{"id": "1", "image": "GCC_train_1.jpg", "conversations": said(ASKED, TOLD)}])
    assert good(read("llava_pretrain", tmp_path))[0].conversation
    assert not good(read("llava_pretrain", tmp_path, split="595k_captions"))[0].conversation


def test_llava_instruct_mix(tmp_path: Path) -> None:
    for name in ("coco/train2017/000000000001.jpg", "gqa/images/2.jpg"):
        picture(tmp_path / "data" / name)
    rows = [
        {"id": "1", "image": "coco/train2017/000000000001.jpg", "conversations": said(ASKED, TOLD, ("human", "Sure?"), TOLD)},
        {"id": "2", "image": "gqa/images/2.jpg", "conversations": said(("system", "Be brief."), ASKED, TOLD)},
        {"id": "wgByO4Y_0", "model": "", "conversations": said(("gpt", "Hello!"), ("human", "Hi"), ("gpt", "How are you?"))},
        {"id": "4", "image": ["coco/train2017/000000000001.jpg", "gqa/images/2.jpg"],
         "conversations": said(("human", "<image><image> Same?"), ("gpt", "No."))},
    ]  # fmt: skip
    write(tmp_path / "llava_v1_5_mix665k.json", rows)
    records = good(read("llava_instruct", tmp_path, images=str(tmp_path / "data")))
    assert [len(record.images) for record in records] == [1, 1, 0, 2]
    assert {record.task for record in records} == {"dialogue"}
    assert [[turn.role[0] for turn in record.conversation] for record in records] == [
        ["u", "a", "u", "a"],
        ["s", "u", "a"],
        ["u", "a"],
        ["u", "a"],
    ]
    assert not any(record.caption for record in records)


def test_llava_150k_names_pictures_of_coco(tmp_path: Path) -> None:
    picture(tmp_path / "coco" / "train2017" / "000000033471.jpg")
    row = {"id": "000000033471", "image": "000000033471.jpg", "conversations": said(ASKED, TOLD)}
    write(tmp_path / "llava_instruct_150k.json", [row, row])
    for images in (None, str(tmp_path / "coco"), str(tmp_path / "coco" / "train2017")):
        assert len(good(read("llava_instruct", tmp_path, images=images))) == 2
    source = open_source(SourceConfig(kind="llava_instruct", path=str(tmp_path)))
    before = source.fingerprint()
    picture(tmp_path / "coco" / "train2017" / "000000033472.jpg")
    assert source.fingerprint() != before


BAD = [
    (7, "row is no object"),
    ({"id": "1"}, "missing key"),
    ({"id": "1", "conversations": "Hi"}, "not a list"),
    ({"id": "1", "conversations": []}, "no answer"),
    ({"id": "1", "conversations": said(("human", "Hi"))}, "no answer"),
    ({"id": "1", "conversations": said(("gpt", "Hi"))}, "no answer"),
    ({"id": "1", "conversations": [{"from": "human"}]}, "missing key"),
    ({"id": "1", "conversations": [{"from": "human", "value": None}]}, "not text"),
    ({"id": "1", "conversations": said(("bot", "Hi"), ("gpt", "Hi"))}, "unknown role"),
    ({"id": "1", "conversations": said(("human", "Hi"), ("human", "Hi"))}, "turns do not alternate"),
    ({"id": "1", "conversations": said(("human", "Hi"), ("gpt", " "))}, "empty answer"),
    ({"id": "1", "conversations": said(ASKED, TOLD)}, "slots and input images differ"),
    ({"id": "1", "conversations": said(("human", "Write HTML"), ("gpt", "<image>"))}, "slots and target images differ"),
    ({"id": "1", "image": "a.jpg", "conversations": said(("human", "Hi"), TOLD)}, "slots and input images differ"),
    ({"id": "1", "image": "b.jpg", "conversations": said(ASKED, TOLD)}, "image file missing"),
    ({"id": "1", "image": "../a.jpg", "conversations": said(ASKED, TOLD)}, "image path leaves its folder"),
    ({"id": "1", "image": "/etc/hosts", "conversations": said(ASKED, TOLD)}, "image path leaves its folder"),
    ({"id": "1", "image": "", "conversations": said(ASKED, TOLD)}, "image path leaves its folder"),
    ({"id": "1", "image": 5, "conversations": said(ASKED, TOLD)}, "not text"),
    ({"id": "1", "image": "a\0.jpg", "conversations": said(ASKED, TOLD)}, "impossible file name"),
    ({"id": "1", "image": "a.jpg", "caption": " "}, "empty caption"),
    ({"id": "1", "caption": "a cat"}, "no picture"),
    ({"id": "1", "image": "a.jpg", "caption": ["a cat"]}, "not text"),
]


def test_bad_rows_cost_only_themselves(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    whole = {"id": "1", "image": "a.jpg", "conversations": said(ASKED, TOLD)}
    write(tmp_path / "mine.json", [whole, *(row for row, _ in BAD), whole])
    records = read("llava_instruct", tmp_path / "mine.json")
    assert reasons(records) == ["", *(reason for _, reason in BAD), ""]
    assert records[1].id == "llava_instruct/mine/1"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'[{"id": "1", "conv', "mine.json is no valid JSON"),
        (b'[{"id": "\xff"}]', "mine.json is no valid JSON.*0xff in position 9"),
        (b'{"id": 1}', "mine.json is no list of rows but dict"),
    ],
)
def test_damaged_files_are_named(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_bytes(content)
    with pytest.raises(DataError, match=problem):
        read("llava_instruct", tmp_path / "mine.json")


@pytest.mark.parametrize(
    ("kind", "file", "origin"),
    [
        ("llava_pretrain", "blip_laion_cc_sbu_558k.json", "liuhaotian/LLaVA-Pretrain"),
        ("llava_instruct", "llava_v1_5_mix665k.json", "liuhaotian/LLaVA-Instruct-150K"),
        ("sharegpt4v", "sharegpt4v_instruct_gpt4-vision_cap100k.json", "Lin-Chen/ShareGPT4V"),
        ("allava", "ALLaVA-Caption-LAION-4V.json", "FreedomIntelligence/ALLaVA-4V"),
        ("cc3m", "cc3m.json", "ConceptualCaptions"),
    ],
)
def test_missing_files_are_named(kind: str, file: str, origin: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{file} is missing\n.*get it from https://.*{origin}"):
        read(kind, tmp_path)
    with pytest.raises(DataError, match=rf"mine.json is missing\n.*{origin}"):
        read(kind, tmp_path / "mine.json")
    with pytest.raises(ConfigError, match=rf"{kind} has no split '7k'"):
        open_source(SourceConfig(kind=kind, path=str(tmp_path), split="7k"))


# ---------------------------------------------------------------- the others


def test_sharegpt4v(tmp_path: Path) -> None:
    picture(tmp_path / "sam" / "images" / "sa_1.jpg")
    rows = [{"id": "1", "image": "sam/images/sa_1.jpg", "conversations": said(("human", "Describe.\n<image>"), TOLD)}]
    write(tmp_path / "sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json", rows)
    assert good(read("sharegpt4v", tmp_path))[0].task == "dialogue"
    write(tmp_path / "share-captioner_coco_lcs_sam_1246k_1107.json", rows)
    (record,) = good(read("sharegpt4v", tmp_path, split="pretrain"))
    assert (record.task, record.concepts) == ("caption", ["red cup", "table"])
    assert good(read("sharegpt4v", tmp_path, split="mix665k"))[0].concepts == []


def test_allava(tmp_path: Path) -> None:
    for part in ("laion", "vflan"):
        picture(tmp_path / f"allava_{part}" / "images" / "1.jpeg")
        row = {"id": "1", "image": f"allava_{part}/images/1.jpeg", "conversations": said(ASKED, TOLD), "url": "u"}
        for what in ("Caption", "Instruct"):
            write(tmp_path / f"allava_{part}" / f"ALLaVA-{what}-{part.upper()}-4V.json", [row])
    records = good(read("allava", tmp_path))
    assert [record.task for record in records] == ["caption", "dialogue"] * 2
    assert len(good(read("allava", tmp_path, split="vflan"))) == 2
    assert [record.task for record in good(read("allava", tmp_path, split="instruct"))] == ["dialogue"] * 2
    assert good(read("allava", tmp_path, split="caption", limit=1)) == records[:1]
    write(
        tmp_path / "allava_text" / "Evol-Instruct-GPT4-Turbo-143K.json",
        [{"id": "1", "conversations": said(("human", "Hi"), TOLD)}],
    )
    assert good(read("allava", tmp_path, split="text"))[0].images == []


def test_cc3m_merged_list(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "00001" / "000010023.jpg")
    picture(tmp_path / "images" / "000000002.jpg")
    rows = [
        {"key": "000010023", "caption": "a cat", "status": "success", "url": "u"},
        {"key": "000000002", "caption": "a dog"},
        {"image": "00001/000010023.jpg", "conversations": said(ASKED, TOLD)},
        {"key": "000010024", "caption": "a cow", "status": "failed_to_download", "error_message": "404"},
        {"key": "000010025", "caption": "a cow", "status": "success"},
        {"caption": "a cow"},
        "a cow",
    ]
    write(tmp_path / "cc3m.json", rows)
    records = read("cc3m", tmp_path)
    assert reasons(records) == ["", "", "", "not downloaded", "image file missing", "missing key", "row is no object"]
    first, _, told = records[:3]
    assert isinstance(first, Record) and isinstance(told, Record)
    assert (first.caption, first.concepts, first.provenance["url"]) == ("a cat", ["cat"], "u")
    assert told.caption == "A red cup on a table."
    assert records[4] == BadRecord(id="cc3m/cc3m/4", reason="image file missing: 000010025.jpg")
