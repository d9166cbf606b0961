"""Checkpoints that are evaluated during training: the figures, where they are logged, and what must not hinder the training."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.evaluate import evaluate
from ray_jobs.evaluation.here import flat, measure_here
from ray_jobs.train import train
from ray_jobs.training import validating
from ray_jobs.training.tracking import read_metrics
from setok import checkpoint
from setok.checkpoint import Evaluations
from setok.config import EvaluateConfig, TrainConfig, build
from setok.data.schema import Manifest
from setok.data.shards import write_shard
from setok.data.word_tokenizer import texts_of_set
from setok.errors import ConfigError, DataError
from tests.sequences import setok_config
from tests.setokim_runs import write_run
from tests.squares import records


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight records of every task; every question has its answer among ``answers`` too."""
    folder = tmp_path_factory.mktemp("squares")
    made = [replace(r, answers=[r.conversation[-1].text]) if r.task == "vqa" else r for r in records()]
    shard = write_shard(folder / "shard.parquet", made)
    assert shard is not None
    Manifest(shards=[shard], records_by_source={"s": len(made)}, quarantined_by_reason={}).save(folder)
    return folder


def config_of(squares: Path, output: Path, **changes: Any) -> TrainConfig:
    """A tokenizer's run of six steps with a checkpoint every second one."""
    tree: dict[str, Any] = {
        "name": "run",
        "output_dir": str(output),
        "model": setok_config().model_dump(),
        "data": {"train": [{"path": str(squares)}], "steps_per_block": 2, "decode_workers": 1},
        "train": {"steps": 6, "global_batch_size": 4, "micro_batch_size": 4, "log_every": 1, "threads_per_worker": 1},
        "scaling": {"num_workers": 0, "cpus_per_worker": 0.5},
        "checkpoint": {"every": 2, "keep": 3},
        "validation": {"data": str(squares), "limit": 12, "batch_size": 8},
    }
    for key, value in changes.items():
        tree[key] = tree[key] | value if isinstance(tree.get(key), dict) and isinstance(value, dict) else value
    return build(TrainConfig, tree)


def evaluated(run: Path) -> dict[int, dict[str, float]]:
    """What ``metrics.jsonl`` has under ``eval/``, by step; every step is there once, in order."""
    lines = read_metrics(run)
    steps = [int(line["step"]) for line in lines]
    assert steps == sorted(set(steps))
    found = {int(line["step"]): {k: v for k, v in line.items() if k.startswith("eval/")} for line in lines}
    return {step: metrics for step, metrics in found.items() if metrics}


def asked(squares: Path, output: Path, path: Path) -> EvaluateConfig:
    tree = {"name": "again", "output_dir": str(output), "checkpoint": str(path), "data": str(squares), "limit": 12}
    return build(EvaluateConfig, tree | {"batch_size": 8, "references": False, "num_threads": 1})


# ---------------------------------------------------------------- figures


def test_figures_are_those_of_the_evaluate_job(squares: Path, tmp_path: Path, ray_local: None) -> None:
    run = train(config_of(squares, tmp_path))
    found = evaluated(run)
    assert set(found) == {2, 4, 6}
    for step, metrics in found.items():
        path = checkpoint.folder_of(run, step)
        if step == 6:
            figures = evaluate(asked(squares, tmp_path, path))
            expected = {k: v for k, v in flat(figures, "eval") if not k.startswith("eval/run/")}
            assert metrics == pytest.approx(expected, rel=1e-4)  # other numbers of threads sum in another order
        assert metrics["eval/num_images"] == 12
    assert found[2]["eval/psnr"] != found[6]["eval/psnr"]
    events = list((run / "tensorboard").glob("events*"))
    assert any(b"eval/psnr" in file.read_bytes() for file in events)


def test_figures_of_setokim_are_those_of_the_evaluate_job(squares: Path, tmp_path: Path, ray_local: None) -> None:
    run = write_run(tmp_path, " ".join(texts_of_set(squares)), sequence__max_length=120)
    config = asked(squares, tmp_path, run).model_copy(update={"limit": 8, "max_new_tokens": 3})
    figures = evaluate(config)
    tasks = ("vqa", "caption", "segment", "generate", "edit")
    here = measure_here(config)
    assert set(here) == {*tasks, "num_skipped"}
    for task in tasks:
        assert dict(flat(here[task], task)) == pytest.approx(dict(flat(figures[task], task)), rel=1e-4), task


# ---------------------------------------------------------------- in the process itself


def test_training_is_the_same_with_and_without(squares: Path, tmp_path: Path) -> None:
    with_it = train(config_of(squares, tmp_path / "with"))
    without = train(config_of(squares, tmp_path / "without", validation=None))
    assert evaluated(without) == {}
    names = [checkpoint.folder_of(run, 6) / checkpoint.MODEL for run in (with_it, without)]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_a_restart_repeats_no_evaluation_and_loses_none(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked_for = validating.validate_checkpoint, []

    def counted(config: TrainConfig, step: int) -> dict[str, float]:
        asked_for.append(step)
        if step == 4 and asked_for.count(4) == 1:
            raise KeyboardInterrupt  # the process ends in the middle of an evaluation
        return real(config, step)

    monkeypatch.setattr(validating, "validate_checkpoint", counted)
    config = config_of(squares, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert set(evaluated(config.run_dir)) == {2}
    train(config)
    assert asked_for == [2, 4, 4, 6]
    assert set(evaluated(config.run_dir)) == {2, 4, 6}
    train(config)  # is finished, and everything is known
    assert asked_for == [2, 4, 4, 6]
    os.remove(config.run_dir / "evaluations" / "step_00000006.json")
    train(config)  # is finished, and the last evaluation is not
    assert asked_for == [2, 4, 4, 6, 6]


def test_an_evaluation_that_fails_is_told_and_goes_by(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(config: TrainConfig, step: int) -> dict[str, float]:
        raise DataError(f"nothing to see in step {step}")

    monkeypatch.setattr(validating, "validate_checkpoint", broken)
    with caplog.at_level(logging.WARNING):
        run = train(config_of(squares, tmp_path))
    assert checkpoint.newest_good(run) == checkpoint.folder_of(run, 6)
    assert "step 4 is not evaluated: nothing to see in step 4" in caplog.text
    assert evaluated(run) == {}
    known = Evaluations(run).read(4)
    assert known is not None and (known.state, known.reason) == ("failed", "nothing to see in step 4")


def test_the_best_is_the_best_of_what_was_evaluated(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worth = {2: 1.0, 4: 3.0, 6: 2.0, 8: 0.5}
    monkeypatch.setattr(validating, "validate_checkpoint", lambda config, step: {"eval/psnr": worth[step]})
    keep = {"every": 2, "keep": 1, "keep_best": 1, "best_metric": "eval/psnr", "best_is": "highest"}
    run = train(config_of(squares, tmp_path, checkpoint=keep, train={"steps": 8}))
    assert sorted(map(checkpoint.step_of, checkpoint.list_checkpoints(run))) == [4, 8]
    assert checkpoint.step_of(checkpoint.resolve(f"{run}@best")) == 4


# ---------------------------------------------------------------- what is refused


def test_settings_that_are_wrong(squares: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"best_metric=eval/psnr(.|\n)*validation.data"):
        config_of(squares, tmp_path, validation=None, checkpoint={"keep_best": 1, "best_metric": "eval/psnr"})
    with pytest.raises(ConfigError, match=r"'vqa'(.|\n)*stage=tokenizer"):
        config_of(squares, tmp_path, validation={"tasks": ["vqa"]})
    with pytest.raises(ConfigError, match=r"validation.references=.*(.|\n)*leave validation.references out"):
        config_of(squares, tmp_path, validation={"references": str(squares)})
    with pytest.raises(DataError, match=r"nowhere' does not exist(.|\n)*ray_jobs.ingest"):
        train(config_of(squares, tmp_path, validation={"data": str(tmp_path / "nowhere")}))


# ---------------------------------------------------------------- beside the training, on Ray


def on_ray(squares: Path, output: Path, *, wait_for_nodes: bool = False, **changes: Any) -> TrainConfig:
    scaling = {"num_workers": 1, "max_failures": 0, "engine": "torch", "wait_for_nodes": wait_for_nodes}
    return config_of(squares, output, scaling=scaling, **changes)


def test_beside_a_training_on_ray(
    squares: Path, tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One evaluation's process is killed, and one is right: the training ends well, and what was measured is logged."""
    monkeypatch.setattr(validating, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(validating, "validate_checkpoint", killed_in_step(4, validating.validate_checkpoint))
    with caplog.at_level(logging.WARNING):
        run = train(on_ray(squares, tmp_path))
    states = {step: known.state for step in (2, 4, 6) if (known := Evaluations(run).read(step)) is not None}
    assert states == {2: "done", 4: "failed", 6: "done"}
    assert "the checkpoint of step 4 is not evaluated" in caplog.text
    found = evaluated(run)
    assert set(found) == {2, 6}
    assert found[6]["eval/psnr"] > 0
    here = validating.validate_checkpoint.__wrapped__(on_ray(squares, tmp_path), 6)  # type: ignore[attr-defined]
    assert found[6] == pytest.approx(here, rel=1e-4)


def killed_in_step(fatal: int, real: Callable[..., dict[str, float]]) -> Callable[..., dict[str, float]]:
    def validate(config: TrainConfig, step: int) -> dict[str, float]:
        if step == fatal:
            os.kill(os.getpid(), signal.SIGKILL)  # what a machine does when its memory is full
        return real(config, step)

    validate.__wrapped__ = real  # type: ignore[attr-defined]
    validate.__module__ = "__main__"  # travels to Ray's process by value
    return validate


def test_a_cluster_without_room_is_told_of_and_hinders_nothing(
    squares: Path, tmp_path: Path, ray_local: None, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match="validation beside the run needs 64 CPUs"):
        train(on_ray(squares, tmp_path, validation={"cpus": 64.0}))
    with caplog.at_level(logging.WARNING):  # the workers have their node; that of the validation may come, or never
        run = train(on_ray(squares, tmp_path, wait_for_nodes=True, validation={"cpus": 64.0}))
    assert checkpoint.newest_good(run) == checkpoint.folder_of(run, 6)
    assert caplog.text.count("validation needs 64 CPUs") == 1
    assert evaluated(run) == {}
    later = on_ray(squares, tmp_path)  # with less: what was left is made up for
    train(later)
    assert {6} <= set(evaluated(run))
    assert json.loads((run / "evaluations" / "step_00000006.json").read_text())["state"] == "done"
    shutil.rmtree(run)
