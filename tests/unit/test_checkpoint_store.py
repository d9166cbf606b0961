"""Checkpoints in a bucket: the same words find them, they are downloaded once, and a store that refuses is told."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from setok import checkpoint
from setok.checkpoint import store as store_module
from setok.checkpoint import writing
from setok.config import build, dump_config
from setok.config.jobs import TrainConfig
from setok.data.storage import beside
from setok.errors import CheckpointError, ConfigError, DataError
from tests.checkpoints import STEPS, damage, encoder_bias, files_of, truncated, write
from tests.fakes import train_config
from tests.s3_faults import S3Faults


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SETOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(writing, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(writing, "_POLL_SECONDS_REMOTE", 0.01)
    return tmp_path / "cache"


@pytest.fixture
def run(s3_folder: str) -> str:
    """A run in a bucket; the loss is lowest at step 4."""
    for step in STEPS:
        write(s3_folder, step, train__loss=abs(step - 4) + 0.5)
    return s3_folder


def test_users_words(run: str, tmp_path: Path) -> None:
    assert encoder_bias(checkpoint.resolve(run)) == 6
    assert encoder_bias(checkpoint.resolve(beside(run, "@best"))) == 4
    assert encoder_bias(checkpoint.resolve(beside(run, "/checkpoints/step_00000002"))) == 2
    with pytest.raises(CheckpointError, match=r"step_00000009 cannot be used: it does not exist\n.*newest good"):
        checkpoint.resolve(beside(run, "/checkpoints/step_00000009"))
    with pytest.raises(CheckpointError, match=r"cannot be used: it holds no checkpoint\n.*runs/NAME@best"):
        checkpoint.resolve(beside(run, "-of-nobody"))


def test_a_local_run_folder_leads_to_its_store(run: str, tmp_path: Path) -> None:
    """The run's address is STORE/NAME, and the run's own folder knows it."""
    above, name = run.split("?")[0].rsplit("/", 1)
    config = train_config(output_dir=str(tmp_path), name=name, checkpoint__store=f"{above}?{run.split('?')[1]}")
    assert checkpoint.home_of(config) == run
    config.run_dir.mkdir(parents=True)
    (config.run_dir / "config.yaml").write_text(dump_config(config))
    found = checkpoint.resolve(config.run_dir)
    assert encoder_bias(found) == 6
    assert encoder_bias(checkpoint.resolve(f"{config.run_dir}@best")) == 4
    for words in (config.run_dir, f"{config.run_dir}@best", run, beside(run, "@best")):
        there = checkpoint.resolve(words)
        pinned = checkpoint.pin(words, there)
        assert pinned.startswith("s3://") and checkpoint.resolve(pinned) == there
    assert checkpoint.pin(tmp_path / "other", tmp_path / "other" / "x") == str(tmp_path / "other" / "x")


def test_what_was_downloaded_is_used_again_if_it_is_whole(
    run: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads: list[str] = []
    real = store_module.Store._download_file

    def counted(store: store_module.Store, step: int, name: str, *rest: object) -> str | None:
        downloads.append(name)
        return real(store, step, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(store_module.Store, "_download_file", counted)
    first = checkpoint.resolve(run)
    assert first.is_relative_to(cache) and len(downloads) == 5
    assert checkpoint.resolve(run) == first and len(downloads) == 5
    file = first / "model.safetensors"
    file.write_bytes(truncated(file.read_bytes()))
    assert encoder_bias(checkpoint.resolve(run)) == 6 and len(downloads) == 10, "a spoilt copy is fetched anew"
    write(run, 6, train__loss=9.0)
    checkpoint.resolve(run)
    assert len(downloads) == 15, "so is one of a checkpoint that was written again"
    checkpoint.Store.of_run(run).delete(6)
    assert checkpoint.resolve(run).name == "step_00000004"
    assert not first.exists(), "what has left the store leaves the cache"


def test_a_cache_without_room_is_told(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SETOK_CACHE", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match=r"cannot be downloaded to .*file[\s\S]*SETOK_CACHE"):
        checkpoint.resolve(run)


def test_an_upload_that_is_refused_is_tried_again(
    run: str, s3_faults: S3Faults, caplog: pytest.LogCaptureFixture
) -> None:
    s3_faults.refuse("optimizer-00001-of-00002.safetensors", times=2)
    with caplog.at_level(logging.WARNING):
        write(run, 8)
    assert len(s3_faults.refused) == 2
    assert caplog.text.count("is sent again in") == 2 and "secret" not in caplog.text
    assert encoder_bias(checkpoint.resolve(run)) == 8


@pytest.mark.parametrize("file", ["model.safetensors", "manifest.json", "optimizer-00000-of-00002.safetensors.json"])
def test_a_store_that_refuses_for_good_is_an_error_and_no_checkpoint(
    run: str, s3_faults: S3Faults, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    s3_faults.refuse(file)
    with pytest.raises(DataError, match=r"refused by the test|ACCESS_DENIED|AccessDenied"):
        write(run, 8)
    assert len(s3_faults.refused) == writing.ATTEMPTS
    assert checkpoint.resolve(run).name == "step_00000006"


def test_a_store_out_of_reach_is_told_before_workers_start(run: str, s3_faults: S3Faults) -> None:
    s3_faults.refuse("probe")
    with pytest.raises((DataError, CheckpointError), match="AWS_ACCESS_KEY_ID"):
        checkpoint.Store.of_run(run).probe()
    s3_faults.refuse("nothing")
    checkpoint.Store.of_run(run).probe()
    assert not checkpoint.Store.of_run(run).storage.files(), "it leaves nothing"


def test_a_slow_rank_is_waited_for_and_a_missing_one_is_named(run: str) -> None:
    draft = checkpoint.Draft(run, 8)
    draft.begin()
    for rank in (0, 2):
        draft.write_part({}, rank=rank, world_size=4)
    state = checkpoint.TrainerState(step=8, samples=8, world_size=4)
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=r"of 4 workers, no optimizer state came from rank\(s\) 1, 3\n"):
        draft.finish(train_config(), {}, state, seconds=0.3)
    assert time.monotonic() - began >= 0.3
    draft.report_failure(OSError(28, "No space left on device"), rank=3, world_size=4)
    with pytest.raises(CheckpointError, match=r"rank 3 could not write its part: \[Errno 28\] No space left"):
        draft.finish(train_config(), {}, state, seconds=60.0)
    draft.discard()
    assert checkpoint.Store.of_run(run).steps() == [6, 4, 2]


def test_a_part_that_lost_its_end_is_not_taken(run: str) -> None:
    draft = checkpoint.Draft(run, 8)
    draft.begin()
    for rank in range(2):
        draft.write_part({}, rank=rank, world_size=2)
    damage(run, 8, "optimizer-00001-of-00002.safetensors", truncated)
    state = checkpoint.TrainerState(step=8, samples=8, world_size=2)
    with pytest.raises(CheckpointError, match=r"rank\(s\) 1\n"):
        draft.finish(train_config(), {}, state)
    assert checkpoint.resolve(run).name == "step_00000006"


def test_any_store_of_fsspec(tmp_path: Path) -> None:
    """``memory://`` stands for az://, hf:// and the others that have packages of their own."""
    run = "memory://test-any-store/run"
    for step in STEPS:
        write(run, step)
    assert encoder_bias(checkpoint.resolve(run)) == 6
    damage(run, 6, "model.safetensors", truncated)
    assert encoder_bias(checkpoint.resolve(run)) == 4
    retention = checkpoint.Retention.of(train_config(checkpoint__keep=1).checkpoint)
    assert checkpoint.prune(run, retention) == [6, 2]
    assert checkpoint.Store.of_run(run).steps() == [4] and files_of(run, 2) == []
    with pytest.raises(ConfigError, match="no file system is called 'nowhere'"):
        checkpoint.resolve("nowhere://x/y")


def test_file_addresses_are_folders(tmp_path: Path) -> None:
    config = train_config(checkpoint__store=f"file://{tmp_path}/store", name="n")
    home = checkpoint.home_of(config)
    write(home, 2, config)
    assert checkpoint.newest_good(home) == tmp_path / "store" / "n" / "checkpoints" / "step_00000002"
    assert checkpoint.home_of(build(TrainConfig, {**config.model_dump(), "checkpoint": {}})) == str(config.run_dir)
