"""Plans of whole runs: ZeRO's arithmetic, nodes, time and money, and changes that help."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setok.config import TrainConfig, load_config
from setok.errors import ConfigError
from setok.planning import (
    GIB,
    Cluster,
    Samples,
    Trace,
    WorkerMemory,
    estimate,
    load_hardware,
    parse_nodes,
    suggest,
    worker_memory,
)
from setok.planning.trace import Turn

# ---------------------------------------------------------------- ZeRO


TURN = Turn(
    name="model",
    parameters=1000,
    trainable=800,
    weights=4000,
    frozen=800,
    largest=400,
    gradients=3200,
    optimizer=6400,
    activations=5000,
    with_gradients=7000,
    kept=10,
    update=3200,
    flops=1e12,
)
STEP = Trace(turns=(TURN,), batch=100, prepare=0, prepare_flops=0, images=4, tokens=0)


def cluster_config(stage: int, workers: int, **train: Any) -> TrainConfig:
    changes = [f"deepspeed.zero_stage={stage}", f"scaling.num_workers={workers}", "optim.kind=adamw"]
    changes += ["train.micro_batch_size=4", f"train.global_batch_size={4 * workers}", "scaling.use_gpu=true"]
    return load_config(TrainConfig, "tokenizer_demo", [*changes, *(f"train.{k}={v}" for k, v in train.items())])


@given(st.integers(2, 64), st.integers(0, 3))
def test_zero_splits_what_it_says(workers: int, stage: int) -> None:
    memory = worker_memory(cluster_config(stage, workers), STEP)
    assert memory.weights == (-(-4000 // workers) if stage == 3 else 4000)
    copies = 6400 + (3200 if stage else 0)
    assert memory.optimizer == (-(-copies // workers) if stage else copies)
    gradients = -(-3200 // workers) if stage >= 2 else 3200
    assert memory.gradients == gradients
    parts = [getattr(memory, f.name) for f in fields(WorkerMemory) if f.name not in ("worst", "offloaded")]
    assert memory.total == sum(parts)
    whole = worker_memory(cluster_config(0, workers), STEP)
    assert stage == 3 or memory.weights + memory.optimizer + memory.gradients <= (
        whole.weights + whole.optimizer + whole.gradients + 3200
    )


def test_an_average_and_an_optimizer_on_the_host() -> None:
    plain, kept = (worker_memory(cluster_config(2, 8, ema_decay=decay), STEP) for decay in (0, 0.99))
    assert kept.weights == plain.weights + 4 * 800
    config = cluster_config(2, 8)
    away = worker_memory(
        config.model_copy(update={"deepspeed": config.deepspeed.model_copy(update={"offload_optimizer": True})}), STEP
    )
    assert (away.optimizer, away.offloaded) == (0, plain.optimizer + plain.gradients)


# ---------------------------------------------------------------- clusters, time, money


def test_nodes_are_named_by_the_table() -> None:
    hardware = load_hardware()
    cluster = parse_nodes(["8xh100:4", "cpu16"], hardware)
    assert (cluster.num_nodes, cluster.gpus, cluster.cpus) == (5, 32, 4 * 192 + 16)
    assert cluster.name == "4 × 8xh100 + 1 × cpu16"


@pytest.mark.parametrize(
    ("nodes", "message"),
    [(["8xh10:4"], "did you mean '8xh100'"), (["8xh100:0"], "'0' is no number"), (["cpu16", "cpu16:2"], "twice")],
)
def test_nodes_that_are_wrong(nodes: list[str], message: str) -> None:
    with pytest.raises(Exception, match=message):
        parse_nodes(nodes, load_hardware())


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    shipped = load_hardware()
    file = tmp_path / "mine.yaml"
    text = (Path(__file__).parents[2] / "setok/planning/hardware.yaml").read_text()
    file.write_text(text.replace("efficiency: 0.4 ", "efficiency: 0.2 ", 1))
    mine = load_hardware(str(file))
    config, cluster = cluster_config(2, 8), parse_nodes(["8xh100"], shipped)
    fast, slow = (estimate(config, cluster, table, lambda *_: STEP) for table in (shipped, mine))
    assert slow.speed.compute_s == pytest.approx(2 * fast.speed.compute_s)
    file.write_text(text.replace("efficiency: 0.4 ", "efficiency: 1.4 ", 1))
    with pytest.raises(Exception, match=r"assumptions.efficiency.*less than or equal to 1"):
        load_hardware(str(file))
    file.write_text("")
    with pytest.raises(ConfigError, match=r"mine\.yaml: input should be a valid dictionary"):
        load_hardware(str(file))
    with pytest.raises(Exception, match="there is no file"):
        load_hardware(str(tmp_path / "none.yaml"))


def test_time_and_money_by_hand() -> None:
    """8 workers, 10^12 operations each at 40 % of 989 TFLOP/s; the gradient of 3200 bytes travels twice, weights once."""
    hardware = load_hardware()
    plan = estimate(cluster_config(2, 8, steps=1000), parse_nodes(["8xh100:2"], hardware), hardware, lambda *_: STEP)
    compute = 1e12 / (989e12 * 0.4)
    communication = 2 * 3200 * 7 / 8 / (450e9 * 0.7)
    decode = 8 * 4 / (0.5 * 380)  # half a core
    assert plan.speed.compute_s == pytest.approx(compute)
    assert plan.speed.communication_s == pytest.approx(communication)
    assert plan.speed.step_s == pytest.approx(max(decode, compute + communication / 2))
    assert plan.speed.waits_for_data
    assert plan.seconds == pytest.approx(1000 * decode * 1.05)
    assert plan.dollars == pytest.approx(plan.seconds / 3600 * 2 * 55.0)
    assert plan.images == 1000 * 32


def test_cpu_workers_have_the_cores_of_their_node_at_most() -> None:
    hardware, config = load_hardware(), load_config(TrainConfig, "tokenizer_demo", ["train.threads_per_worker=null"])
    one, many = (
        estimate(config, parse_nodes([nodes], hardware), hardware, lambda *_: STEP) for nodes in ("cpu16:1", "cpu16:8")
    )
    assert many.speed.compute_s == one.speed.compute_s == pytest.approx(1e12 / (8 * 40e9)), (
        "two workers share sixteen cores"
    )


def big(batch: int, activations: int = 30) -> Trace:
    """A micro-batch of so many samples, each of which takes GiB."""
    turn = replace(TURN, activations=activations * batch * GIB, with_gradients=activations * batch * GIB)
    return replace(STEP, turns=(turn,), images=batch)


def test_the_smallest_change_that_fits() -> None:
    hardware = load_hardware()
    cluster, config = parse_nodes(["8xh100"], hardware), cluster_config(2, 8)

    def tracer(asked: TrainConfig, samples: Samples) -> Trace:
        return big(asked.train.micro_batch_size)

    assert not estimate(config, cluster, hardware, tracer).fits  # 4 × 30 GiB
    found = suggest(config, cluster, hardware, tracer)
    assert found is not None
    assert found.settings == ("train.micro_batch_size=2",)
    assert found.estimate.fits
    assert found.estimate.config.train.global_batch_size == config.train.global_batch_size


def test_more_nodes_where_nothing_else_helps() -> None:
    hardware = load_hardware()
    cluster, config = parse_nodes(["1xh100"], hardware), cluster_config(2, 8)
    found = suggest(config, cluster, hardware, lambda *_: STEP)
    assert found is not None
    assert (found.settings, found.nodes) == (("scaling.num_workers=1",), "")
    elastic = load_config(
        TrainConfig,
        "tokenizer_demo",
        ["scaling.num_workers=[8,16]", "scaling.use_gpu=true", "train.global_batch_size=128", "optim.kind=adamw"],
    )
    more = suggest(elastic, cluster, hardware, lambda *_: STEP)
    assert more is not None
    assert (more.settings, more.nodes) == ((), "1xh100:8")
    assert suggest(config, cluster, hardware, lambda *_: big(10)) is None


def test_a_run_for_gpus_on_a_machine_without() -> None:
    hardware = load_hardware()
    machine = Cluster(nodes=(("here", hardware.nodes["cpu16"], 1),), has_prices=False)
    plan = estimate(cluster_config(2, 8), machine, hardware, lambda *_: STEP)
    assert [need.what for need in plan.needs if not need.is_met] == ["GPUs", "memory of a GPU", "memory of a node"]
    assert suggest(cluster_config(2, 8), machine, hardware, lambda *_: STEP) is None
