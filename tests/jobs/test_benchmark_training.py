"""The benchmark of the loop: the one written by hand learns the same, and the figures are those of the runs."""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import sys
from pathlib import Path

import pytest

from ray_jobs import benchmark
from ray_jobs.benchmarks import training as benchmark_training
from ray_jobs.benchmarks.fault_run import small_run
from ray_jobs.train import train
from ray_jobs.training.tracking import read_metrics
from setok.config import TrainConfig, dump_config, load_config
from setok.errors import ConfigError
from tests.ranks import run_ranks
from tests.squares import write_set

LOSSES = "losses.json"


def small(data: Path, output: Path) -> TrainConfig:
    """Every step is one micro-batch, whose loss is that of the step."""
    steps = {"steps": 8, "global_batch_size": 8, "micro_batch_size": 8, "ema_decay": 0.0, "deterministic": False}
    return small_run(data, output, "small", train=steps, scaling={"num_workers": 0}, deepspeed={"zero_stage": 0})


def test_by_hand_it_learns_the_same(tmp_path: Path) -> None:
    config = small(write_set(tmp_path / "data"), tmp_path)
    (tmp_path / "small.yaml").write_text(dump_config(config))
    run_ranks(__file__, tmp_path, world=1)
    expected = [line["train/loss"] for line in read_metrics(train(config))]
    assert len(expected) == 8 and expected[-1] < expected[0]
    assert json.loads((tmp_path / LOSSES).read_text()) == pytest.approx(expected, rel=1e-4)


def by_hand(folder: Path) -> None:
    """The plain loop on the batches of ours, in a process of its own; its losses."""
    import torch
    import torch.distributed as dist

    from ray_jobs.benchmarks import plain_training
    from ray_jobs.training.batches import local_batches

    config = load_config(TrainConfig, folder / "small.yaml")
    losses: list[float] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            losses.append(record.args[1])  # type: ignore[index, arg-type]

    plain_training.log.setLevel(logging.INFO)
    plain_training.log.addHandler(Keep())
    plain_training.loader = lambda config, rank: itertools.chain.from_iterable(local_batches(config, start_step=0))  # type: ignore[assignment, return-value]
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
    assert len(plain_training.train(config, torch.device("cpu"))) == config.train.steps
    dist.destroy_process_group()
    (folder / LOSSES).write_text(json.dumps(losses))


def test_a_round_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(benchmark_training, "ingested_scenes", lambda folder, **_: write_set(folder / "data"))
    file, figures = tmp_path / "small.yaml", tmp_path / "figures.json"
    file.write_text(dump_config(small(write_set(tmp_path / "data"), tmp_path)))
    numbers = ["--steps", "30", "--repeats", "1", "--set", "scaling.cpus_per_worker=0.5", "--output", str(figures)]
    benchmark.main(["training", "--config", str(file), *numbers])
    (row,) = json.loads(figures.read_text())["rows"]
    assert row["workers"] == 1
    assert row["ratio"] == pytest.approx(row["platform"][0] / row["plain"][0]) and row["ratio"] > 0
    assert "by hand" in capsys.readouterr().out


def test_the_ways_take_turns_in_going_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called = []

    def way(name: str, seconds: float, config: TrainConfig, workers: int) -> tuple[float, float]:
        called.append(name)
        assert config.scaling.num_workers == workers
        return seconds * (1 + len(called)), 0.25

    def named(name: str, seconds: float) -> object:
        made = lambda config, workers: way(name, seconds, config, workers)  # noqa: E731 - it has a name of its own
        made.__name__ = name
        return made

    monkeypatch.setattr(benchmark_training, "_platform", named("_platform", 3.0))
    monkeypatch.setattr(benchmark_training, "_plain", named("_plain", 2.0))
    figures = benchmark_training.measure(small(tmp_path, tmp_path), 2, 3)
    assert called == ["_platform", "_plain", "_plain", "_platform", "_platform", "_plain"]
    assert figures.platform == (6.0, 15.0, 18.0) and figures.plain == (6.0, 8.0, 14.0)
    assert figures.ratio == pytest.approx(18 / 14) and figures.waits == (0.25,) * 3


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--workers", "1,x"], "positive"),
        (["--repeats", "0"], "positive"),
        (["--steps", "10"], "--steps 30"),
        (["--config", "instruct_demo"], "more than a tokenizer"),
        (["--set", "loss.adversarial=0.5"], "more than a tokenizer"),
    ],
)
def test_what_cannot_be_measured_is_refused(given: list[str], told: str) -> None:
    parser = argparse.ArgumentParser()
    benchmark_training.add_arguments(parser)
    with pytest.raises(ConfigError, match=told):
        benchmark_training.training(parser.parse_args(given))


if __name__ == "__main__":
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    by_hand(Path(sys.argv[1]))
