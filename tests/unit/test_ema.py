"""The running average of the weights: the formula, an exact resume, and who uses it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ray_jobs.evaluation.tokenizer_replica import ReplicaTask, TokenizerReplica
from ray_jobs.training import loop
from ray_jobs.training.loop import train_loop
from setok import checkpoint
from setok.checkpoint import TrainerState
from setok.config import TrainConfig, build
from setok.ema import WeightAverage, decay_at
from setok.errors import CheckpointError, ConfigError
from setok.predictor import TokenizerPredictor
from setok.stages import build_stage
from tests import fakes
from tests.tiny import batch_of, pictures, tiny


def test_the_formula_by_hand() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    average = WeightAverage({"w": weight}, 0.5)
    expected = [1.0, -2.0]
    for step in range(12):
        with torch.no_grad():
            weight.add_(1.0)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = [decay * e + (1 - decay) * w for e, w in zip(expected, weight.tolist(), strict=True)]
        torch.testing.assert_close(average.state()["w"], torch.tensor(expected))
    assert [decay_at(0, 0.999), decay_at(8, 0.5), decay_at(10**6, 0.999)] == [0.1, 0.5, 0.999]
    assert not average.state()["w"].requires_grad


def test_an_average_of_other_weights_is_refused() -> None:
    average = WeightAverage({"a": torch.zeros(2), "b": torch.zeros(3)}, 0.9)
    with pytest.raises(CheckpointError, match=r"2 differ, such as b[\s\S]*checkpoint\.init_from"):
        average.load({"a": torch.zeros(2), "c": torch.zeros(3)})


def run(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The loop in this process on the fake stage; its last checkpoint."""
    monkeypatch.setattr(loop, "build_stage", fakes.build_stage)
    worker = fakes.worker_of(config)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    train_loop(config, worker)
    return checkpoint.folder_of(config.run_dir, config.train.steps)


def test_resume_is_exact_and_the_average_is_that_of_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def config(name: str, steps: int) -> TrainConfig:
        settings = {"train__ema_decay": 0.6, "train__steps": steps, "checkpoint__every": 1, "checkpoint__keep": 9}
        changes = settings | {"name": name, "output_dir": str(tmp_path), "optim__schedule": "constant"}
        return fakes.train_config(**changes)

    whole = run(config("whole", 6), monkeypatch)
    run(config("parts", 3), monkeypatch)
    parts = run(config("parts", 6), monkeypatch)
    one, other = (checkpoint.read_average(path, "model") for path in (whole, parts))
    stage = fakes.build_stage(config("whole", 6))
    learning = {name for name, p in stage.modules["model"].named_parameters() if p.requires_grad}
    assert one.keys() == other.keys() == learning, "what is frozen needs no average"
    for name in one:
        assert torch.equal(one[name], other[name]), name

    # By hand, from the raw weights of every step's checkpoint.
    torch.manual_seed(0)
    expected = dict(fakes.build_stage(config("whole", 6)).modules["model"].state_dict())
    for step in range(6):
        module = stage.modules["model"]
        checkpoint.load_model(checkpoint.folder_of(whole.parent.parent, step + 1), module, "model")
        decay = min(0.6, (1 + step) / (10 + step))
        expected = {k: decay * expected[k] + (1 - decay) * v for k, v in module.state_dict().items()}
    for name, average in one.items():
        torch.testing.assert_close(average, expected[name], msg=name)
        assert not torch.equal(average, stage.modules["model"].state_dict()[name]), name


def test_a_new_run_starts_from_the_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = {"output_dir": str(tmp_path), "train__steps": 2}
    first = run(fakes.train_config(name="first", train__ema_decay=0.9, **common), monkeypatch)
    settings = {"checkpoint__init_from": str(first), "optim__learning_rate": 1e-30, "optim__weight_decay": 0.0}
    second = run(fakes.train_config(name="second", **common, **settings), monkeypatch)
    module = fakes.TwoLayers()
    checkpoint.load_model(second, module, "model")
    average = checkpoint.read_average(first, "model")
    assert average
    for name, value in average.items():
        torch.testing.assert_close(module.state_dict()[name], value, msg=name)
    assert checkpoint.read_average(second, "model") == {}, "no average was asked for"


def test_inference_uses_it_unless_asked_for_raw_weights(tmp_path: Path) -> None:
    config = tiny(output_dir=str(tmp_path), train={"global_batch_size": 4, "micro_batch_size": 4, "ema_decay": 0.9})
    model = build_stage(config).modules["model"]
    bias = "tokenizer.detokenizer.to_pixels.bias"
    average = {name: p.detach() for name, p in model.named_parameters()}
    average[bias] = average[bias] + 0.125
    weights = {"model": checkpoint.copy_weights(model), "ema.model": average}
    state = TrainerState(step=1, samples=4, world_size=1)
    path = checkpoint.save(config.run_dir, config, weights, {"model": {}}, state)
    batch = batch_of(pictures(2))
    averaged, raw = (
        TokenizerPredictor.from_checkpoint(path, **kind).reconstruct(batch).pixels for kind in ({}, {"weights": "raw"})
    )
    inside = (raw > 0) & (raw < 0.8)
    assert inside.float().mean() > 0.3
    torch.testing.assert_close((averaged - raw)[inside], torch.full_like(raw, 0.125)[inside], atol=1e-5, rtol=0)
    common = {"path": str(path), "device": "cpu", "mean_image": None, "vocabulary": [], "drawn": frozenset()}
    task = ReplicaTask(weights="raw", sampling_steps=None, num_extremes=0, num_threads=1, **common)
    of_evaluation = TokenizerReplica(task).predictor.reconstruct(batch).pixels
    torch.testing.assert_close(of_evaluation, raw, atol=1e-4, rtol=0)  # another number of threads


def test_split_weights_are_refused() -> None:
    tree = {"name": "x", "data": {"train": [{"path": "d"}]}, "train": {"ema_decay": 0.99}}
    with pytest.raises(ConfigError, match=r"ema_decay=0\.99 .*zero_stage=3[\s\S]*deepspeed\.zero_stage=2"):
        build(TrainConfig, tree | {"deepspeed": {"zero_stage": 3}})
    for stage in (0, 1, 2):
        build(TrainConfig, tree | {"deepspeed": {"zero_stage": stage}})
    build(TrainConfig, tree | {"deepspeed": {"zero_stage": 3}, "scaling": {"engine": "torch"}})
