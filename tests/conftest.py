"""What every test gets: checked shapes, fixed seeds, few threads."""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jaxtyping
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from tests import checks
from tests.s3_faults import S3Faults

if TYPE_CHECKING:
    from moto.server import ThreadedMotoServer

ROOT = Path(__file__).resolve().parent.parent
SEED = 20_240_607

# Before anything imports setok: the types and shapes on its signatures are checked at every call. With beartype and not
# typeguard, whose fourth version cannot read jaxtyping's one-dimensional shapes (" batch").
install_import_hook("setok", f"{checks.__name__}.typechecked")

# How long an example takes says nothing on a machine that does other things too.
settings.register_profile("setok", deadline=None)
settings.load_profile("setok")

# Workers of a Ray test would otherwise take all cores each.
os.environ.setdefault("OMP_NUM_THREADS", "2")

# Before any Ray starts, whose workers download what tests keep in buckets.
os.environ["SETOK_CACHE"] = tempfile.mkdtemp(prefix="setok-cache-")
atexit.register(shutil.rmtree, os.environ["SETOK_CACHE"], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    marked = [item for item in items if "gpu" in item.keywords]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    """The same random numbers in every test, whichever ran before it; and the default dtype and threads put back."""
    import numpy as np
    import torch

    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - libraries draw from the global one
    torch.manual_seed(SEED)
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)  # two fight with whatever else runs on a small machine
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The folder that holds setok/, ray_jobs/ and tests/."""
    return ROOT


@pytest.fixture(scope="session")
def realdata() -> Path:
    """A few rows of real data sets in their official layouts, which lie beside the repository and not in it."""
    folder = ROOT.parent / "shared" / "realdata"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: these rows are not part of the repository")
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[ThreadedMotoServer]:
    """A server on this machine that speaks S3 and keeps what it is given in memory."""
    server_module = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def s3_query(s3_server: ThreadedMotoServer) -> str:
    """The query that leads an ``s3://`` address to the server."""
    host, port = s3_server.get_host_and_port()
    return f"?endpoint_override={host}:{port}&scheme=http&region=us-east-1"


@pytest.fixture
def s3_faults(s3_server: ThreadedMotoServer) -> Iterator[S3Faults]:
    """What the server may be told to do wrong, as long as the test lasts."""
    server = s3_server._server
    sound = server.app
    server.app = faults = S3Faults(sound)
    yield faults
    server.app = sound


@pytest.fixture
def s3_folder(s3_query: str, request: pytest.FixtureRequest) -> str:
    """An address in a bucket of the test's own, with credentials, as ``setok.data.storage`` takes it."""
    return bucket("b" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12], s3_query)


def bucket(name: str, query: str) -> str:
    """An address in a new bucket."""
    from pyarrow import fs

    address = f"s3://key:secret@{name}/sets/one{query}"
    filesystem, _ = fs.FileSystem.from_uri(address + "&allow_bucket_creation=true")
    filesystem.create_dir(name)
    return address


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Signatures are not checked, as outside of tests: what a caller of the wrong types is told."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
