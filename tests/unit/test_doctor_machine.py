"""Faults of versions, machines and clusters, each found and told with its remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_jobs import doctor
from ray_jobs.checking import machine, nodes, resources, versions
from ray_jobs.checking.nodes import Clock
from tests.examined import GIB, GOOD, only
from tests.fakes import train_config

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
