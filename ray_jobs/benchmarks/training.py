"""What a training step costs on the platform, beside the same step in a loop written by hand.

    python -m ray_jobs.benchmark training --workers 1,2

The platform's run is the command that anybody gives: Ray Train and Ray Data, DeepSpeed, its checks, logs and signs of life. The
other is ``ray_jobs/benchmarks/plain_training.py`` under torchrun. Both train the same model on the same scenes, in turn,
round after round. A run's figure is the median over its steps, start and first steps left out; of the rounds the median counts.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from ray_jobs import launch
from ray_jobs.benchmarks.fault_run import Run, end_well
from ray_jobs.benchmarks.files import ingested_scenes, write_figures
from ray_jobs.training.tracking import read_metrics
from setok.config import TrainConfig, dump_config, load_config
from setok.errors import ConfigError, TrainingError

log = logging.getLogger(__name__)

NUM_PICTURES = 256
LOG_EVERY, WARM_UP = 5, 4
"""Steps of a window, and windows at the start that do not count."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Seconds of a step, one number for each round."""

    workers: int
    platform: tuple[float, ...]
    plain: tuple[float, ...]
    waits: tuple[float, ...]
    """Share of its time for which the platform's loop waited for data."""

    @property
    def ratios(self) -> list[float]:
        """The platform's step over the plain one's, of runs that followed each other."""
        return [ours / theirs for ours, theirs in zip(self.platform, self.plain, strict=True)]

    @property
    def ratio(self) -> float:
        """Their median."""
        return statistics.median(self.ratios)


def measure(config: TrainConfig, workers: int, repeats: int) -> Figures:
    """Train in both ways, in turn."""
    platform: list[float] = []
    plain: list[float] = []
    waits: list[float] = []
    for number in range(repeats):
        named = config.model_copy(update={"name": f"{config.name}-{workers}-{number}"})
        scaling = config.scaling.model_copy(update={"num_workers": workers})
        run = named.model_copy(update={"scaling": scaling})
        # The one that goes first meets a machine that has rested.
        ways = [_platform, _plain] if number % 2 == 0 else [_plain, _platform]
        for way in ways:
            log.info("%d workers, round %d of %d: %s", workers, number + 1, repeats, way.__name__.strip("_"))
            step, wait = way(run, workers)
            (platform if way is _platform else plain).append(step)
            waits += [wait] if way is _platform else []
    return Figures(workers=workers, platform=tuple(platform), plain=tuple(plain), waits=tuple(waits))


def _platform(config: TrainConfig, workers: int) -> tuple[float, float]:
    """Seconds of a step, and the share for which it waited for data."""
    end_well(Run(config))
    lines = [line for line in read_metrics(config.run_dir) if "perf/step_seconds" in line][WARM_UP:]
    waits = [float(line["perf/data_wait_fraction"]) for line in lines]
    return statistics.median(float(line["perf/step_seconds"]) for line in lines), statistics.median(waits)


def _plain(config: TrainConfig, workers: int) -> tuple[float, float]:
    """Seconds of a step, and nothing known of its waiting.

    Raises:
        TrainingError: it ends badly.
    """
    file, seconds = (Path(config.output_dir) / f"{config.name}-plain{ending}" for ending in (".yaml", ".json"))
    file.write_text(dump_config(config), encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
    command = [*torchrun, "-m", "ray_jobs.benchmarks.plain_training", str(file), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TrainingError(f"the plain loop ended with {done.returncode}\n{done.stderr[-3000:]}")
    return statistics.median(json.loads(seconds.read_text())[WARM_UP:]), 0.0


def report(rows: Sequence[Figures]) -> Table:
    """For people."""
    table = Table(title="A training step on the platform, beside a loop written by hand")
    for column in ("workers", "platform", "by hand", "ratio", "of the rounds", "waits for data"):
        table.add_column(column, justify="right")
    for row in rows:
        seconds = (f"{1000 * statistics.median(way):.1f} ms" for way in (row.platform, row.plain))
        rounds = f"{min(row.ratios):.3f} to {max(row.ratios):.3f}"
        table.add_row(str(row.workers), *seconds, f"{row.ratio:.3f}", rounds, f"{statistics.median(row.waits):.1%}")
    return table


def training(arguments: argparse.Namespace) -> list[Figures]:
    """Measure, print and write the table.

    Raises:
        ConfigError: a number is not positive, too few steps, or the run has more than the tokenizer to train.
        TrainingError: a run ended badly.
    """
    workers = [int(number) for number in arguments.workers.split(",") if number.isdigit()]
    if not workers or len(workers) != len(arguments.workers.split(",")) or min(*workers, arguments.repeats) < 1:
        raise ConfigError(
            f"--workers {arguments.workers} --repeats {arguments.repeats} are not all positive numbers",
            "for example --workers 1,2 --repeats 3",
        )
    if arguments.steps < (least := LOG_EVERY * (WARM_UP + 2)):
        raise ConfigError(f"--steps {arguments.steps}: the first steps do not count", f"use --steps {least} or more")
    with tempfile.TemporaryDirectory(prefix="setok-benchmark-") as folder:
        config = run_of(arguments, Path(folder))
        rows = [measure(config, number, arguments.repeats) for number in workers]
    launch.console().print(report(rows))
    if arguments.output:
        figures = [asdict(row) | {"ratio": row.ratio} for row in rows]
        write_figures(arguments.output, {"config": arguments.config, "steps": arguments.steps, "rows": figures})
    return rows


def run_of(arguments: argparse.Namespace, folder: Path) -> TrainConfig:
    """The run that both do, on scenes that are drawn into the folder.

    Raises:
        ConfigError: it has more to train than the tokenizer.
    """
    fixed = {
        "name": "benchmark",
        "output_dir": str(folder),
        "data.train": json.dumps([{"path": str(folder / "data")}]),
        "train.steps": arguments.steps,
        "train.log_every": LOG_EVERY,
        "checkpoint.every": arguments.steps,
        "scaling.use_gpu": json.dumps(arguments.gpu),
    }
    overrides = [*arguments.set, *(f"{key}={value}" for key, value in fixed.items())]
    config = load_config(TrainConfig, arguments.config, overrides)
    if config.stage != "tokenizer" or config.loss.adversarial:
        raise ConfigError(
            f"--config {arguments.config} trains more than a tokenizer, which the plain loop does not",
            "a tokenizer's preset, with loss.adversarial=0",
        )
    ingested_scenes(folder, count=NUM_PICTURES, image_size=config.model.image_size)
    return config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``benchmark training``."""
    parser.add_argument("--config", default="tokenizer_demo", metavar="PRESET|FILE", help="default tokenizer_demo")
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="changes of it; may be repeated"
    )
    parser.add_argument("--workers", default="1", metavar="N,N…", help="numbers of workers (default 1)")
    parser.add_argument("--steps", type=int, default=120, help="steps of a run (default 120)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--gpu", action="store_true", help="a GPU for each worker")
    parser.add_argument("--output", type=Path, default=None, metavar="FILE", help="also write the figures as JSON")
