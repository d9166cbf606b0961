"""Where the samples of a tar lie, so that any of them can be read without what comes before it.

A sample is, as in WebDataset (Aizman et al. 2019), a run of files that share their name up to the first dot of its last
part: ``a/0001.jpg``, ``a/0001.seg.png`` and ``a/0001.txt`` are the members ``jpg``, ``seg.png`` and ``txt`` of ``a/0001``.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from setok.errors import DataError

MAX_SAMPLE_BYTES = 2**28
"""A larger sample is not read into memory."""


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


def split_name(name: str) -> tuple[str, str]:
    """A member's key and the rest of its name in lower case; an empty key for hidden files and those of no sample."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, extension = base.partition(".")
    return (folder + slash + stem if stem and extension else ""), extension.lower()


def index_tar(path: Path) -> TarIndex:
    """Read the headers of a tar, not its contents.

    The last sample before a fault is left out, because files of it may be missing.
    """
    spans: list[list[int]] = []
    last_key, fault = "", ""
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep every header
                key = split_name(member.name)[0] if member.isreg() else ""
                if not key:
                    continue
                if key != last_key:
                    spans.append([member.offset, 0])
                    last_key = key
                spans[-1][1] = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            fault = _fault_at(path, tar.offset)
    except (tarfile.TarError, EOFError) as error:
        fault = str(error) or type(error).__name__
    except OSError as error:
        fault = error.strerror or str(error)
    if fault and spans:
        spans.pop()
    return TarIndex(path, np.array(spans, np.int64).reshape(-1, 2), fault)


def _fault_at(path: Path, offset: int) -> str:
    """A whole tar ends in a block of zeros; ``tarfile`` also stops, without a word, at a header it cannot read."""
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        return "cut off before its end"
    return f"damaged header at byte {offset}" if any(block) else ""


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
        if len(data) < stop - start:
            raise tarfile.ReadError("it has become shorter")
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            files = [(member.name, tar.extractfile(member)) for member in tar if member.isreg()]
            parts = [(*split_name(name), file.read()) for name, file in files if file is not None]
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"broken tar: {path.name} at byte {start}: {error}", "get the tar again") from error
    except OSError as error:
        raise DataError(
            f"unreadable file: {path.name}: {error.strerror}", "look at its permissions and the disk"
        ) from error
    parts = [part for part in parts if part[0]]
    return Sample(parts[0][0], {extension: content for _, extension, content in parts})
