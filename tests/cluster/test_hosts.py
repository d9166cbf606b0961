"""Hosts with addresses of their own: what the doctor says of them, and a run that loses one for a while."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ray_jobs.benchmarks.fault_run import Run, differences, small_run
from ray_jobs.training.history import HISTORY
from setok.config import TrainConfig, dump_config
from tests import squares
from tests.cluster.hosts import Hosts, two_hosts
from tests.isolation import skip_unless_permitted

CUT_AFTER = 12
PATIENCE_SECONDS = 700


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    skip_unless_permitted()
    short = tempfile.TemporaryDirectory(prefix="n")  # a socket's path may have 107 letters
    with short as folder, two_hosts(Path(folder)) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hosts")
    squares.write_set(folder / "data")
    return folder


def config_of(root: Path, name: str) -> TrainConfig:
    """One worker for each host."""
    scaling = {"cpus_per_worker": 0.75, "max_failures": 3, "engine": "torch"}
    return small_run(root / "data", root, name, scaling=scaling, checkpoint={"every": 10, "keep": 9})


def started(hosts: Hosts, config: TrainConfig) -> Run:
    """The command on host 1."""
    run = Run(config)
    config.run_dir.mkdir(parents=True)
    file = config.run_dir.with_suffix(".yaml")
    file.write_text(dump_config(config))
    command = [sys.executable, "-m", "ray_jobs.train", "--config", str(file)]
    run.driver = hosts.start(1, *command, log=run.log, environment={"RAY_ADDRESS": hosts.ray_address})
    return run


def wait_for(condition: Callable[[], bool], run: Run) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline and not run.has_ended, run.tail()
        time.sleep(0.1)


def test_the_doctor_finds_both_hosts_and_the_way_between(hosts: Hosts, root: Path) -> None:
    config = config_of(root, "looked-at")
    (root / "looked-at.yaml").write_text(dump_config(config))
    log = root / "doctor.log"
    command = [sys.executable, "-m", "ray_jobs.doctor", "--address", hosts.ray_address, "--json"]
    doctor = hosts.start(1, *command, "--config", str(root / "looked-at.yaml"), log=log)
    code = doctor.wait(PATIENCE_SECONDS)
    text = log.read_text()
    assert '{\n  "ok"' in text, text[-3000:]
    found = json.loads(text[text.index('{\n  "ok"') : text.rindex("\n}") + 2])["findings"]
    told = {finding["subject"]: finding for finding in found}
    assert told["nodes"]["status"] == "ok" and told["nodes"]["text"] == "2 answer"
    assert "gloo all-reduce over 2 nodes" in told["network"]["text"]
    assert told["clock"]["status"] == "ok"
    for subject in ("storage", "memory", "limits"):
        where = {finding["node"] for finding in found if finding["subject"] == subject}
        assert len(where) == 2 and all(any(hosts.address(n) in node for node in where) for n in (1, 2)), where
    assert code == int(any(finding["status"] == "fail" for finding in found))


@pytest.mark.timeout(2000)  # two runs, one of which waits for a host to be given up
def test_a_run_outlives_a_host_that_is_cut_off_and_comes_back(hosts: Hosts, root: Path) -> None:
    calm = started(hosts, config_of(root, "calm"))
    assert calm.finish() == 0, calm.tail()
    run = started(hosts, config_of(root, "cut"))
    wait_for(lambda: run.step >= CUT_AFTER, run)
    hosts.cut(2)
    wait_for((run.config.run_dir / HISTORY).is_file, run)
    assert run.step < run.config.train.steps, "a run needs both hosts"
    hosts.end_all(2)  # a raylet that was given up ends by itself, after a minute
    hosts.mend(2)
    hosts.start_ray(2)
    assert run.finish() == 0, run.tail()
    assert differences(run.config, calm.config) == []
