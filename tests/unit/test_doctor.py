"""Faults that are planted, each found and told with its remedy; some in real files, others in what a node would say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_jobs import doctor
from ray_jobs.checking import data, findings, machine, missing, nodes, resources, storage, versions
from ray_jobs.checking.findings import Check, Finding
from ray_jobs.checking.machine import Facts
from ray_jobs.checking.nodes import Clock
from ray_jobs.checking.storage import Speeds
from setok.config import PipelineConfig, TrainConfig, dump_config, load_config
from setok.data.schema import EncodedImage, Manifest
from setok.data.shards import write_shard
from setok.errors import ConfigError
from tests import squares
from tests.fakes import train_config

GIB = 2**30
GOOD = Facts(
    node="node-0",
    cpus=8,
    gpus=("H100", "H100"),
    driver="570.1",
    torch_cuda="12.8",
    shared_bytes=16 * GIB,
    disks={"/tmp": (500 * GIB, 300 * GIB)},
    open_files=65536,
    python="3.11.9",
    versions={"torch": "2.13.0", "ray": "2.60.0"},
)


def patient(check: Check) -> list[Finding]:
    """The findings, however busy this machine is."""
    return findings.run(replace(check, seconds=250.0))


def only(found: list[Finding], status: str) -> Finding:
    """The one finding there is, of this status, with a remedy unless it is ok."""
    (one,) = found
    assert one.status == status, one
    assert bool(one.remedy) == (status != "ok"), one
    return one


# ---------------------------------------------------------------- versions


def test_the_wrong_version_of_what_decides_fails_and_of_the_rest_warns() -> None:
    pins = versions.read_pins()
    assert len(pins) > 150 and {*versions.DECISIVE} <= pins.keys()
    only(versions.check_pins(pins, pins.get), "ok")
    old = pins | {"torch": "2.12.0"}
    told = only(versions.check_pins(pins, old.get), "fail")
    assert f"torch 2.12.0 ({pins['torch']})" in told.text and "make setup" in told.remedy
    without = {name: version for name, version in pins.items() if name != "deepspeed"}
    assert "deepspeed is missing" in only(versions.check_pins(pins, without.get), "fail").text
    odd = pins | {"rich": "1.0"}
    assert "rich 1.0" in only(versions.check_pins(pins, odd.get), "warn").text


def test_what_is_installed_here_is_what_is_pinned() -> None:
    assert all(finding.status != "fail" for finding in versions.check_pins(versions.read_pins()))


def test_pins_are_read_from_a_real_file(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("# comment\nTorch==2.13.0\nray_x==1.0 ; python_version > '3'\n-e .\n")
    assert versions.read_pins(tmp_path / "c.txt") == {"torch": "2.13.0", "ray-x": "1.0"}
    only(versions.check_pins(versions.read_pins(tmp_path / "none.txt")), "warn")


def test_a_node_of_another_version_is_named() -> None:
    mine = {"python": "3.11.9", "torch": "2.13.0"}
    only(versions.check_same([("a", mine), ("b", mine)]), "ok")
    told = only(versions.check_same([("a", mine), ("b", mine), ("c", mine | {"torch": "2.12.0"})]), "fail")
    assert told.text == "node c has torch 2.12.0, not 2.13.0" and "environment of a" in told.remedy


# ---------------------------------------------------------------- the machine


def test_a_good_machine_is_well() -> None:
    found = doctor.judge(GOOD, train_config(scaling={"num_workers": 2, "use_gpu": True}))
    assert {finding.subject for finding in found} == {"gpu", "memory", "disk", "limits", "sessions", "ports"}
    assert all(finding.status == "ok" for finding in found), found


@pytest.mark.parametrize(
    ("fault", "check", "status", "text", "remedy"),
    [
        ({"gpus": (), "driver": None}, "gpu", "fail", "use_gpu is on, and torch sees no GPU", "scaling.use_gpu=false"),
        ({"gpus": (), "torch_cuda": None}, "gpu", "fail", "torch is a CPU build", "CUDA=1"),
        ({"shared_bytes": 64 * 2**20}, "memory", "fail", "/dev/shm has 64 MiB", "--shm-size"),
        ({"shared_bytes": GIB}, "memory", "warn", "/dev/shm has 1024 MiB", "--shm-size"),
        ({"shared_bytes": None}, "memory", "warn", "no /dev/shm", "Linux"),
        ({"disks": {"/tmp": (500 * GIB, 20 * GIB)}}, "disk", "fail", "20.0 of 500.0 GiB free; Ray stops", "make room"),
        ({"disks": {"/tmp": (50 * GIB, 5 * GIB)}}, "disk", "warn", "less than 10 GiB", "make room"),
        ({"open_files": 256}, "limits", "fail", "may open 256 files", "ulimit -n 65536"),
        ({"open_files": 1024}, "limits", "warn", "1024 files", "ulimit -n 65536"),
        ({"sessions": 40}, "sessions", "warn", "40 Ray sessions", "delete"),
        ({"listening": {8265: "0.0.0.0"}}, "ports", "warn", "8265 can be reached from outside", "RAY_AUTH_MODE=token"),
    ],
)
def test_a_fault_of_a_machine_is_found(
    fault: dict[str, Any], check: str, status: str, text: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    config = train_config(scaling={"num_workers": 2, "use_gpu": True})
    bad = [finding for finding in doctor.judge(replace(GOOD, **fault), config) if finding.status != "ok"]
    told = only(bad, status)
    assert told.subject == check and text in told.text and remedy in told.remedy


def test_a_token_and_ports_of_this_machine_alone_are_well() -> None:
    only(machine.check_ports(replace(GOOD, listening={8265: "0.0.0.0"}), token=True), "ok")
    only(machine.check_ports(replace(GOOD, listening={8265: "127.0.0.1", 6379: "0.0.0.0"}), token=False), "ok")


def test_an_object_store_above_the_shared_memory_fails() -> None:
    told = only(machine.check_shared_memory(GOOD, object_store_bytes=32 * GIB), "fail")
    assert "32.0 GiB, above the 16.0 GiB of /dev/shm" in told.text


def test_a_gpu_is_missed_only_where_one_is_asked_for() -> None:
    bare = replace(GOOD, gpus=(), driver=None, torch_cuda=None)
    only(machine.check_gpus(bare, wanted=False), "ok")
    only(machine.check_gpus(bare, wanted=True), "fail")
    only(machine.check_gpus(replace(bare, driver="570.1"), wanted=False), "warn")


def test_this_machine_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("session_2026-01-01_00-00-00_000000_1", "session_2026-01-02_00-00-00_000000_2", "other"):
        (tmp_path / "ray" / name).mkdir(parents=True)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    facts = machine.look()
    assert facts.cpus >= 1 and facts.open_files > 0 and facts.versions["torch"]
    assert facts.sessions == 2
    assert all(0 < free <= total for total, free in facts.disks.values())


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


# ---------------------------------------------------------------- the cluster


def clock(skew: float) -> Clock:
    """Of a node whose clock is off, measured by three questions that take 4, 0.2 and 2 seconds."""
    asked = iter([0.0, 4.0, 10.0, 10.2, 20.0, 22.0])
    answered = iter([2.0, 10.1, 21.5])
    return nodes._clock("node-7", lambda: next(answered) + skew, 3, lambda: next(asked))


@pytest.mark.parametrize(("skew", "status"), [(0.05, "ok"), (-0.9, "ok"), (5.0, "warn"), (-300.0, "fail")])
def test_clock_skew_is_measured_by_the_quickest_answer(skew: float, status: str) -> None:
    measured = clock(skew)
    assert measured.skew == pytest.approx(skew) and measured.error == pytest.approx(0.1)
    told = only(nodes.check_clocks([Clock(node="node-0", skew=0.0, error=0.001), measured]), status)
    assert status == "ok" or ("node-7" in told.text and f"{skew:+.1f} s" in told.text and "chrony" in told.remedy)


def test_a_slow_question_is_no_skew() -> None:
    only(nodes.check_clocks([Clock(node="a", skew=20.0, error=19.5)]), "ok")


def test_silent_and_broken_nodes_are_named() -> None:
    found = nodes.check_answers({"a": GOOD, "b": None, "c": ModuleNotFoundError("No module named 'setok'")})
    assert [finding.status for finding in found] == ["fail", "fail"]
    assert "node b did not answer" in found[0].text and "No module named 'setok'" in found[1].text
    only(nodes.check_answers({"a": GOOD}), "ok")


def test_nodes_that_do_not_reach_each_other_or_slowly() -> None:
    only(nodes.check_reduce({"a": 1.2, "b": 1.1}, "gloo"), "ok")
    told = only(nodes.check_reduce({"a": 0.9, "b": 0.02}, "gloo"), "warn")
    assert "2 nodes: 0.02 GB/s" in told.text
    told = only(nodes.check_reduce({"a": None, "b": RuntimeError("x\nConnection refused")}, "nccl"), "fail")
    assert "does not connect a, b: Connection refused" in told.text and "NCCL_SOCKET_IFNAME" in told.remedy


def test_processors_beside_what_a_run_asks_for() -> None:
    fixed = train_config(
        scaling={"num_workers": 4, "cpus_per_worker": 2}, train={"global_batch_size": 8, "micro_batch_size": 2}
    )
    only(resources.check_resources(fixed, {"CPU": 9.0}), "ok")
    assert "needs 8.5 CPUs, and there are 8" in only(resources.check_resources(fixed, {"CPU": 8.0}), "fail").text
    gpus = train_config(scaling={"num_workers": 2, "use_gpu": True})
    assert (
        "needs 2 GPUs, and there are 1" in only(resources.check_resources(gpus, {"CPU": 9.0, "GPU": 1.0}), "fail").text
    )
    growing = train_config(scaling={"num_workers": 2, "use_gpu": True, "wait_for_nodes": True})
    assert "it waits for nodes" in only(resources.check_resources(growing, {"CPU": 9.0}), "warn").text
    elastic = train_config(scaling={"num_workers": [1, 4], "cpus_per_worker": 2})
    assert "starts with fewer" in only(resources.check_resources(elastic, {"CPU": 4.0}), "warn").text
    only(resources.check_resources(train_config(), {}), "ok")


# ---------------------------------------------------------------- the command


def test_a_check_that_hangs_or_breaks_is_a_finding() -> None:
    never = threading.Event()
    told = only(
        findings.run(Check(subject="storage", ask=lambda: [never.wait()], seconds=0.05, late="mount it")), "fail"
    )  # type: ignore[list-item]
    never.set()
    assert told.text == "no answer in 0.05 s" and told.remedy == "mount it"

    def broken() -> list[Finding]:
        raise ZeroDivisionError("division by zero")

    assert "ZeroDivisionError: division by zero" in only(findings.run(Check(subject="x", ask=broken)), "fail").text


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], str]:
    """Writes a small run's config on a set, on a machine that is well."""
    monkeypatch.setattr(machine, "look", lambda: GOOD)
    monkeypatch.setattr(doctor, "run", patient)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def write(folder: Path) -> str:
        config = train_config(output_dir=str(tmp_path / "runs"), data={"train": [{"path": str(folder)}]})
        (tmp_path / "run.yaml").write_text(dump_config(config))
        return str(tmp_path / "run.yaml")

    return write


def test_the_command_says_what_is_well(
    config_file: Callable[[Path], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config_file(squares.write_set(tmp_path / "set"))
    with pytest.raises(SystemExit) as ended:
        doctor.main(["--config", file])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and " 0 fail" in shown and "32 of them decoded" in shown


def test_the_command_fails_with_what_to_do_and_as_json(
    config_file: Callable[[Path], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config_file(tmp_path / "nowhere")
    with pytest.raises(SystemExit) as ended:
        doctor.main(["--config", file])
    assert ended.value.code == 1
    assert "nowhere' does not exist\n" in (shown := capsys.readouterr().out) and "→ make it with: python -m" in shown
    with pytest.raises(SystemExit) as ended:
        doctor.main(["--config", file, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert ended.value.code == 1 and told["ok"] is False
    assert [finding["subject"] for finding in told["findings"] if finding["status"] == "fail"] == ["data"]
    assert "storage" in [finding["subject"] for finding in told["findings"] if finding["status"] == "ok"]


def test_an_address_for_jobs_is_not_one_for_the_doctor() -> None:
    with pytest.raises(ConfigError, match="where jobs are sent to") as raised:
        doctor.main(["--address", "http://head:8265"])
    assert "--job doctor" in raised.value.remedy


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_python_without_the_packages_is_told_what_to_install(repo_root: Path, flags: list[str]) -> None:
    """``-S`` finds the standard library alone."""
    command = [sys.executable, "-S", "-m", "ray_jobs.doctor", *flags]
    environment = {"PYTHONPATH": str(repo_root), "PATH": os.environ["PATH"]}
    done = subprocess.run(command, env=environment, cwd=repo_root, text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")
    text = json.loads(done.stdout)["findings"][0]["text"] if flags else done.stdout
    assert "has no rich, pydantic" in text and "torch" in text
    assert "pip install -c constraints.txt" in done.stdout
    assert missing.lacking() == []
    other = missing.report(ModuleNotFoundError("No module named 'odd'", name="odd"), as_json=False)
    assert "has no odd\n" in other
