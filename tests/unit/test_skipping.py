"""Updates that are not finite: stopped before, or left out, counted, written down and resumed exactly."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ray_jobs.training import loop
from ray_jobs.training.engines import build_engine
from ray_jobs.training.loop import train_loop
from ray_jobs.training.machine import WorkerContext
from ray_jobs.training.pulse import Pulse
from ray_jobs.training.skipping import SKIPPED, Skips
from ray_jobs.training.tracking import read_metrics
from setok import checkpoint
from setok.batch import ImageTextBatch, LossOutput, StepContext
from setok.checkpoint import OptimizerState, TrainerState
from setok.config import TrainConfig
from setok.errors import NotFiniteError
from setok.optim import learning_rate_factor
from tests import fakes


class Poisoned(fakes.TwoLayers):
    """Finds the loss of batches with one of these samples impossible, and counts its forward passes in a buffer."""

    def __init__(self, samples: set[str]) -> None:
        super().__init__()
        self.samples = samples
        self.register_buffer("average", torch.zeros(()))

    def forward(self, batch: ImageTextBatch, context: StepContext) -> LossOutput:
        output = super().forward(batch, context)
        factor = float("nan") if self.samples & set(batch.ids) else 1.0
        self.average.mul_(0.5).add_(factor * output.loss.detach())
        return replace(output, loss=output.loss * factor)


def run(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, samples: set[str], **changes: Any) -> TrainConfig:
    """Train in this process on the fake stage, poisoned by samples; the config."""

    def build_stage(config: TrainConfig) -> fakes.FakeStage:
        stage = fakes.build_stage(config)
        stage.modules = {**stage.modules, "model": Poisoned(samples)}
        return stage

    settings = {"checkpoint__every": 1, "checkpoint__keep": 20, "train__on_non_finite": "skip"}
    config = fakes.train_config(**settings | changes | {"name": name, "output_dir": str(folder)})
    monkeypatch.setattr(loop, "build_stage", build_stage)
    worker = fakes.worker_of(config)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    train_loop(config, worker)
    return config


def weights(config: TrainConfig, step: int) -> dict[str, Tensor]:
    module = Poisoned(set())
    checkpoint.load_model(checkpoint.folder_of(config.run_dir, step), module, "model")
    return dict(module.state_dict())


def optimizer(config: TrainConfig, step: int) -> dict[str, Tensor]:
    state = OptimizerState(checkpoint.folder_of(config.run_dir, step), "model")
    return {key: state[key] for key in state}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def skipped(config: TrainConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (config.run_dir / SKIPPED).read_text().splitlines()]


def test_a_step_that_is_left_out_changes_nothing_and_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run(
        tmp_path, "one", monkeypatch, {"18"}, train__ema_decay=0.5
    )  # in the second micro-batch of the third step
    assert same(weights(config, 2), weights(config, 3)), "neither the parameters nor the buffers move"
    assert same(optimizer(config, 2), optimizer(config, 3))
    averages = [checkpoint.read_average(checkpoint.folder_of(config.run_dir, step), "model") for step in (2, 3, 4)]
    assert same(averages[0], averages[1]) and not same(averages[1], averages[2])
    assert not same(weights(config, 3), weights(config, 4))
    assert all(value.isfinite().all() for value in weights(config, 8).values())
    (line,) = skipped(config)
    assert line["step"] == 3 and "the loss of the model is nan" in line["what"]
    assert line["micro_batches"][0] == {"rank": 0, "loss": None, "ids": ["18", "19"]}, "the guilty one comes first"
    assert sorted(i for part in line["micro_batches"] for i in part["ids"]) == [str(i) for i in range(16, 24)]
    logged = {row["step"]: row for row in read_metrics(config.run_dir)}
    assert [logged[step]["train/skipped_updates"] for step in (2, 3, 8)] == [0, 1, 1]
    assert "train/loss" in logged[2] and "train/loss" not in logged[3], "there is no loss to show"
    assert logged[3]["train/learning_rate"] < logged[2]["train/learning_rate"], "the schedule goes on"


def test_the_next_updates_are_those_of_a_run_that_never_had_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference starts at step 4 from weights and optimizer state as they were after step 2."""
    config = run(tmp_path, "one", monkeypatch, {"18"})
    steps = fakes.build_stage(config)
    steps.modules = {"model": Poisoned(set())}
    before = checkpoint.folder_of(config.run_dir, 2)
    module = steps.modules["model"]
    checkpoint.load_model(before, module, "model")
    engine = build_engine("model", module, steps.optimizer("model"), config, torch.device("cpu"))
    engine.load_state(OptimizerState(before, "model"))
    for step, batches in enumerate(fakes.FakeBatches(config, rank=0, start_step=3), start=3):
        for batch, context in zip(batches, steps.prepare(batches, step=step), strict=True):
            engine.backward(engine(batch, context).loss)
        engine.step(learning_rate_factor(step, config), step=step)
    assert same(dict(module.state_dict()), weights(config, 8))


def test_the_counters_go_on_over_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = {"8", "25", "33"}  # in steps 2, 4 and 5
    parts = run(tmp_path, "parts", monkeypatch, bad, train__steps=4, optim__schedule="constant")
    whole = run(tmp_path, "whole", monkeypatch, bad, optim__schedule="constant")
    run(tmp_path, "parts", monkeypatch, bad, optim__schedule="constant")
    assert same(weights(whole, 8), weights(parts, 8))
    assert [line["step"] for line in skipped(parts)] == [2, 4, 5]
    state = checkpoint.read_state(checkpoint.folder_of(parts.run_dir, 5))
    assert (state.counters["skipped"], state.counters["skipped_in_a_row"]) == (3, 2)
    assert checkpoint.read_state(checkpoint.folder_of(parts.run_dir, 6)).counters["skipped_in_a_row"] == 0
    # A run that is set back forgets what it is about to find again.
    for step in (4, 5, 6, 7, 8):
        shutil.rmtree(checkpoint.folder_of(parts.run_dir, step))
    run(tmp_path, "parts", monkeypatch, bad, optim__schedule="constant")
    assert [line["step"] for line in skipped(parts)] == [2, 4, 5]


@pytest.mark.parametrize(
    ("changes", "bad", "message", "last"),
    [
        ({"train__max_skipped": 1}, {"0", "24"}, r"one more than train\.max_skipped=1 allows", 3),
        ({"train__max_skipped_in_a_row": 1}, {"8", "16"}, r"one more than train\.max_skipped_in_a_row=1 allows", 2),
        ({"train__on_non_finite": "stop"}, {"16"}, r"step 2: the loss of the model is nan", 2),
    ],
)
def test_the_run_stops_where_no_more_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], bad: set[str], message: str, last: int
) -> None:
    with pytest.raises(NotFiniteError, match=rf"{message}[\s\S]*→[\s\S]*skipped\.jsonl"):
        run(tmp_path, "one", monkeypatch, bad, **changes)
    folder = tmp_path / "one"
    assert checkpoint.step_of(checkpoint.list_checkpoints(folder)[0]) == last
    lines = [json.loads(line) for line in (folder / SKIPPED).read_text().splitlines()]
    assert lines[-1]["micro_batches"][0]["loss"] is None, "the samples of the last one are there as well"


def test_a_discriminator_that_is_left_out_leaves_the_model_its_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = fakes.train_config(
        loss__adversarial=0.1, loss__adversarial_start_step=0, train__on_non_finite="skip", output_dir=str(tmp_path)
    )
    stage = fakes.build_stage(config)
    stage.modules = {"model": Poisoned(set()), "discriminator": Poisoned({"0"})}
    device = torch.device("cpu")
    engines = {n: build_engine(n, m, stage.optimizer(n), config, device) for n, m in stage.modules.items()}
    worker = WorkerContext(
        rank=0, world_size=1, local_world_size=1, device=device, batches=lambda start: None, report=lambda metrics: None
    )
    config.run_dir.mkdir(parents=True)
    skips = Skips.of(config, worker, TrainerState(step=0, samples=0, world_size=1))
    pulse = Pulse(config.run_dir, rank=0, world_size=1, device=device, stall_seconds=None)
    before = {name: {k: v.clone() for k, v in m.state_dict().items()} for name, m in stage.modules.items()}
    batches = next(iter(fakes.FakeBatches(config, rank=0, start_step=0)))
    contexts, seeds, outputs = stage.prepare(batches, step=0), loop.seeds_of(config, 0, 0), {}
    with skips.guard(0, engines, batches, outputs):
        for name, engine in engines.items():
            outputs[name] = loop.take_turn(engine, batches, contexts, seeds, pulse)
            engine.step(1.0, step=0)
    assert skips.total == 1
    assert not same(before["model"], dict(stage.modules["model"].state_dict()))
    assert stage.modules["model"].average != 0, "its statistics stay with its update"
    assert same(before["discriminator"], dict(stage.modules["discriminator"].state_dict()))
