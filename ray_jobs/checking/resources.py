"""Processors and GPUs of the cluster, beside what a run asks for."""

from __future__ import annotations

from collections.abc import Mapping

from ray_jobs.checking.findings import Finding, fail, ok, warn
from setok.config import TrainConfig


def needs(config: TrainConfig, num_workers: int) -> dict[str, float]:
    """What so many workers and the decoders take, by kind."""
    scaling, data = config.scaling, config.data
    return {
        "CPU": num_workers * scaling.cpus_per_worker + data.decode_workers * data.decode_cpus,
        "GPU": float(num_workers if scaling.use_gpu else 0),
    }


def check_resources(config: TrainConfig, available: Mapping[str, float]) -> list[Finding]:
    """Compare a training run with a cluster, or with this machine.

    Args:
        available: CPUs and GPUs, by kind.
    """
    if not config.scaling.num_workers:
        return [ok("resources", "scaling.num_workers=0: the run takes this process alone")]
    fewest, most = needs(config, config.scaling.min_workers), needs(config, config.scaling.max_workers)
    remedy = "lower scaling.num_workers, scaling.cpus_per_worker or data.decode_workers, or add nodes"
    for kind, amount in fewest.items():
        if amount > available.get(kind, 0.0) + 1e-6:
            text = f"the run needs {amount:g} {kind}s, and there are {available.get(kind, 0.0):g}"
            if config.scaling.wait_for_nodes:
                return [warn("resources", f"{text} now: it waits for nodes", "see that the cluster may grow so far")]
            return [fail("resources", text, remedy)]
    for kind, amount in most.items():
        if amount > available.get(kind, 0.0) + 1e-6:
            text = f"scaling.num_workers of up to {config.scaling.max_workers} need {amount:g} {kind}s, and there are"
            return [warn("resources", f"{text} {available.get(kind, 0.0):g}: the run starts with fewer", remedy)]
    told = ", ".join(f"{amount:g} of {available[kind]:g} {kind}s" for kind, amount in most.items() if amount)
    return [ok("resources", f"the run takes {told}")]
