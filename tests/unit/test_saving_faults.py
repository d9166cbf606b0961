"""Saves that fail, and two starts of one run: what each means for the run."""

from __future__ import annotations

import errno
import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_jobs.training.saving import Saver
from setok.data.storage import OutputFile, Storage
from setok.errors import CheckpointError
from tests import fakes
from tests.saved import Gate, config_for, started, state, steps_of

# ---------------------------------------------------------------- saves that fail


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch, file: str = "model.safetensors", *, room: int = 1000) -> Iterator[None]:
    """The disk takes ``room`` bytes of one file and no more."""
    real = OutputFile.write

    def write(stream: OutputFile, data: bytes) -> int:
        if stream._target.endswith(file) and stream.num_bytes + len(data) > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(stream, data)

    with monkeypatch.context() as patched:
        patched.setattr(OutputFile, "write", write)
        yield


@contextmanager
def read_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The file system was mounted anew, and takes nothing."""

    def create(storage: Storage, file: str) -> OutputFile:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "create", create)
        yield


@contextmanager
def file_size_limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The system itself ends every file at 4 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FAULTS = {"full disk": full_disk, "read-only": read_only, "file size": file_size_limit}
WEIGHTS = {"w": torch.zeros(10_000)}


class Weights:
    """Of an engine, what a checkpoint asks for."""

    def full_weights(self) -> dict[str, torch.Tensor]:
        return dict(WEIGHTS)

    def named_state(self, rank: int, world: int) -> dict[str, torch.Tensor]:
        return {}


ENGINES: Any = {"model": Weights()}


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("fault", FAULTS)
def test_one_save_that_fails_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str, asynchronous: bool
) -> None:
    config = config_for(tmp_path, checkpoint__asynchronous=asynchronous)
    with Saver(config, fakes.worker_of(config)) as saver, caplog.at_level(logging.WARNING):
        saver.save(ENGINES, state(1), None)
        saver.wait()
        with FAULTS[fault](monkeypatch):
            saver.save(ENGINES, state(2), None)
            with pytest.raises(CheckpointError, match=r"cannot be written to .*checkpoints: [\s\S]*free space"):
                saver.wait()
        saver.save(ENGINES, state(3), None)
    assert steps_of(config) == [1, 3]
    assert "the run goes on, and could resume only from the checkpoint before" in caplog.text
    left = sorted(path.name for path in (config.run_dir / "checkpoints").iterdir())
    assert left == ["owner.json", "step_00000001", "step_00000003"], "a save that failed takes no room"


@pytest.mark.parametrize("fault", FAULTS)
def test_the_first_save_must_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    config = config_for(tmp_path, checkpoint__asynchronous=False)
    saver = started(config)
    with FAULTS[fault](monkeypatch), pytest.raises(CheckpointError, match="cannot be written"):
        saver.save(ENGINES, state(1), None)


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_too_many_in_a_row_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    config = config_for(tmp_path, checkpoint__max_failures=allowed, checkpoint__asynchronous=False)
    saver = started(config)
    saver.save(ENGINES, state(1), None)
    for step in range(2, 2 + allowed):
        with full_disk(monkeypatch):
            saver.save(ENGINES, state(step), None)
    saver.save(ENGINES, state(10), None)  # which counts anew from here
    with full_disk(monkeypatch):
        for step in range(11, 11 + allowed):
            saver.save(ENGINES, state(step), None)
        with pytest.raises(CheckpointError, match="No space left"):
            saver.save(ENGINES, state(20), None)
    assert steps_of(config) == [1, 10]


def test_a_checkpoint_from_before_the_start_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(tmp_path, checkpoint__asynchronous=False)
    with Saver(config, fakes.worker_of(config)) as saver:
        saver.save(ENGINES, state(1), None)
    with Saver(config, fakes.worker_of(config)) as saver:
        with full_disk(monkeypatch):
            saver.save(ENGINES, state(2), None)
        saver.save(ENGINES, state(3), None)
    assert steps_of(config) == [1, 3]


def test_the_last_save_must_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(tmp_path)

    def end_on_a_full_disk() -> None:
        with Saver(config, fakes.worker_of(config)) as saver:
            saver.save(ENGINES, state(1), None)
            saver.wait()
            with full_disk(monkeypatch):
                saver.save(ENGINES, state(2), None)
                saver._writing.exception()  # type: ignore[union-attr]

    with pytest.raises(CheckpointError, match="No space left"):
        end_on_a_full_disk()
    assert steps_of(config) == [1]


def test_a_part_that_cannot_be_written_is_told_to_rank_0_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(tmp_path, checkpoint__commit_timeout=60.0)
    first = started(config, world_size=2)
    second = Saver(config, fakes.worker_of(config, rank=1, world_size=2))
    first.save({}, state(1, 2), None)
    with full_disk(monkeypatch, "optimizer-00001-of-00002.safetensors", room=8):
        second.save({}, state(1, 2), None)
        with pytest.raises(CheckpointError, match=r"rank 1 could not write its part: \[Errno 28\] No space left"):
            first.wait()


# ---------------------------------------------------------------- two starts of one run


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_start_that_was_taken_over_writes_no_more(tmp_path: Path, asynchronous: bool) -> None:
    """A good checkpoint before is no reason to go on: two would train the same run."""
    config = config_for(tmp_path, checkpoint__asynchronous=asynchronous)
    first = started(config)
    first.save(ENGINES, state(1), None)
    first.wait()
    second = started(config)
    with pytest.raises(CheckpointError, match=r"was started again elsewhere[\s\S]*--set name=run-2"):
        first.save(ENGINES, state(2), None)
    second.save(ENGINES, state(3), None)
    second.wait()
    assert steps_of(config) == [1, 3]


def test_a_save_under_way_ends_when_another_start_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, gate = config_for(tmp_path), Gate(monkeypatch)
    first = started(config)
    first.save({}, state(2), None)
    started(config)
    gate.opened.set()
    with pytest.raises(CheckpointError, match="started again elsewhere"):
        first.wait()
    assert steps_of(config) == []
