"""Plans: a step without memory against a real one, ZeRO's arithmetic, time and money, and changes that help."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from setok.config import TrainConfig, load_config
from setok.data.word_tokenizer import build_word_tokenizer, own_texts
from setok.planning import (
    GIB,
    Cluster,
    Samples,
    Trace,
    Traces,
    WorkerMemory,
    estimate,
    load_hardware,
    parse_nodes,
    suggest,
    trace,
    worker_memory,
)
from setok.planning.batches import sequence_batch
from setok.planning.parts import build_modules
from setok.planning.pretend import Pretend
from setok.planning.serving import cache_bytes
from setok.planning.trace import Turn
from setok.vocabulary import SPECIAL_TOKENS
from tests.golden.first_losses import scenes
from tests.measured import measured_step

ALONE = ["scaling.num_workers=0", "train.threads_per_worker=1"]
TOLERANCE = 0.15


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    build_word_tokenizer(own_texts(), folder)
    return folder


def demo(name: str, *changes: str) -> TrainConfig:
    return load_config(TrainConfig, name, [*ALONE, *changes])


@pytest.mark.parametrize("micro", [4, 8])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_tokenizers_step_takes_what_is_planned(*, micro: int, recompute: bool) -> None:
    changes = (
        f"train.micro_batch_size={micro}",
        f"train.gradient_checkpointing={recompute}",
        "train.global_batch_size=8",
    )
    config = demo("tokenizer_demo", *changes)
    measured = measured_step(config, [scenes(start, micro) for start in range(0, 8, micro)])
    planned = worker_memory(config, trace(config, Samples())).total
    assert planned == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("micro", [1, 4])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_step_of_packed_rows_takes_what_is_planned(words: Path, *, micro: int, recompute: bool) -> None:
    changes = (
        f"train.micro_batch_size={micro}",
        f"train.gradient_checkpointing={recompute}",
        "train.global_batch_size=4",
    )
    config = demo("instruct_demo", f"setokim.text_tokenizer={words}", *changes)
    measured = measured_step(config, [real_rows(config, words) for _ in range(4 // micro)])
    planned = worker_memory(config, trace(config, Samples())).total
    assert planned == pytest.approx(measured, rel=TOLERANCE)


def real_rows(config: TrainConfig, words: Path) -> Any:
    """Rows of the assumed composition with pictures of noise, which have as many tokens as there may be."""
    from setok.models.text_tokens import load_text_tokenizer

    known = load_text_tokenizer(words).get_vocab()
    image, end, segment = (known[token] for token in SPECIAL_TOKENS)
    batch = sequence_batch(config, Samples(), (image, end, segment))
    noise = torch.randint(0, 256, batch.pixel_values.shape, dtype=torch.uint8)
    return replace(batch, pixel_values=noise)


def test_what_is_planned_with_twice_the_work_is_twice_the_arithmetic() -> None:
    one, two = (trace(demo("tokenizer_demo", f"train.micro_batch_size={n}"), Samples()) for n in (4, 8))
    recomputed = trace(
        demo("tokenizer_demo", "train.micro_batch_size=4", "train.gradient_checkpointing=true"), Samples()
    )
    assert two.flops == pytest.approx(2 * one.flops, rel=0.01)
    assert 1.1 < recomputed.flops / one.flops < 4 / 3, "blocks go forward once more, all else does not"


def test_with_kept_features_a_plan_has_no_work_for_the_encoder() -> None:
    deep = ("optim.learning_rate_scale={encoder: 0.0}", "model.encoder.depth=6")
    frozen, shallow = demo("tokenizer_demo", *deep), demo("tokenizer_demo", *deep[:1], "model.encoder.depth=0")
    computed, kept, least = (
        trace(config, Samples()) for config in (frozen, demo("tokenizer_demo", *deep, "data.features=kept"), shallow)
    )
    assert kept.flops < least.flops < computed.flops
    patches, width, floats = 256, 96, 4
    assert kept.batch - computed.batch == frozen.train.micro_batch_size * patches * width * floats
    assert kept.turns[0].parameters == computed.turns[0].parameters, "it is saved with the model"


def test_micro_batches_are_told_from_smaller_ones(words: Path) -> None:
    for name in ("tokenizer_demo", "instruct_demo"):
        config = demo(name, "train.micro_batch_size=8", "train.global_batch_size=8")
        if config.setokim is not None:
            config = demo(name, "train.micro_batch_size=8", f"setokim.text_tokenizer={words}")
        told, traced = Traces()(config, Samples()), trace(config, Samples())
        assert_alike(told, traced, 0.03)


def test_many_layers_are_told_from_few(words: Path) -> None:
    """Every figure of a model of 7 layers follows from models of 3 and 4 layers."""
    changes = (f"setokim.text_tokenizer={words}", "train.gradient_checkpointing=true", "train.micro_batch_size=1")
    config = demo("pretrain_demo", *changes, "setokim.language_model.depth=7", "optim.kind=adamw")
    batch = real_rows(config, words)  # a batch that is given is gone through with all layers
    assert_alike(trace(config, Samples()), trace(config, Samples(), batch), 0.02)


def assert_alike(told: Trace, traced: Trace, tolerance: float) -> None:
    for a, b in zip(told.turns, traced.turns, strict=True):
        for field in fields(Turn):
            if field.name not in ("name", "kept"):
                assert getattr(a, field.name) == pytest.approx(getattr(b, field.name), rel=tolerance, abs=65_536), (
                    field.name
                )
    assert (told.images, told.tokens) == (traced.images, traced.tokens)
    assert told.prepare == pytest.approx(traced.prepare, rel=tolerance)


def test_weights_are_counted_without_being_there() -> None:
    """SigLIP-SO400M has 428 M parameters up to its last norm; Vicuna-7B 6.738 G, and three rows more here."""
    pretend = Pretend()
    tokenizer = build_modules(load_config(TrainConfig, "tokenizer_siglip"), pretend)["model"].get_submodule("tokenizer")
    model = build_modules(load_config(TrainConfig, "paper_pretrain"), pretend)["model"].get_submodule("setokim")
    encoder = sum(p.numel() for p in tokenizer.get_submodule("encoder").parameters())
    base = {n: p for n, p in model.get_submodule("language_model.base").named_parameters() if "lora_" not in n}
    assert encoder == 412_987_824 or encoder == pytest.approx(428e6, rel=0.05)
    assert sum(p.numel() for p in base.values()) == 6_738_415_616 + 2 * 3 * 4096


def test_the_cache_of_a_place() -> None:
    """Keys and values of 32 layers and 4096 channels in bf16."""
    assert cache_bytes(load_config(TrainConfig, "paper_pretrain")) == 2 * 32 * 4096 * 2


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
