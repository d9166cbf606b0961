"""What a run needs before it is started: memory, time, data, money, and whether a cluster can run it.

    python -m ray_jobs.plan --config paper_pretrain --nodes 8xh100:8
    python -m ray_jobs.plan --config instruct                      # on this machine
    python -m ray_jobs.plan --config pipeline.yaml --cluster       # on the Ray that RAY_ADDRESS names

Nothing is started or downloaded, and the weights need not be here. Exit code 0: it fits; 2: it does not, or the config is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from ray_jobs import launch
from ray_jobs.command_line import Parser, overrides_of
from ray_jobs.launch import console
from setok.config import (
    EvaluateConfig,
    Job,
    PipelineConfig,
    ServeConfig,
    TrainConfig,
    TuneConfig,
    load_any_config,
)
from setok.errors import ConfigError

DOES_NOT_FIT = 2


def main(argv: Sequence[str] | None = None) -> None:
    """The command.

    Raises:
        ConfigError: the config or the description of the cluster is wrong.
        CheckpointError: an architecture is neither here nor known.
        SystemExit: with 2, if a part of the job does not fit.
    """
    given = _arguments(argv)
    config = load_any_config(given.config, overrides_of(given))
    jobs = _parts(config)

    from ray_jobs.planning.cluster import running_cluster  # with torch, which a wrong config need not wait for
    from ray_jobs.planning.samples import RealBatches
    from ray_jobs.planning.table import as_json, show, show_serving, show_total
    from setok.planning import (
        Traces,
        estimate,
        load_hardware,
        parse_nodes,
        serving_fits,
        serving_memory,
        suggest,
        this_machine,
    )

    hardware = load_hardware(given.prices)
    if given.nodes:
        cluster = parse_nodes(given.nodes, hardware)
    elif given.cluster:
        launch.start_ray()
        cluster = running_cluster(hardware)
    else:
        cluster = this_machine()
    told: list[dict[str, Any]] = []
    plans = []
    for job in jobs:
        if isinstance(job, TrainConfig):
            traces = Traces(RealBatches())
            plan = estimate(job, cluster, hardware, traces)
            plans.append(plan)
            suggestion = None if plan.fits else suggest(job, cluster, hardware, traces)
            told.append(as_json(plan, suggestion))
            if not given.json:
                show(console(), plan, hardware, suggestion)
        else:
            memory = serving_memory(job)
            fit = serving_fits(memory, cluster, hardware)
            told.append({"name": job.name, "fits": fit[2], "memory": vars(memory) | {"total": memory.total}})
            if not given.json:
                show_serving(console(), job.name, memory, fit)
    if len(plans) > 1 and not given.json:
        show_total(console(), plans)
    if given.json:
        sys.stdout.write(json.dumps(told if len(told) > 1 else told[0], indent=2) + "\n")
    if not all(part["fits"] for part in told):
        raise SystemExit(DOES_NOT_FIT)


def _parts(config: Job) -> list[TrainConfig | ServeConfig | EvaluateConfig]:
    """The parts of a job that need machines worth planning."""
    if isinstance(config, (TrainConfig, ServeConfig, EvaluateConfig)):
        return [config]
    if isinstance(config, PipelineConfig):
        return [run for run in (config.tokenizer, config.pretrain, config.instruct) if run is not None]
    if isinstance(config, TuneConfig):
        raise ConfigError(
            f"{config.name} is a sweep, and its trials differ",
            "plan one of them: --config with what stands in its section train",
        )
    raise ConfigError(
        f"{config.name} is a job of kind {type(config).model_fields['job'].default}, whose needs do not depend on a model",
        "give the config of a train, pipeline, serve or evaluate job",
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("ray_jobs.plan", __doc__)
    parser.add_config()
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--nodes",
        nargs="+",
        metavar="TYPE:NUMBER",
        help="a cluster, for example 8xh100:4 cpu16:2; types are those of --prices",
    )
    where.add_argument("--cluster", action="store_true", help="the Ray that is running (RAY_ADDRESS)")
    parser.add_argument(
        "--prices", metavar="FILE", help="node types, prices and assumptions in place of those that ship"
    )
    parser.add_argument("--json", action="store_true", help="for programs: bytes, seconds, dollars")
    return parser.parse_args(argv)


if __name__ == "__main__":
    launch.run(main)
