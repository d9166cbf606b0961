"""Each kind of damage to each file of a checkpoint, on a disk and in a bucket: the one before is taken, and it is said."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setok import checkpoint
from setok.checkpoint import Best, Manifest
from setok.checkpoint.manifest import Entry
from setok.data.storage import beside
from setok.errors import CheckpointError
from tests.checkpoints import DAMAGES, FILES, STEPS, damage, damaged, encoder_bias, files_of, truncated, write
from tests.conftest import bucket


@pytest.fixture(autouse=True)
def _new_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETOK_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A run with three checkpoints of two workers, for one test."""
    return with_checkpoints(str(tmp_path / "run") if request.param == "local" else request.getfixturevalue("s3_folder"))


@pytest.fixture(scope="module", params=["local", "s3"])
def shared_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another one, which every test leaves as it was."""
    if request.param == "local":
        return with_checkpoints(str(tmp_path_factory.mktemp("shared")))
    return with_checkpoints(bucket("shared-run", request.getfixturevalue("s3_query")))


def with_checkpoints(run: str) -> str:
    for step in STEPS:
        write(run, step)
    assert files_of(run, 6) == sorted(FILES), "the table below is about all of them"
    return run


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", DAMAGES)
def test_the_newest_good_one_is_taken(
    shared_run: str, file: str, how: Callable[[bytes], bytes] | None, caplog: pytest.LogCaptureFixture
) -> None:
    with damaged(shared_run, 6, file, how):
        with caplog.at_level(logging.WARNING):
            found = checkpoint.newest_good(shared_run)
        assert found is not None and found.name == "step_00000004"
        assert encoder_bias(found) == 4
        [line] = [record.message for record in caplog.records]
        assert "step_00000006 is damaged and is skipped: " + file in line
        with pytest.raises(CheckpointError, match=file):
            checkpoint.resolve(beside(shared_run, "/checkpoints/step_00000006"))
    found = checkpoint.newest_good(shared_run)
    assert found is not None and encoder_bias(found) == 6


def test_a_half_written_folder_is_none(run: str) -> None:
    draft = checkpoint.Draft(run, 8)
    draft.begin()
    draft.write_part({}, rank=0, world_size=2)
    found = checkpoint.newest_good(run)
    assert found is not None and found.name == "step_00000006"
    write(run, 8)
    assert files_of(run, 8) == sorted(FILES)


def test_a_folder_without_its_manifest_is_none(run: str) -> None:
    """What an upload leaves that ends before its last file."""
    damage(run, 6, "manifest.json", None)
    damage(run, 6, "trainer.json", None)
    found = checkpoint.newest_good(run)
    assert found is not None and found.name == "step_00000004"
    write(run, 6)
    found = checkpoint.newest_good(run)
    assert found is not None and encoder_bias(found) == 6


def test_all_damaged_ends_plainly(run: str) -> None:
    for step in STEPS:
        damage(run, step, "model.safetensors", truncated)
    assert checkpoint.newest_good(run) is None
    with pytest.raises(CheckpointError, match=r"its 3 checkpoint\(s\) are all damaged"):
        checkpoint.resolve(run)


def test_a_manifest_of_another_step_is_damage(tmp_path: Path) -> None:
    write(tmp_path, 2)
    shutil.copytree(tmp_path / "checkpoints" / "step_00000002", tmp_path / "checkpoints" / "step_00000009")
    assert checkpoint.verify(tmp_path / "checkpoints" / "step_00000009") == ["manifest.json is of step 2"]
    assert checkpoint.newest_good(tmp_path) == tmp_path / "checkpoints" / "step_00000002"


def test_a_disk_that_gives_no_bytes_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 2)
    write(tmp_path, 4)
    real = checkpoint.Store(tmp_path).storage.__class__.sha256

    def sha256(storage: object, file: str) -> str:
        if file.startswith("step_00000004/model"):
            raise OSError(5, "Input/output error")
        return real(storage, file)  # type: ignore[arg-type]

    monkeypatch.setattr("setok.data.storage.Storage.sha256", sha256)
    assert checkpoint.verify(tmp_path / "checkpoints" / "step_00000004") == [
        "model.safetensors cannot be read: [Errno 5] Input/output error"
    ]
    assert checkpoint.newest_good(tmp_path) == tmp_path / "checkpoints" / "step_00000002"


# ---------------------------------------------------------------- the manifest itself

MANIFEST = Manifest(
    step=500,
    files={"model.safetensors": Entry(size=12345, sha256="0f" * 32), "trainer.json": Entry(size=1, sha256="ab" * 32)},
    metrics={"train/loss": 0.125, "eval/psnr": -3.5e-7},
    best=Best(metric="eval/psnr", order="highest"),
)
DATA = MANIFEST.to_bytes()


@given(st.integers(0, 8 * len(DATA) - 1))
@settings(max_examples=400, deadline=None)
def test_no_bit_of_a_manifest_turns_unseen(bit: int) -> None:
    spoilt = bytearray(DATA)
    spoilt[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError, match=r"^(has another checksum|has format|cannot be read)"):
        Manifest.from_bytes(bytes(spoilt))


@given(st.integers(0, len(DATA) - 1))
@settings(max_examples=100, deadline=None)
def test_no_part_of_a_manifest_passes(length: int) -> None:
    with pytest.raises(ValueError, match=r"cannot be read|has another checksum"):
        Manifest.from_bytes(DATA[:length])


def test_a_manifest_comes_back(tmp_path: Path) -> None:
    assert Manifest.from_bytes(DATA) == MANIFEST
    write(tmp_path, 2, train__loss=float("nan"), train__psnr=20.5)
    assert checkpoint.Store.of_run(tmp_path).manifest(2).metrics == {"train/psnr": 20.5}


def test_manifests_of_the_format_before_are_read(tmp_path: Path) -> None:
    write(tmp_path, 2)
    file = tmp_path / "checkpoints" / "step_00000002" / "manifest.json"
    manifest = checkpoint.Store.of_run(tmp_path).manifest(2)
    files = {name: vars(entry) for name, entry in manifest.files.items()}
    text = str({"format": 1, "step": 2, "files": files}).replace("'", '"')
    file.write_text(text)
    found = checkpoint.newest_good(tmp_path)
    assert found is not None and encoder_bias(found) == 2
    file.write_bytes(text.encode()[:-9])
    assert checkpoint.newest_good(tmp_path) is None
