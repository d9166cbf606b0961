"""Feature distillation to a frozen copy of the encoder, and gradient checkpointing of the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from setok import checkpoint
from setok.checkpoint import TrainerState, copy_weights
from setok.config import TrainConfig
from setok.errors import CheckpointError, ConfigError
from setok.stages import TokenizerTask, build_stage, load_initial_weights
from tests.tiny import batch_of, pictures, tiny
from tests.towers import save_tower


def distilled(**changes: object) -> TrainConfig:
    return tiny(loss={"contrast": 0.0, "distillation": 3.0}, **changes)


def one_step(config: TrainConfig) -> tuple[TokenizerTask, Any]:
    stage = build_stage(config)
    batch = batch_of(pictures(4))
    model = stage.modules["model"].train()
    output = model(batch, stage.prepare([batch], step=0)[0])
    output.loss.backward()
    optimizer = stage.optimizer("model")
    optimizer.step()
    assert isinstance(model, TokenizerTask)
    return model, output


@pytest.mark.parametrize("family", ["vit", "siglip_vision", "dinov3"])
def test_the_copy_never_changes_and_pulls_the_encoder_back(tmp_path: Path, family: str) -> None:
    changes: dict[str, object] = {}
    if family != "vit":
        save_tower(family, tmp_path)
        encoder = {"kind": "huggingface", "path": str(tmp_path)}
        changes = {"model": {"image_size": 32, "encoder": encoder, "detokenizer": {"width": 48}}}
    torch.manual_seed(0)
    stage = build_stage(distilled(**changes))
    model = stage.modules["model"].train()
    assert isinstance(model, TokenizerTask)
    before = {n: p.clone() for n, p in model.teacher.named_parameters()}
    learning = {id(p) for group in stage.optimizer("model").param_groups for p in group["params"]}
    assert not learning & {id(p) for p in model.teacher.parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    batch = batch_of(pictures(4))
    parts = []
    for _ in range(3):
        (context,) = stage.prepare([batch], step=0)
        output = model(batch, context)
        parts.append(output.parts["distillation"].item())
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert parts[0] == pytest.approx(0, abs=1e-6), "the encoder starts as its copy"
    assert parts[1] > 1e-6
    assert not model.teacher.training
    for name, parameter in model.teacher.named_parameters():
        assert parameter.grad is None
        torch.testing.assert_close(parameter, before[name], rtol=0, atol=0)


def test_the_gradient_of_distillation_alone_reaches_the_encoder_alone() -> None:
    stage = build_stage(tiny(loss={"contrast": 0.0, "l1": 0.0, "l2": 0.0, "distillation": 1.0}))
    model = stage.modules["model"]
    with torch.no_grad():
        for parameter in model.tokenizer.encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    batch = batch_of(pictures(4))
    output = model(batch, stage.prepare([batch], step=0)[0])
    assert output.loss.item() == pytest.approx(output.parts["distillation"].item())
    output.loss.backward()
    for name, parameter in model.named_parameters():
        moved = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert moved == name.startswith("tokenizer.encoder."), name


def test_distillation_of_micro_batches_adds_up_to_the_batch() -> None:
    stage = build_stage(distilled())
    model = stage.modules["model"]
    with torch.no_grad():
        model.tokenizer.encoder.norm.weight.add_(torch.randn(48))
    images = pictures(4)
    whole, halves = [batch_of(images)], [batch_of(images[:1]), batch_of(images[1:])]
    sums = []
    for batches in (whole, halves):
        contexts = stage.prepare(batches, step=0)
        sums.append(sum(model(b, c).parts["distillation"] for b, c in zip(batches, contexts, strict=True)))
    torch.testing.assert_close(sums[0], sums[1])


def test_a_resumed_run_keeps_its_copy_and_a_new_one_starts_from_the_encoder_it_loads(tmp_path: Path) -> None:
    config = distilled()
    model, _ = one_step(config)
    state = TrainerState(step=1, samples=4, world_size=1)
    folder = checkpoint.save(tmp_path, config, {"model": copy_weights(model)}, {"model": {}}, state)

    resumed = build_stage(config).modules["model"]
    checkpoint.load_model(folder, resumed, "model")
    torch.testing.assert_close(resumed.teacher.state_dict(), model.teacher.state_dict(), rtol=0, atol=0)

    started = build_stage(config).modules["model"]
    load_initial_weights(folder, started, "model")
    learned = model.tokenizer.encoder.state_dict()
    torch.testing.assert_close(started.teacher.encoder.state_dict(), learned, rtol=0, atol=0)

    without = build_stage(tiny(loss={"contrast": 0.0})).modules["model"]
    load_initial_weights(folder, without, "model")
    torch.testing.assert_close(without.tokenizer.state_dict(), model.tokenizer.state_dict(), rtol=0, atol=0)
    with pytest.raises(CheckpointError, match=r"unexpected: teacher"):
        checkpoint.load_model(folder, without, "model")


def test_distilling_a_frozen_encoder_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss.distillation=3[\s\S]*→ set loss.distillation=0"):
        distilled(optim={"learning_rate_scale": {"encoder": 0.0}})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradient_checkpointing_changes_no_gradient(precision: str) -> None:
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        train = {
            "global_batch_size": 4,
            "micro_batch_size": 4,
            "precision": precision,
            "gradient_checkpointing": checkpointing,
        }
        stage = build_stage(tiny(train=train, loss={"distillation": 1.0, "feature_target": 1.0, "adversarial": 0.5}))
        batch = batch_of(pictures(4))
        model = stage.modules["model"].train()
        seen = []
        inside = model.tokenizer.merger.inter[0].norm
        inside.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        output = model(batch, stage.prepare([batch], step=0)[0])
        output.loss.backward()
        results.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None} | {"loss": output.loss})
        assert len(seen) == (2 if checkpointing else 1)
    torch.testing.assert_close(*results)
