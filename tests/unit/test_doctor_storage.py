"""Faults of storage, data and weights, each found and told with its remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ray_jobs import doctor
from ray_jobs.checking import data, nodes, storage
from ray_jobs.checking.findings import Check
from ray_jobs.checking.storage import Speeds
from setok.config import PipelineConfig, TrainConfig, load_config
from setok.data.schema import EncodedImage, Manifest
from setok.data.shards import write_shard
from setok.errors import ConfigError
from tests import squares
from tests.examined import only, patient

# ---------------------------------------------------------------- storage


def test_a_folder_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    speeds = storage.measure(str(tmp_path / "runs"), num_bytes=2**20)
    assert min(speeds.write, speeds.read, speeds.rename) > 0
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_is_measured_and_left_as_it_was(s3_folder: str) -> None:
    from setok.data.storage import Storage

    assert storage.measure(s3_folder, num_bytes=2**20).write > 0
    assert Storage(s3_folder).files() == []


def test_storage_that_takes_no_files_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    told = only(storage.check_storage(str(tmp_path / "file" / "runs"), "output_dir"), "fail")
    assert "output_dir" in told.text and "cannot be written to" in told.text and "permissions" in told.remedy

    def fsync(number: int) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(storage.os, "fsync", fsync)
    told = only(storage.check_storage(str(tmp_path), "output_dir"), "fail")
    assert "Read-only file system" in told.text
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_mount_that_is_read_only_fails_for_real(tmp_path: Path) -> None:
    from tests.isolation import in_mount_namespace

    done = in_mount_namespace(
        f"mount -t tmpfs -o ro tmpfs {tmp_path}",
        "from ray_jobs.checking.storage import check_storage; import sys;"
        f"[found] = check_storage({str(tmp_path)!r}, 'output_dir'); sys.stdout.write(found.status + found.text)",
    )
    assert done.startswith("fail") and "Read-only file system" in done


def test_slow_storage_warns() -> None:
    told = only(storage.check_storage("/x", "store", lambda address: Speeds(write=2, read=300, rename=0.01)), "warn")
    assert "writes 2 MB/s" in told.text and "500 s" in told.remedy
    only(storage.check_storage("/x", "store", lambda address: Speeds(write=200, read=300, rename=0.01)), "ok")


def test_what_a_node_cannot_reach_is_told_with_its_name() -> None:
    good = Speeds(write=200, read=300, rename=0.01)
    gone = ConfigError("/shared cannot be written to: Stale file handle", "check the mount")
    found = nodes.check_shared_storage({"a": good, "b": gone, "c": None}, "/shared", "output_dir")
    assert [(finding.node, finding.status) for finding in found] == [("a", "ok"), ("b", "fail"), ("c", "fail")]
    assert "Stale file handle" in found[1].text and "no answer in 90 s" in found[2].text


# ---------------------------------------------------------------- data and weights


def test_a_good_set_is_well(tmp_path: Path) -> None:
    told = only(data.check_set(str(squares.write_set(tmp_path / "set")), "data.train.0.path"), "ok")
    assert "32 records in 1 shard(s), 32 of them decoded" in told.text


def test_a_corrupt_shard_is_found(tmp_path: Path) -> None:
    shard = squares.write_set(tmp_path / "set") / "shard.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 0xFF
    shard.write_bytes(content)
    found = data.check_set(str(tmp_path / "set"), "data")
    assert (
        found[0].status == "fail"
        and "shard.parquet is damaged" in found[0].text
        and "ingest it again" in found[0].remedy
    )


@pytest.mark.parametrize("harm", ["delete", "cut", "no manifest"])
def test_a_set_that_is_not_whole_is_found(tmp_path: Path, harm: str) -> None:
    folder = squares.write_set(tmp_path / "set")
    shard = folder / "shard.parquet"
    if harm == "delete":
        shard.unlink()
    elif harm == "cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    else:
        (folder / "manifest.json").unlink()
    told = only(patient(Check(subject="data", ask=lambda: data.check_set(str(folder), "data"))), "fail")
    assert ("manifest.json" if harm == "no manifest" else "shard.parquet") in told.text


def test_an_unreadable_picture_is_found(tmp_path: Path) -> None:
    records = squares.records()
    records[5] = replace(records[5], images=[EncodedImage(data=b"no picture")])
    shard = write_shard(tmp_path / "shard.parquet", records)
    assert shard is not None
    Manifest(shards=[shard], records_by_source={"s": len(records)}, quarantined_by_reason={}).save(tmp_path)
    told = only(data.check_set(str(tmp_path), "validation.data"), "fail")
    assert f"1 picture(s) of 32 records cannot be read: {records[5].id}" in told.text


def test_weights_that_are_missing_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    squares.write_set(tmp_path / "set")
    (tmp_path / "empty").mkdir()
    config = load_config(
        TrainConfig,
        "pretrain",
        [
            f"output_dir={tmp_path}/runs",
            f"data.train=[{{path: {tmp_path}/set}}]",
            f"checkpoint.init_from={tmp_path}/runs-of-old/tokenizer",
            f"setokim.language_model.path={tmp_path}/vicuna",
            f"setokim.text_tokenizer={tmp_path}/empty",
        ],
    )
    checks = doctor.checks_of_config(config, on_cluster=True)
    found = [finding for check in checks for finding in patient(check)]
    told = {finding.text.split(":")[0].split("=")[0]: finding for finding in found if finding.subject == "weights"}
    assert told["checkpoint.init_from"].status == "fail"
    assert (
        told["setokim.language_model.path"].status == "fail"
        and "no such folder" in told["setokim.language_model.path"].text
    )
    assert told["setokim.text_tokenizer"].status == "fail" and "neither a config" in told["setokim.text_tokenizer"].text
    assert told["model.encoder.path"].status == "warn" and "hf download" in told["model.encoder.path"].remedy
    assert [finding.status for finding in found if finding.subject == "data"] == ["ok"]


def test_what_a_pipeline_makes_itself_is_not_missed(tmp_path: Path) -> None:
    config = load_config(PipelineConfig, "demo", [f"output_dir={tmp_path}"])
    assert [check.subject for check in doctor.checks_of_config(config, on_cluster=False)] == ["storage"]
