"""Where an ingested set lies: a folder on a disk, or a prefix in S3 or GS, behind the few operations that sets need.

    data/coco-parquet                                         a local folder
    s3://bucket/sets/coco                                     S3, with the credentials of the environment
    s3://bucket/sets/coco?endpoint_override=127.0.0.1:9000&scheme=http     any server that speaks S3
    gs://bucket/sets/coco                                     Google Cloud Storage
    az://container/sets/coco                                  any other store that fsspec has a package for (here: adlfs)

For a server of one's own ``AWS_ENDPOINT_URL`` does as well as the query. A file appears whole or not at all: locally it
is written under another name and renamed, and an object store shows an object when its upload is complete.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from fsspec import available_protocols
from fsspec.core import url_to_fs
from pyarrow import fs

from setok.errors import ConfigError, DataError

SCHEMES = ("file", "s3", "gs", "gcs")
PARTIAL = ".partial"
_CHUNK = 2**22


class Storage:
    """A folder or prefix, by its address. It need not exist.

    Args:
        address: a path, or a URI of one of ``SCHEMES`` or of a protocol that fsspec knows; a query of the URI is for
            pyarrow's file system (see its ``FileSystem.from_uri``).

    Raises:
        ConfigError: another scheme, or an address that the file system refuses.
    """

    def __init__(self, address: str | Path) -> None:
        text = str(address)
        scheme = text.split("://")[0] if "://" in text else ""
        if scheme and scheme not in SCHEMES and scheme not in available_protocols():
            raise ConfigError(
                f"{self._shown(text)}: no file system is called {scheme!r}",
                f"use {', '.join(SCHEMES)}, or another protocol that fsspec knows",
            )
        self._scheme = scheme
        self.address = text if scheme and scheme != "file" else os.path.abspath(text.removeprefix("file://"))
        """Means the same in every process, wherever it was started."""
        self.name = self._shown(text)
        """For people: as it was given, without credentials and query."""
        self.local = Path(self.address) if scheme in ("", "file") else None
        """The folder, where it is one of this machine."""

    @staticmethod
    def _shown(text: str) -> str:
        return re.sub(r"//[^@/?]*@", "//", text).split("?")[0] if "://" in text else text

    def __repr__(self) -> str:
        return f"Storage({self.name!r})"

    @functools.cached_property
    def _opened(self) -> tuple[fs.FileSystem, str]:
        if self.local is not None:
            return fs.LocalFileSystem(), str(self.local)
        try:
            if self._scheme in SCHEMES:
                parts = urlsplit(self.address)
                filesystem = _connect(parts.scheme, parts.netloc, parts.query)
                return filesystem, parts.netloc.rpartition("@")[2] + unquote(parts.path)
            filesystem, path = url_to_fs(self.address)
            return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path
        except ImportError as error:
            raise ConfigError(f"{self.name} needs a package that is missing: {error}", "install it") from error
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ConfigError(
                f"{self.name} cannot be opened: {error}", "write it as s3://bucket/prefix or gs://bucket/prefix"
            ) from error

    @property
    def filesystem(self) -> fs.FileSystem:
        return self._opened[0]

    def __getstate__(self) -> dict[str, object]:
        """Without the open file system, which another process opens for itself."""
        return {name: value for name, value in vars(self).items() if name != "_opened"}

    def path(self, file: str) -> str:
        """Where the file system has a file of this folder."""
        return f"{self._opened[1].rstrip('/')}/{file}"

    # ---------------------------------------------------------------- looking

    def exists(self) -> bool:
        """Whether there is anything here."""
        if self.local is not None:
            return self.local.is_dir()
        with self.explained():
            return self.filesystem.get_file_info(self._opened[1]).type != fs.FileType.NotFound

    def sizes(self, files: Sequence[str]) -> list[int | None]:
        """Bytes of each of these files, ``None`` for one that is not there; one round for all of them."""
        with self.explained():
            infos = self.filesystem.get_file_info([self.path(file) for file in files])
        return [info.size if info.type == fs.FileType.File else None for info in infos]

    def files(self, folder: str = "") -> list[str]:
        """Names of the files right here, or in a folder of this one; sorted, without those being written."""
        selector = fs.FileSelector(self.path(folder).rstrip("/"), allow_not_found=True)
        with self.explained():
            infos = self.filesystem.get_file_info(selector)
        names = (info.base_name for info in infos if info.type == fs.FileType.File)
        return sorted(name for name in names if not name.endswith(PARTIAL))

    def folders(self) -> list[str]:
        """Names of the folders right here, sorted."""
        selector = fs.FileSelector(self.path("").rstrip("/"), allow_not_found=True)
        with self.explained():
            infos = self.filesystem.get_file_info(selector)
        return sorted(info.base_name for info in infos if info.type == fs.FileType.Directory)

    # ---------------------------------------------------------------- reading

    def open(self, file: str) -> pa.NativeFile:
        """A file for reading anywhere in it; a local one is mapped into memory.

        Raises:
            OSError: it is not there or cannot be read.
        """
        return pa.memory_map(self.path(file)) if self.local else self.filesystem.open_input_file(self.path(file))

    def read(self, file: str) -> bytes | None:
        """A file's bytes; ``None`` where there is no such file."""
        try:
            with self.explained(), self.filesystem.open_input_stream(self.path(file)) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def chunks(self, file: str) -> Iterator[bytes]:
        """A file's bytes from start to end, a few MB at a time.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with self.explained():
            stream = self.filesystem.open_input_stream(self.path(file))
        with stream:
            while True:
                with self.explained():
                    chunk = stream.read(_CHUNK)
                if not chunk:
                    return
                yield chunk

    def sha256(self, file: str) -> str:
        """Checksum of a file's contents, as hexadecimal digits."""
        digest = hashlib.sha256()
        for chunk in self.chunks(file):
            digest.update(chunk)
        return digest.hexdigest()

    # ---------------------------------------------------------------- writing

    def create(self, file: str) -> OutputFile:
        """A file for writing from start to end, which appears when it is committed and replaces what was there.

        Raises:
            DataError: an object store refuses it.
        """
        target = written = self.path(file)
        if self.local is not None:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            # A name of its own: a worker of an interrupted run may still be busy with the same file.
            written = f"{os.path.dirname(target)}/.{os.path.basename(target)}.{uuid.uuid4().hex[:8]}{PARTIAL}"
        return OutputFile(self, written, target)

    def write(self, file: str, data: bytes) -> None:
        """Write a whole file at once; it is either the new one or the old one."""
        with self.create(file) as stream:
            stream.write(data)

    def delete(self, file: str) -> None:
        """Remove a file, if it is there."""
        self.remove_path(self.path(file))

    def delete_folder(self, folder: str) -> None:
        """Remove a folder of this one with all that is in it, if it is there."""
        try:
            self.filesystem.delete_dir(self.path(folder))
        except FileNotFoundError:
            return

    def delete_partial(self) -> None:
        """Remove files that an interrupted process was writing; an object store shows none."""
        if self.local is not None:
            for path in self.local.glob(f".*{PARTIAL}"):
                path.unlink(missing_ok=True)

    def remove_path(self, path: str) -> None:
        """Remove a file by the file system's own path, if it is there."""
        try:
            self.filesystem.delete_file(path)
        except FileNotFoundError:
            return

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Say what an object store complains about; a local path's error speaks for itself."""
        try:
            yield
        except OSError as error:
            if self.local is not None or isinstance(error, FileNotFoundError):
                raise
            raise DataError(
                f"{self.name} cannot be used: {error}",
                "check the bucket's name, the credentials (AWS_ACCESS_KEY_ID … or those of the node), AWS_REGION and,"
                " for a server of your own, AWS_ENDPOINT_URL",
            ) from error


@functools.lru_cache(maxsize=64)
def _connect(scheme: str, place: str, query: str) -> fs.FileSystem:
    """A bucket's file system, once in a process: Arrow makes no new one as long as an upload by another is under way."""
    return fs.FileSystem.from_uri(f"{scheme}://{place}" + (f"?{query}" if query else ""))[0]


def beside(address: str, suffix: str) -> str:
    """The address of the folder whose name is that of ``address`` with ``suffix`` at the end."""
    head, mark, query = address.partition("?") if "://" in address else (address, "", "")
    return f"{head.rstrip('/')}{suffix}{mark}{query}"


class OutputFile:
    """A stream for writing that counts and hashes what goes through it, so that nothing is read again for a checksum.

    As a context manager it is committed where the block ends well, and leaves nothing behind where it does not.
    """

    def __init__(self, storage: Storage, written: str, target: str) -> None:
        self._storage, self._written, self._target = storage, written, target
        with storage.explained():
            self._stream = storage.filesystem.open_output_stream(written)
        self._digest = hashlib.sha256()
        self.num_bytes = 0
        """Bytes written so far."""
        self.closed = False
        """What Arrow asks before it writes."""

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.closed:
            return
        if kind is None:
            self.commit()
        else:
            self.discard()

    def write(self, data: bytes | memoryview | pa.Buffer) -> int:
        """Append bytes; their number."""
        view = memoryview(data)
        with self._storage.explained():
            self._stream.write(view)
        self._digest.update(view)
        self.num_bytes += view.nbytes
        return view.nbytes

    def flush(self) -> None:
        """Nothing to do: what is written counts once it is committed."""

    def sha256(self) -> str:
        """Checksum of what was written, as hexadecimal digits."""
        return self._digest.hexdigest()

    def commit(self) -> None:
        """Let the file appear under its name."""
        self.closed = True
        with self._storage.explained():
            self._stream.close()
        if self._written != self._target:
            os.replace(self._written, self._target)

    def discard(self) -> None:
        """Leave no file."""
        self.closed = True
        self._stream.close()
        self._storage.remove_path(self._written)
