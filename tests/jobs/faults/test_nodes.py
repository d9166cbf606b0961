"""A node that goes, announced or not: the run outlives it, with every step as it would have been."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_jobs.benchmarks.fault_run import differences, small_run
from ray_jobs.benchmarks.faults import on_nodes, undisturbed
from setok.config import TrainConfig
from tests import squares

STRUCK_AFTER = 12
pytestmark = pytest.mark.timeout(2000)  # a run for comparison, and two that lose a node


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("nodes")
    return undisturbed(small_run(squares.write_set(folder / "data"), folder, "undisturbed"))


def config_for_nodes(calm: TrainConfig, name: str, **changes: object) -> TrainConfig:
    """One worker to a node of one CPU."""
    scaling = {"cpus_per_worker": 0.75, "max_failures": 0, **changes}
    data, output = Path(calm.data.train[0].path), Path(calm.output_dir)
    return small_run(data, output, name, scaling=scaling, checkpoint={"every": 25, "keep": 9})


def test_a_node_that_is_announced_to_go_costs_no_failure_and_few_steps(calm: TrainConfig) -> None:
    config = config_for_nodes(calm, "drained")
    seen = on_nodes(config, "drain", STRUCK_AFTER)
    early = [step for step in seen["saved"] if step % config.checkpoint.every]
    assert len(early) == 1, "one save for the notice, beside those of the schedule"
    assert STRUCK_AFTER <= seen["struck_at"] < early[0] <= seen["gone_at"]
    assert differences(config, calm) == []


def test_a_node_whose_raylet_is_killed_is_replaced(calm: TrainConfig) -> None:
    config = config_for_nodes(calm, "killed", max_failures=3)
    seen = on_nodes(config, "kill", STRUCK_AFTER)
    assert seen["saved"] in ([], [25])
    assert differences(config, calm) == []
