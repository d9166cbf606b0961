"""A run without workers is ended when that is asked for, says what it waits for, and waits no longer than it may."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.progress import read_progress
from ray_jobs.training import waiting
from ray_jobs.training.room import check_cluster, lack_of
from ray_jobs.training.stopping import STOP
from ray_jobs.training.waiting import LOOK_SECONDS, Cluster, Watch
from setok.config import TrainConfig
from setok.errors import ConfigError
from tests.fakes import train_config

GPUS = {"scaling__num_workers": 4, "scaling__use_gpu": True}


class FakeCluster:
    """A cluster with some processors, a run that has workers or not, and time that passes when it is told to."""

    def __init__(self, **resources: float) -> None:
        self.resources = resources
        self.has_workers, self.can_end, self.ended, self.now = False, True, 0, time.time()

    def watch(self, config: TrainConfig) -> Watch:
        def end() -> bool:
            self.ended += self.can_end
            return self.can_end

        cluster = Cluster(has_workers=lambda: self.has_workers, resources=lambda: self.resources, end=end)
        return Watch(config, cluster, clock=lambda: self.now)


def waiting_run(folder: Path, **changes: Any) -> TrainConfig:
    config = train_config(output_dir=str(folder), **GPUS, **changes)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    return config


def test_a_stop_is_granted_at_once_where_no_worker_lives(tmp_path: Path) -> None:
    config, cluster = waiting_run(tmp_path), FakeCluster(CPU=8, GPU=2)
    watch = cluster.watch(config)
    watch.look()
    assert not cluster.ended
    (config.run_dir / STOP).touch()
    cluster.has_workers = True
    watch.look()
    assert not cluster.ended, "they save first"
    cluster.has_workers, cluster.can_end = False, False
    watch.look()
    assert not watch.has_ended_it, "the run has not begun yet"
    cluster.can_end = True
    watch.look()
    assert cluster.ended == 1 and watch.has_ended_it
    watch.settle()


def test_the_thread_sees_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.01)
    config, cluster = waiting_run(tmp_path), FakeCluster()
    with cluster.watch(config) as watch:
        (config.run_dir / STOP).touch()
        watch._thread.join(30)
        assert cluster.ended == 1, "once"


def test_progress_says_what_is_waited_for_and_since_when(tmp_path: Path) -> None:
    config, cluster = waiting_run(tmp_path, scaling__wait_for_nodes=True), FakeCluster(CPU=8, GPU=2)
    watch, since = cluster.watch(config), time.strftime("%X", time.localtime(cluster.now))
    watch.look()
    told = read_progress(config.run_dir)
    assert told is not None
    assert told.line() == f"step 0/8 · waiting for nodes since {since}: 4 GPUs needed, 2 there"
    cluster.resources["GPU"] = 3
    cluster.now += LOOK_SECONDS / 2
    watch.look()
    assert read_progress(config.run_dir) == told, "it is too early to ask again"
    cluster.now += LOOK_SECONDS
    watch.look()
    told = read_progress(config.run_dir)
    assert told is not None and told.phase.endswith(f"since {since}: 4 GPUs needed, 3 there")
    cluster.now += 1e6
    watch.look()
    assert not cluster.ended, "as long as it takes"


def test_a_run_gives_up_after_its_minutes(tmp_path: Path) -> None:
    config, cluster = waiting_run(tmp_path, scaling__wait_for_nodes=10), FakeCluster(CPU=8, GPU=2)
    watch = cluster.watch(config)
    watch.look()
    cluster.now += 599
    watch.look()
    cluster.resources["GPU"] = 4
    cluster.now += LOOK_SECONDS
    watch.look()
    cluster.resources["GPU"] = 2  # a node has come and gone: the wait begins anew
    for _ in range(2):
        cluster.now += 590
        watch.look()
    assert not cluster.ended
    cluster.now += 11
    watch.look()
    assert cluster.ended == 1
    with pytest.raises(
        ConfigError, match=r"in scaling\.wait_for_nodes=10 minutes: the run needs 4 GPUs \(4 workers × 1\), and the"
    ) as raised:
        watch.settle()
    assert "ray status" in raised.value.remedy


def test_a_time_to_wait_is_above_nothing() -> None:
    assert train_config(scaling__wait_for_nodes=1).scaling.wait_for_nodes is not True, "a minute"
    with pytest.raises(ConfigError, match=r"wait_for_nodes=-3 minutes(.|\n)*above 0"):
        train_config(scaling__wait_for_nodes=-3)


def there(monkeypatch: pytest.MonkeyPatch, **resources: float) -> None:
    """What the cluster has, and may not grow beyond."""
    monkeypatch.setattr("ray.cluster_resources", lambda: resources)
    monkeypatch.setattr(
        "ray._private.state.state", type("State", (), {"get_max_resources_from_cluster_config": lambda: None})
    )


def test_a_run_and_its_validation_without_room_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    there(monkeypatch, CPU=4.0)
    wants = train_config(scaling={"num_workers": 2, "use_gpu": True})
    with pytest.raises(ConfigError, match=r"the run needs 2 GPUs \(2 workers × 1\), and the cluster has 0"):
        check_cluster(wants)
    check_cluster(train_config(scaling={"num_workers": 2, "use_gpu": True, "wait_for_nodes": 5}))
    fits = {"scaling": {"num_workers": 2}}
    check_cluster(train_config(**fits))
    for beside, told in (({"use_gpu": True}, "1 GPUs, and the cluster has 0"), ({"cpus": 5}, "5 CPUs, and the")):
        config = train_config(**fits, validation={"data": "d", **beside})
        with pytest.raises(ConfigError, match=f"validation beside the run needs {told}") as raised:
            check_cluster(config)
        assert "validation=null" in raised.value.remedy
    lack = lack_of(train_config(scaling={"num_workers": 4, "cpus_per_worker": 2}), 4, {"CPU": 4.0})
    assert lack is not None and (lack.kind, lack.there) == ("CPUs", 4.0)
