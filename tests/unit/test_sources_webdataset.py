"""WebDataset tars, and the files that img2dataset writes in place of them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setok.data.schema import Record
from setok.data.sources import BadRecord, tars
from setok.data.sources.tars import index_tar, read_sample, split_name
from setok.errors import DataError
from tests.source_files import good, jpeg, read, reasons

META = {"caption": "a dog on a couch", "url": "http://u", "key": "000000001", "status": "success", "sha256": "00"}


def write_tar(
    path: Path, members: list[tuple[str, bytes]], *, format: int = tarfile.PAX_FORMAT, mtime: float = 0
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), mtime
            tar.addfile(info, io.BytesIO(content))


def write_shards(root: Path) -> None:
    """Two shards of img2dataset, three samples each."""
    for shard in range(2):
        members = []
        for number in range(3):
            key = f"{shard:05d}{number:04d}"
            members += [(f"{key}.jpg", jpeg((number, shard, 0))), (f"{key}.txt", f"a red  cup {key}".encode())]
            members += [(f"{key}.json", json.dumps(META | {"key": key}).encode())]
        write_tar(root / f"{shard:05d}.tar", members)
    (root / "00000_stats.json").write_text("{}")


def test_tars_of_img2dataset(tmp_path: Path) -> None:
    write_shards(tmp_path)
    records = good(read("webdataset", tmp_path))
    assert [record.id for record in records] == [
        f"webdataset/{shard:05d}/{shard:05d}{number:04d}" for shard in range(2) for number in range(3)
    ]
    assert records[4].images[0].data == jpeg((1, 1, 0))
    assert records[4].caption == "a red cup 000010001"
    assert records[4].provenance == {
        "file": "00001.tar",
        "key": "000010001",
        "url": "http://u",
        "sha256": "00",
    }
    assert {record.task for record in records} == {"caption"}
    assert good(read("webdataset", tmp_path / "00001.tar")) == records[3:]
    assert good(read("webdataset", tmp_path, limit=4)) == records[:4]


def test_classes_and_metadata(tmp_path: Path) -> None:
    members = [
        ("a/1.JPG", jpeg()), ("a/1.cls", b"7"), ("a/1.json", b'{"class_name": "cock, rooster"}'),
        ("a/2.png", jpeg()), ("a/2.cls", b"goldfish"),
        ("a/3.webp", jpeg()), ("a/3.cls", b"8"),
        ("a/4.seg.png", b"no picture of its own"), ("a/4.jpeg", jpeg()), ("a/4.json", json.dumps(META).encode()),
        ("a/.hidden", b""), ("__index__", b""),
    ]  # fmt: skip
    write_tar(tmp_path / "sub" / "x.tar", members)
    named, own, bare, captioned = good(read("webdataset", tmp_path))
    assert (named.task, named.answers, named.concepts) == ("classify", ["cock, rooster"], ["cock"])
    assert named.provenance["label"] == "7"
    assert (own.task, own.concepts) == ("classify", ["goldfish"])
    assert (bare.task, bare.answers) == ("image", [])
    assert (captioned.task, captioned.caption, captioned.concepts) == ("caption", META["caption"], ["dog", "couch"])
    assert captioned.images[0].data == jpeg()
    assert captioned.id == "webdataset/sub/x/a/4"


def test_bad_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [
        ("1.txt", b"a cat"),
        ("2.jpg", jpeg()), ("2.txt", b"a \xff cat"),
        ("3.jpg", jpeg()), ("3.json", b"{"),
        ("4.jpg", jpeg()), ("4.json", b"[]"),
        ("5.jpg", jpeg()), ("5.json", b'{"caption": 5}'),
        ("6.jpg", jpeg()), ("6.npy", bytes(100_000)),
        ("7.jpg", jpeg()), ("7.json", b'{"caption": null}'),
    ]  # fmt: skip
    write_tar(tmp_path / "x.tar", members)
    monkeypatch.setattr(tars, "MAX_SAMPLE_BYTES", 50_000)
    records = read("webdataset", tmp_path)
    assert reasons(records) == [
        *("no picture", "not UTF-8", "no valid JSON", "no valid metadata", "not text", "sample too large", "")
    ]
    assert all("(x.tar, sample " in record.reason for record in records if isinstance(record, BadRecord))
    assert isinstance(records[-1], Record)
    assert records[-1].task == "image"


def test_a_broken_tar_costs_one_record(tmp_path: Path) -> None:
    write_shards(tmp_path)
    first = tmp_path / "00000.tar"
    whole = first.read_bytes()
    spans = index_tar(first).spans
    for cut in (spans[2, 0] + 700, spans[2, 1] - 1, spans[2, 1] + 10):
        first.write_bytes(whole[:cut])
        records = read("webdataset", tmp_path)
        assert [record.id for record in records[:2]] == ["webdataset/00000/000000000", "webdataset/00000/000000001"]
        assert reasons(records) == ["", "", "broken tar", "", "", ""]
        assert "00000.tar" in records[2].reason and "after 2 whole samples" in records[2].reason
    damaged = bytearray(whole)
    damaged[spans[1, 0] : spans[1, 0] + 100] = b"\xff" * 100
    first.write_bytes(bytes(damaged))
    assert "damaged header at byte" in read("webdataset", tmp_path)[0].reason
    for content in (b"", b"no tar at all" * 100):
        first.write_bytes(content)
        assert reasons(read("webdataset", tmp_path)) == ["broken tar", "", "", ""]


def test_a_tar_that_breaks_after_it_was_indexed(tmp_path: Path) -> None:
    write_shards(tmp_path)
    path = tmp_path / "00000.tar"
    start, stop = index_tar(path).spans[1].tolist()
    assert read_sample(path, start, stop).key == "000000001"
    path.write_bytes(path.read_bytes()[: start + 600])
    with pytest.raises(DataError, match=r"broken tar: 00000.tar at byte"):
        read_sample(path, start, stop)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"broken tar: 00000.tar at byte"):
        read_sample(path, start, stop)
    path.unlink()
    with pytest.raises(DataError, match=r"unreadable file: 00000.tar"):
        read_sample(path, start, stop)


def test_no_tar(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    with pytest.raises(DataError, match=r"\*\*/\*.tar is missing\n.*img2dataset"):
        read("webdataset", tmp_path)
    with pytest.raises(DataError, match=r"x.tar is missing"):
        read("webdataset", tmp_path / "x.tar")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.jpg", ("a", "jpg")),
        ("./b/a.seg.PNG", ("b/a", "seg.png")),
        ("x.y/a.txt", ("x.y/a", "txt")),
        (".hidden.jpg", ("", "hidden.jpg")),
        ("README", ("", "")),
    ],
)
def test_names(name: str, parts: tuple[str, str]) -> None:
    assert split_name(name) == parts


_NAMES = st.text("abc/é", min_size=1, max_size=150).map(lambda text: "k" + text.replace("//", "/").strip("/"))


@settings(max_examples=40, deadline=None)
@given(
    keys=st.lists(_NAMES, min_size=1, max_size=6, unique=True),
    sizes=st.lists(st.integers(0, 1500), min_size=12, max_size=12),
    format=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    mtime=st.sampled_from([0, 1.5]),
)
def test_every_sample_is_found_whatever_its_names(
    keys: list[str], sizes: list[int], format: int, mtime: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Long names, other alphabets and times with a fraction take headers of their own, which belong to the sample."""
    path = tmp_path_factory.mktemp("tars") / "x.tar"
    contents = {key: {"jpg": bytes(sizes[i]), "txt": b"x" * sizes[-1 - i]} for i, key in enumerate(keys)}
    members = [(f"{key}.{kind}", data) for key, parts in contents.items() for kind, data in parts.items()]
    write_tar(path, members, format=format, mtime=mtime)
    index = index_tar(path)
    assert index.fault == ""
    samples = [read_sample(path, *span.tolist()) for span in index.spans]
    assert [(sample.key, sample.members) for sample in samples] == list(contents.items())


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_other_members_are_passed_over(format: int, tmp_path: Path) -> None:
    folder = "f" * 90 + "/" + "g" * 60
    with tarfile.open(tmp_path / "x.tar", "w", format=format) as tar:
        for name, kind in (
            (folder, tarfile.DIRTYPE),
            ("a.link", tarfile.SYMTYPE),
            (f"{folder}/1.jpg", tarfile.REGTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "t" * 90 if kind == tarfile.SYMTYPE else ""
            info.size = 600 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    index = index_tar(tmp_path / "x.tar")
    assert index.fault == ""
    (span,) = index.spans
    assert read_sample(index.path, *span.tolist()).key == f"{folder}/1"


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_sizes_that_need_more_than_eleven_octal_digits(format: int, tmp_path: Path) -> None:
    """The file has a hole where the contents of 8 GiB would be."""
    path = tmp_path / "x.tar"
    write_tar(path, [("1.jpg", b"x")])
    info = tarfile.TarInfo("2.bin")
    info.size = 2**33 + 1
    header = info.tobuf(format)
    with path.open("r+b") as file:
        file.seek(1024)
        file.write(header)
        file.truncate(1024 + len(header) + 2**33 + 512 + 1024)
    index = index_tar(path)
    assert index.fault == ""
    assert index.spans.tolist() == [[0, 1024], [1024, 1024 + len(header) + 2**33 + 512]]
    with pytest.raises(DataError, match="sample too large: 85"):
        read_sample(path, *index.spans[1].tolist())


@settings(max_examples=80, deadline=None)
@given(place=st.integers(0, 4095), byte=st.integers(0, 255), stem=st.sampled_from(["k", "é"]))
def test_a_changed_byte_is_a_fault_or_does_not_matter(
    place: int, byte: int, stem: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Headers have a checksum; what the headers of other alphabets hold has none, so a name may change."""
    path = tmp_path_factory.mktemp("tars") / "x.tar"
    write_tar(path, [(f"{stem}{i}.{kind}", b"x" * 300) for i in range(2) for kind in ("jpg", "txt")])
    data = bytearray(path.read_bytes())
    data[place] = byte
    path.write_bytes(bytes(data))
    index = index_tar(path)
    samples = [read_sample(path, *span.tolist()) for span in index.spans]
    if stem == "k":
        assert index.fault or [(one.key, list(one.members)) for one in samples] == [
            (f"k{i}", ["jpg", "txt"]) for i in (0, 1)
        ]
    assert all(len(content) == 300 for one in samples for content in one.members.values())


# ---------------------------------------------------------------- files of img2dataset


def test_files_of_img2dataset(tmp_path: Path) -> None:
    folder = tmp_path / "00000"
    folder.mkdir()
    for number, (text, row) in enumerate(
        [
            (b"a red\ncup", META),
            (None, META),
            (None, {"caption": None}),
            (None, None),
            (b"a \xff cup", META),
            (None, {"caption": 5}),
            (None, [META]),
        ]
    ):
        (folder / f"{number:09d}.jpg").write_bytes(jpeg())
        if text is not None:
            (folder / f"{number:09d}.txt").write_bytes(text)
        if row is not None:
            (folder / f"{number:09d}.json").write_text(json.dumps(row))
    (tmp_path / "00000_stats.json").write_text("{}")
    records = read("img2dataset", tmp_path)
    assert reasons(records) == [*[""] * 4, "caption is not UTF-8", "not text", "metadata is no object but list"]
    written, listed, empty, bare = good(records[:4])
    assert (written.caption, listed.caption) == ("a red cup", META["caption"])
    assert [record.task for record in (written, listed, empty, bare)] == ["caption", "caption", "image", "image"]
    assert written.provenance == {
        "file": "00000/000000000.jpg",
        "key": "000000001",
        "url": "http://u",
        "sha256": "00",
    }


def test_files_and_tars_hold_the_same(tmp_path: Path) -> None:
    write_shards(tmp_path / "tars")
    for path in sorted((tmp_path / "tars").glob("*.tar")):
        with tarfile.open(path) as tar:
            tar.extractall(tmp_path / "files" / path.stem, filter="data")
    from_tars, from_files = good(read("webdataset", tmp_path / "tars")), good(read("img2dataset", tmp_path / "files"))
    assert [(one.images, one.caption, one.concepts) for one in from_tars] == [
        (one.images, one.caption, one.concepts) for one in from_files
    ]
