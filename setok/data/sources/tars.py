"""Where the samples of a tar lie, so that any of them can be read without what comes before it.

A sample is, as in WebDataset (Aizman et al. 2019), a run of files that share their name up to the first dot of its last
part: ``a/0001.jpg``, ``a/0001.seg.png`` and ``a/0001.txt`` are the members ``jpg``, ``seg.png`` and ``txt`` of ``a/0001``.

The headers are read here and not by ``tarfile``, which takes three times as long for them (the tars of img2dataset have two
for each file) and ends at a damaged one as if the tar ended there. The format is that of POSIX.1-2001 (``ustar`` and
``pax``) with GNU's long names.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from setok.errors import DataError

MAX_SAMPLE_BYTES = 2**28
"""A larger sample is not read into memory."""
_BLOCK = tarfile.BLOCKSIZE
_MAX_NAME_BYTES = 2**20
_FILE, _PAX, _LONG_NAME, _LONG_LINK = (b"0", b"\0", b"7"), b"x", b"L", b"K"


@dataclass(frozen=True)
class TarIndex:
    """The samples of one tar."""

    path: Path
    spans: Int64[np.ndarray, "samples 2"]
    """First byte of each sample's first header, and the byte after the last block of its last member."""
    fault: str
    """Why the tar ends where it does, if it is cut off or damaged there; else empty."""


@dataclass(frozen=True)
class Sample:
    """The files of one sample, in the order of the tar."""

    key: str
    members: dict[str, bytes]
    """By what follows the key, in lower case and without the dot."""


def index_tar(path: Path) -> TarIndex:
    """Read the headers of a tar, not its contents.

    The last sample before a fault is left out, because files of it may be missing.
    """
    spans: list[list[int]] = []
    last_key, fault = "", ""
    try:
        with path.open("rb") as file:
            descriptor, length = file.fileno(), os.fstat(file.fileno()).st_size
            for member in _members(lambda start, size: os.pread(descriptor, size, start), length):
                key = split_name(member.name)[0]
                if key and key != last_key:
                    spans.append([member.start, 0])
                    last_key = key
                if key:
                    spans[-1][1] = member.stop
    except tarfile.TarError as error:
        fault = str(error)
    except OSError as error:
        fault = error.strerror or str(error)
    if fault and spans:
        spans.pop()
    return TarIndex(path, np.array(spans, np.int64).reshape(-1, 2), fault)


def read_sample(path: Path, start: int, stop: int) -> Sample:
    """The files between two bytes that ``index_tar`` named.

    Raises:
        DataError: the sample is too large, or the tar can no longer be read there.
    """
    if stop - start > MAX_SAMPLE_BYTES:
        raise DataError(f"sample too large: {stop - start} bytes, {MAX_SAMPLE_BYTES} are allowed", "leave it out")
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(stop - start)
        found = list(_members(lambda first, size: data[first : first + size], stop - start, ends_in_zeros=False))
    except tarfile.TarError as error:
        raise DataError(f"broken tar: {path.name} at byte {start}: {error}", "get the tar again") from error
    except OSError as error:
        raise DataError(
            f"unreadable file: {path.name}: {error.strerror}", "look at its permissions and the disk"
        ) from error
    parts = [(*split_name(member.name), data[member.data : member.data + member.size]) for member in found]
    parts = [part for part in parts if part[0]]
    return Sample(parts[0][0], {extension: content for _, extension, content in parts})


def split_name(name: str) -> tuple[str, str]:
    """A member's key and the rest of its name in lower case; an empty key for hidden files and those of no sample."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, extension = base.partition(".")
    return (folder + slash + stem if stem and extension else ""), extension.lower()


# ---------------------------------------------------------------- headers


@dataclass(frozen=True, slots=True)
class _Member:
    """A regular file in a tar."""

    name: str
    start: int
    """First byte of its first header."""
    data: int
    """First byte of its contents."""
    size: int
    stop: int
    """The byte after its last block."""


def _members(read: Callable[[int, int], bytes], length: int, *, ends_in_zeros: bool = True) -> Iterator[_Member]:
    """The regular files of a tar, from a function of first byte and size, and the length in bytes.

    Raises:
        tarfile.TarError: a header is damaged, or the tar is cut off.
    """
    offset, start, long_name, long_size = 0, -1, "", -1
    while ends_in_zeros or offset < length:
        block = read(offset, _BLOCK)
        if len(block) < _BLOCK:
            raise tarfile.ReadError("cut off before its end")
        if not any(block):
            return
        size = _size_in(block, offset)
        kind, data = block[156:157], offset + _BLOCK
        if kind in _FILE and long_size >= 0:
            size = long_size
        stop = data + -(-size // _BLOCK) * _BLOCK
        start = offset if start < 0 else start
        if kind in (_PAX, _LONG_NAME):
            if size > _MAX_NAME_BYTES:
                raise tarfile.ReadError(f"damaged header at byte {offset}")
            content = read(data, size)
            if kind == _LONG_NAME:
                long_name = _text(content)
            else:
                values = _pax_values(content, offset)
                long_name = _text(values.get(b"path", b"")) or long_name
                long_size = int(values.get(b"size", b"-1"))
        elif kind != _LONG_LINK:
            if kind in _FILE:
                yield _Member(long_name or _name_in(block), start, data, size, stop)
            start, long_name, long_size = -1, "", -1
        if stop > length:
            raise tarfile.ReadError("cut off before its end")
        offset = stop


def _size_in(block: bytes, offset: int) -> int:
    """The size that a header gives, if its checksum is right."""
    try:
        checksum, size = _number(block[148:156]), _number(block[124:136])
    except ValueError as error:
        raise tarfile.ReadError(f"damaged header at byte {offset}") from error
    if checksum != sum(block) - sum(block[148:156]) + 8 * ord(" ") or size < 0:
        raise tarfile.ReadError(f"damaged header at byte {offset}")
    return size


def _number(field: bytes) -> int:
    """A number of a header: octal digits, or GNU's big-endian bytes behind a byte of 128 for one that needs more."""
    if field[0] == 0o200:
        return int.from_bytes(field[1:], "big")
    return int(field.partition(b"\0")[0].strip() or b"0", 8)


def _name_in(block: bytes) -> str:
    name = _text(block[:100])
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _pax_values(content: bytes, offset: int) -> dict[bytes, bytes]:
    """Records ``LENGTH KEY=VALUE\\n`` of an extended header."""
    values = {}
    while content:
        digits = content.partition(b" ")[0]
        if not digits.isdigit() or not len(digits) < int(digits) <= len(content):
            raise tarfile.ReadError(f"damaged header at byte {offset}")
        key, _, value = content[len(digits) + 1 : int(digits) - 1].partition(b"=")
        values[key] = value
        content = content[int(digits) :]
    if not values.get(b"size", b"0").isdigit():
        raise tarfile.ReadError(f"damaged header at byte {offset}")
    return values


def _text(name: bytes) -> str:
    return name.partition(b"\0")[0].decode(errors="replace")
