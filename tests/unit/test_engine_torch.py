"""The plain torch engine: micro-batches add up to the batch, and nothing is updated by what is not finite."""

from __future__ import annotations

import pytest
import torch

from ray_jobs.training.engine_torch import TorchEngine
from ray_jobs.training.engines import build_engine
from setok.errors import CheckpointError, NotFiniteError
from tests.fakes import FakeStage, batch_of, build_stage, train_config, train_steps


def make(**changes) -> tuple[FakeStage, TorchEngine]:
    config = train_config(**changes)
    torch.manual_seed(config.seed)
    stage = build_stage(config)
    engine = build_engine("model", stage.modules["model"], stage.optimizer("model"), config, torch.device("cpu"))
    assert isinstance(engine, TorchEngine)
    return stage, engine


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_micro_batches_add_up(micro_batch_size: int) -> None:
    whole_stage, whole = make(train__micro_batch_size=8)
    parts_stage, parts = make(train__micro_batch_size=micro_batch_size)
    assert parts_stage.config.gradient_accumulation_steps == 8 // micro_batch_size
    for stage, engine in ((whole_stage, whole), (parts_stage, parts)):
        size = stage.config.train.micro_batch_size
        batches = [batch_of(range(first, first + size)) for first in range(0, 8, size)]
        for batch, context in zip(batches, stage.prepare(batches, step=0), strict=True):
            engine.backward(engine(batch, context).loss)
    for name, parameter in whole.trainable.items():
        torch.testing.assert_close(parts.trainable[name].grad, parameter.grad, rtol=1e-5, atol=1e-8)
    assert parts.step(1.0, step=0) == pytest.approx(whole.step(1.0, step=0), rel=1e-5)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)


def test_frozen_parameters_have_no_state_and_do_not_move() -> None:
    stage, engine = make()
    train_steps(stage, {"model": engine}, 0, 2, rank=0)
    assert "scale" not in engine.trainable
    assert stage.modules["model"].scale.item() == 0.5
    assert {key.rpartition("/")[0] for key in engine.named_state(0, 1)} == set(engine.trainable)


def test_every_parameter_has_one_owner() -> None:
    stage, engine = make()
    train_steps(stage, {"model": engine}, 0, 1, rank=0)
    shares = [engine.named_state(rank, 3) for rank in range(3)]
    assert all(shares)
    assert sorted(key for share in shares for key in share) == sorted(engine.named_state(0, 1))


def test_resume_is_exact() -> None:
    stage, engine = make()
    losses = train_steps(stage, {"model": engine}, 0, 2, rank=0)
    weights, state = engine.full_weights(), engine.named_state(0, 1)
    losses = train_steps(stage, {"model": engine}, 2, 4, rank=0)
    again_stage, again = make()
    again.module.load_state_dict(weights)
    again.load_state(state)
    assert train_steps(again_stage, {"model": again}, 2, 4, rank=0) == losses
    assert all(torch.equal(again.full_weights()[k], v) for k, v in engine.full_weights().items())


@pytest.mark.parametrize("kind", ["loss", "gradient"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stops_before_the_update(kind: str, value: float) -> None:
    stage, engine = make()
    before = engine.full_weights()
    batches = [batch_of([0, 1])]
    context = stage.prepare(batches, step=5)[0]
    output = engine(batches[0], context)
    if kind == "loss":
        engine._losses[-1] = torch.tensor(value)
        engine.backward(output.loss)
    else:
        engine.backward(output.loss * value)
    with pytest.raises(NotFiniteError, match=f"step 5: the {kind}") as raised:
        engine.step(1.0, step=5)
    assert "learning_rate" in raised.value.remedy
    assert all(torch.equal(before[k], v) for k, v in engine.full_weights().items())
    assert not engine.named_state(0, 1)
    assert all(parameter.grad is None for parameter in engine.trainable.values()), "the gradient is forgotten"


def test_clipping_and_rate() -> None:
    stage, engine = make(optim__max_grad_norm=1e-3, optim__weight_decay=0.0)
    batches = [batch_of([0, 1])]
    engine.backward(engine(batches[0], stage.prepare(batches, step=0)[0]).loss)
    assert engine.step(0.25, step=0) > 1e-3
    assert {group["lr"] for group in engine._optimizer.param_groups} == {0.25 * 0.01}


def test_state_of_other_parameters_is_refused() -> None:
    _, engine = make()
    with pytest.raises(CheckpointError, match=r"encoder\.gone") as raised:
        engine.load_state({"encoder.gone/exp_avg": torch.zeros(1)})
    assert "checkpoint.init_from" in raised.value.remedy
