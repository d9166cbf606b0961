"""Plain text, read by line without holding it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setok.config import SourceConfig
from setok.data.schema import Record
from setok.data.sources import open_source, text
from setok.data.sources.base import MAX_CHARACTERS
from setok.errors import DataError
from tests.source_files import good, read, reasons


def packed(content: bytes, suffix: str) -> bytes:
    if suffix == ".zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(content)
        return sink.getvalue().to_pybytes()
    return gzip.compress(content, mtime=0) if suffix == ".gz" else content


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_json_lines(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    rows = [{"text": "Ein Haus.\nZwei Häuser. 🐈", "id": 7}, {"text": "one"}, {"text": "two", "id": "x"}]
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "sub" / f"a.jsonl{suffix}").write_bytes(packed(lines.encode(), suffix))
    (tmp_path / f"b.txt{suffix}").write_bytes(packed(b"three\r\n\r\nfour\r\n", suffix))
    records = good(read("text", tmp_path))
    assert [record.caption for record in records] == ["three", "four", "Ein Haus.\nZwei Häuser. 🐈", "one", "two"]
    assert [record.provenance.get("id") for record in records] == [None, None, "7", None, "x"]
    assert records[2].id == f"text/sub/a.jsonl{suffix}/0"
    assert {record.task for record in records} == {"text"}
    assert not any(record.images or record.conversation for record in records)
    assert good(read("text", tmp_path / f"b.txt{suffix}", limit=1))[0].caption == "three"


def test_bad_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        b'{"text": "whole"}', b'{"text": "cut', b'{"txt": "a"}', b'["a"]', b'{"text": 5}', b'{"text": " "}', b"  ",
        b'{"text": "\xff"}', b'{"text": "\\ud83d"}', b'{"text": "an <image> here"}',
        b'{"text": "' + b"x" * MAX_CHARACTERS + b'"}', b'{"text": "' + b"x" * 300_000 + b'"}', b'{"text": "last"}',
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    monkeypatch.setattr(text, "MAX_LINE_BYTES", 200_000)
    assert reasons(read("text", tmp_path)) == [
        "", "no valid JSON", "missing key", "row is no object", "not text", "empty text", "no valid JSON",
        "not UTF-8", "text is not Unicode", "stray <image>", "text too long", "text too long", "",
    ]  # fmt: skip


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("no text of ours")
    with pytest.raises(DataError, match=r"has no lines of text\n.*put lines of text there \(.jsonl or .txt"):
        read("text", tmp_path)
    with pytest.raises(DataError, match=r"a.jsonl is missing\n"):
        read("text", tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 10_000)[:60])
    with pytest.raises(DataError, match=r"a.jsonl.gz cannot be read"):
        read("text", tmp_path)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_file_that_shrinks_or_goes(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(packed(b"one\ntwo\nthree\n", path.suffix if path.suffix == ".gz" else ""))
    source = open_source(SourceConfig(kind="text", path=str(tmp_path)))
    assert len(source) == 3
    path.write_bytes(packed(b"one\n", path.suffix if path.suffix == ".gz" else ""))
    assert [isinstance(record, Record) for record in source.records(0, 2)] == [True, False]
    other = open_source(SourceConfig(kind="text", path=str(tmp_path)))
    assert len(other) == 1
    path.unlink()
    assert reasons(list(other.records(0, 1))) == ["unreadable file"]


@settings(max_examples=60, deadline=None)
@given(content=st.text("ab\r\n é", max_size=60), chunk=st.integers(1, 9))
def test_spans_are_those_of_splitting(content: str, chunk: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    data = content.encode()
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_CHUNK", chunk)
        spans = text.line_spans(path)
    wanted = [line.removesuffix(b"\r") if end else line for line, end in _lines(data)]
    assert [data[start:stop] for start, stop in spans.tolist()] == [line for line in wanted if line]


def _lines(data: bytes) -> list[tuple[bytes, bool]]:
    """Lines, and whether a line feed ends them."""
    *whole, last = data.split(b"\n")
    return [*((line, True) for line in whole), (last, False)]
